"""The state is a value: the law's test, with code that breaks it on purpose; and constant memory."""

import gc
import os
import weakref
from pathlib import Path

import pytest
import torch
from support import checks_stream
from support.checks_stream import begin, run
from support.pack import Pack

PACK = Pack()


def _absorb_in_place(model, absorb):
    """A wrong absorb: adds to the old memory's own tensors, as the original's caches do."""

    def wrong(*args, memory=None, **options):
        after = absorb(*args, memory=memory, **options)
        if memory is None or not hasattr(memory[0], "vk"):
            return after
        for old, new in zip(memory, after, strict=True):
            old.vk.copy_(new.vk)
        return tuple(new._replace(vk=old.vk) for old, new in zip(memory, after, strict=True))

    return wrong


def test_writing_in_place_is_noticed(monkeypatch):
    kind = PACK.core("transformer.model").SanaVideo
    right = kind.absorb

    def wrong(self, *args, **options):
        return _absorb_in_place(self, lambda *a, **o: right(self, *a, **o))(*args, **options)

    monkeypatch.setattr(kind, "absorb", wrong)
    for check in (checks_stream.untouched, checks_stream.branches):
        with pytest.raises(AssertionError):
            check(PACK)


def test_shells_cannot_be_changed():
    model = PACK.tiny_model()
    state = run(PACK, model, begin(PACK, model))
    for owner, name in (
        (state, "scene"),
        (state.identity, "rows"),
        (state.history[0], "seed"),
        (state.memory[0], "vk"),
    ):
        with pytest.raises(AttributeError):
            setattr(owner, name, getattr(owner, name))


def _resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="resident memory is read from /proc")
def test_sixty_chunks_take_no_more_memory_than_their_history():
    """Memory bytes constant, no old state or memory kept alive, the process flat beyond the history."""
    model = PACK.tiny_model(depth=1)
    grid = {"height": 96, "width": 128}
    state = run(PACK, model, begin(PACK, model, **grid), plan=(2,), steps=1)
    seen: dict[int, weakref.ref] = {}
    sizes, resident = [], []
    gc.freeze()  # or every collection below looks at all that the session has imported
    for _ in range(60):
        old_sums = weakref.ref(state.memory_before[0].vk) if state.memory_before else None
        state = run(PACK, model, state, plan=(2,), steps=1)
        # sums and tails, not the history
        memories = state.tensors()[: -len(state.story_tensors())]
        seen |= {id(t): weakref.ref(t) for t in memories}
        del memories
        gc.collect()
        assert old_sums is None or old_sums() is None, "the memory before the last one is still alive"
        sizes.append(state.bytes)
        resident.append(_resident_bytes())
    assert len(set(sizes)) == 1
    alive = sum(reference() is not None for reference in seen.values())
    assert alive == 6, f"{alive} tensors of memories are alive; two memories of one block have 6"
    history = sum(chunk.latents.nbytes for chunk in state.history[-40:])
    growth = resident[-1] - resident[19]
    assert growth < history + 2 * 2**20, f"{growth} bytes more after 40 chunks whose history takes {history}"


def test_tails_own_their_memory():
    model = PACK.tiny_model()
    state = run(PACK, model, begin(PACK, model), plan=(3,))
    for tensor in state.tensors():
        assert tensor.untyped_storage().nbytes() == tensor.nbytes


def test_noise_is_not_kept():
    model = PACK.tiny_model()
    state = run(PACK, model, begin(PACK, model), plan=(3,))
    assert not any(isinstance(getattr(state, name), torch.Generator) for name in type(state).__slots__)


def test_frames_from_a_chunk_on_and_seconds():
    """Scenes of (3, 2) and (2, 2) latent frames: 17 and 13 frames, each scene with its own first frame."""
    model = PACK.tiny_model(depth=1)
    state = run(PACK, model, begin(PACK, model), "a", plan=(3, 2), steps=1)
    state = run(PACK, model, state, "b", plan=(2, 2), steps=1, on_prompt_change="cut")
    assert [state.frames_from(chunk) for chunk in range(5)] == [17 + 13, 8 + 13, 13, 8, 0]
    assert state.frames == 30
    assert state.seconds == 30 / 16
    empty = begin(PACK, model)
    assert (empty.frames, empty.frames_from(0), empty.seconds) == (0, 0, 0)
