"""A memory that is made again by absorbing the history has the same bits as the one of sampling."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from comfyui_sana_video.sana_video_core.callbacks import Callbacks
from comfyui_sana_video.sana_video_core.errors import Cancelled, StateError
from comfyui_sana_video.sana_video_core.streaming import rebuild as rebuilding
from comfyui_sana_video.sana_video_core.streaming.rebuild import MemoryCache, memory_names, rebuild
from comfyui_sana_video.sana_video_core.streaming.state import LightState, StreamState
from comfyui_sana_video.sana_video_core.streaming.state_file import load_state, save_state
from support.checkpoint_files import refusal
from support.checks_stream import assert_same_state, begin, prompt, run
from support.pack import ROOT, Pack

PACK = Pack()


@pytest.fixture(scope="module")
def model():
    return PACK.tiny_model()


def _recached(model, **size):
    state = run(PACK, model, begin(PACK, model, **size), "a", plan=(3, 2))
    state = run(PACK, model, state, "b", plan=(2, 2))
    return run(PACK, model, state, "c", plan=(2,), on_prompt_change="keep")


def _primed(model):
    latents = torch.randn(1, 16, 12, 4, 6, generator=torch.Generator().manual_seed(3))
    state = PACK.core("streaming.stream").prime(model, begin(PACK, model), prompt(PACK, "p"), latents)
    return run(PACK, model, state, "b", plan=(2,))


HISTORIES = {
    "recache in the middle, then keep": _recached,
    "a recache at the end": lambda model: run(PACK, model, run(PACK, model, begin(PACK, model)), "b"),
    "one chunk": lambda model: run(PACK, model, begin(PACK, model)),
    "a window": lambda model: _recached(model, window=1),
    "a batch": lambda model: _recached(model, batch=2),
    "primed": _primed,
    "after a cut": lambda model: run(PACK, model, _recached(model), "d", plan=(2, 2), on_prompt_change="cut"),
}


@pytest.mark.parametrize("name", HISTORIES)
def test_a_rebuilt_state_is_the_sampled_one(model, name, tmp_path):
    """By way of a file, which holds the history only."""
    whole = HISTORIES[name](model)
    save_state(whole.light(), tmp_path / "s.safetensors")
    light = load_state(tmp_path / "s.safetensors")
    assert type(light) is LightState
    assert light.frames == whole.frames
    state = rebuild(model, light)
    assert_same_state(state, whole)
    for text in ("a", "new"):
        assert_same_state(run(PACK, model, state, text), run(PACK, model, whole, text))


def test_padding_decides_nothing(model):
    """So an embedding whose padding is zeroed rebuilds what was sampled with any."""
    text = prompt(PACK, "a")
    loud = replace(text, embeddings=text.embeddings.masked_fill(~text.mask[:, :, None], 1e3))
    extend, sampling = PACK.core("streaming.stream").extend, PACK.core("streaming.stream").Sampling(steps=2)
    one, other = (
        list(extend(model, begin(PACK, model), each, sampling, plan=(2,)))[-1] for each in (text, loud)
    )
    assert_same_state(one, other)
    assert torch.equal(one.history[0].text.embeddings, text.embeddings * text.mask[:, :, None])


def _absorbs(model, monkeypatch) -> list[int]:
    """The first frame of every pass that absorbs, from now on."""
    seen, absorb = [], type(model).absorb

    def counted(self, *args, **options):
        seen.append(options["first_frame"])
        return absorb(self, *args, **options)

    monkeypatch.setattr(type(model), "absorb", counted)
    return seen


def test_it_begins_at_the_newest_memory_that_is_known(model, monkeypatch):
    early = run(PACK, model, begin(PACK, model), "a", plan=(3, 2))
    whole = run(PACK, model, early, "b", plan=(2, 2))
    seen = _absorbs(model, monkeypatch)
    assert_same_state(rebuild(model, whole.light()), whole)
    assert seen == [0, 3, 3, 5, 7]  # the second 3 is the recache
    seen.clear()
    assert_same_state(rebuild(model, whole.light(), base=early), whole)
    assert seen == [3, 5, 7]
    seen.clear()
    shelf = MemoryCache()
    assert_same_state(rebuild(model, whole.light(), base=early, shelf=shelf), whole)
    assert_same_state(rebuild(model, whole.light(), shelf=shelf), whole)
    assert seen == [3, 5, 7]
    longer = run(PACK, model, whole, "c", plan=(2,))
    seen.clear()
    assert_same_state(rebuild(model, longer.light(), shelf=shelf), longer)
    assert seen == [7, 9]
    other = run(PACK, model, begin(PACK, model), "z", plan=(3, 2))
    assert_same_state(rebuild(model, whole.light(), base=other), whole)  # no moment of this story
    after_cut = HISTORIES["after a cut"](model)
    before_cut = HISTORIES["recache in the middle, then keep"](model)
    assert_same_state(rebuild(model, after_cut.light(), base=before_cut), after_cut)  # another scene's memory


def test_a_whole_state_comes_back_as_it_is(model, monkeypatch):
    whole = run(PACK, model, begin(PACK, model))
    seen = _absorbs(model, monkeypatch)
    assert rebuild(model, whole) is whole
    assert rebuild(model, whole.light().with_cut()).memory is None
    assert not seen


def test_names_of_memories_depend_on_all_that_decides_them(model):
    whole = _recached(model).light()
    names = memory_names(whole)
    assert len(names) == len(set(names)) == 5
    first = whole.history[0]
    changes = [
        {"latents": first.latents + 1},
        {"entry": "keep"},
        {"text": first.text._replace(content="x")},
        {"weights": "x"},
        {"compute": "x"},
    ]
    for change in changes:
        other = replace(whole, history=(replace(first, **change), *whole.history[1:]))
        assert not set(names) & set(memory_names(other)), change
    other = replace(whole, identity=replace(whole.identity, window=3))
    assert not set(names) & set(memory_names(other))
    same = replace(whole, history=tuple(replace(chunk, seed=1, prompt="x") for chunk in whole.history))
    assert memory_names(same) == names


def test_only_the_model_that_made_a_chunk_can_absorb_it_again(model):
    whole = run(PACK, model, begin(PACK, model), loras=("style 0.5",))
    model.loras = ()
    assert "LoRA style 0.5" in refusal(lambda: rebuild(model, whole.light()), StateError)
    old = replace(whole, history=(replace(whole.history[0], entry=None),)).light()
    assert "older state file" in refusal(lambda: rebuild(model, old), StateError)
    assert "was made by the model" in refusal(lambda: rebuild(PACK.tiny_model(seed=9), old), StateError)


def test_a_rebuild_can_be_stopped(model):
    light = _recached(model).light()
    with pytest.raises(Cancelled):
        rebuild(model, light, callbacks=Callbacks(cancelled=lambda: True))


def test_the_shelf_is_bounded(model):
    state = run(PACK, model, begin(PACK, model))
    memories = rebuilding.Memories(state.memory, state.memory_before)
    size = state.bytes
    shelf = MemoryCache(most=2 * size)
    for name in "abc":
        shelf.put(name, memories)
    assert [name for name in "abc" if shelf.get(name)] == ["b", "c"]
    shelf.get("b")
    shelf.put("d", memories)
    assert [name for name in "abcd" if shelf.get(name)] == ["b", "d"]
    tight = MemoryCache(most=1)
    tight.put("a", memories)
    assert tight.get("a") is memories


def test_a_light_state_of_an_older_file_is_refused(model, tmp_path):
    whole = run(PACK, model, begin(PACK, model))
    old = replace(whole, history=(replace(whole.history[0], entry=None, text=None),))
    message = refusal(lambda: save_state(old.light(), tmp_path / "s.safetensors"), StateError)
    assert "Save everything" in message
    assert not list(tmp_path.iterdir())
    save_state(old, tmp_path / "whole.safetensors")
    assert isinstance(load_state(tmp_path / "whole.safetensors"), StreamState)


def test_a_file_of_format_1_loads_and_goes_on_to_the_same_bits(tmp_path):
    """Written by the version before format 2: chunks of 2 and 1 latent frames under “a”, 1 under “b”."""
    small = PACK.tiny_model(heads=1, depth=1)
    old = load_state(ROOT / "tests" / "data" / "state_format_1.safetensors")
    state = run(PACK, small, begin(PACK, small, height=16, width=16), plan=(2, 1))
    new = run(PACK, small, state, "b", plan=(1,))
    for one, other in zip(old.tensors(), new.tensors(), strict=False):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)  # another machine may have written it
    assert [chunk.entry for chunk in old.history] == [None] * 3
    save_state(old, tmp_path / "s.safetensors")
    after, again = (run(PACK, small, each, "c") for each in (old, load_state(tmp_path / "s.safetensors")))
    assert_same_state(after, again)
    light = replace(after, history=old.history + after.history[3:]).light()
    assert_same_state(rebuild(small, light, base=old), after)
