"""Chunks from the store, and those that it doesn't have from the model: counted, and compared bit by bit."""

from __future__ import annotations

import logging
import threading
from dataclasses import replace

import pytest
import torch
from comfyui_sana_video.sana_video_core.callbacks import Callbacks
from comfyui_sana_video.sana_video_core.errors import Cancelled, FileError, StateError
from comfyui_sana_video.sana_video_core.films import keeping
from comfyui_sana_video.sana_video_core.films.layout import DAMAGED, entry_path
from comfyui_sana_video.sana_video_core.films.making import Request, make, plan_making
from comfyui_sana_video.sana_video_core.films.memories import StoreShelf
from comfyui_sana_video.sana_video_core.films.naming import Namer
from comfyui_sana_video.sana_video_core.films.store import Store
from comfyui_sana_video.sana_video_core.streaming.rebuild import MemoryCache, rebuild
from comfyui_sana_video.sana_video_core.streaming.state import LightState, StreamState
from comfyui_sana_video.sana_video_core.streaming.state_file import load_state, save_state
from comfyui_sana_video.sana_video_core.streaming.stream import Sampling, primed
from comfyui_sana_video.sana_video_core.transformer.maker import AppliedLora
from support.checkpoint_files import refusal
from support.checks_stream import begin, prompt
from support.pack import ROOT, Pack, same

PACK = Pack()
STEPS = 2
SIZE = {"height": 16, "width": 16}


class Calls:
    """The model calls of a test: latent frames at which chunks were denoised (once for each) or absorbed."""

    def __init__(self, model) -> None:
        self.denoised, self.absorbed = [], []
        absorb = type(model).absorb

        def counted(*arguments, **options):
            self.absorbed.append(options["first_frame"])
            return absorb(model, *arguments, **options)

        model.register_forward_pre_hook(
            lambda _, arguments, options: self.denoised.append(options["first_frame"]), with_kwargs=True
        )
        model.absorb = counted

    @property
    def sampled(self) -> list[int]:
        """Where chunks were sampled since this was last asked."""
        denoised, self.denoised = self.denoised, []
        self.absorbed = []
        assert denoised[::STEPS] == denoised[1::STEPS]
        return denoised[::STEPS]


@pytest.fixture
def model():
    return PACK.tiny_model(heads=1, depth=1)


@pytest.fixture
def calls(model):
    return Calls(model)


@pytest.fixture
def stores(tmp_path):
    """New stores, one after the other."""
    return (Store(tmp_path / str(number)) for number in range(9))


def shot(text: str = "a", chunks: int = 1, *, opens: bool = False, seed: int = 7, **how) -> Request:
    sampling = Sampling(seed=seed, steps=STEPS, **how)
    return Request(prompt=prompt(PACK, text), sampling=sampling, chunks=chunks, opens=opens)


def planned(model, store, story, *shots, content: str = "content", **how):
    return plan_making(model, story, shots, namer=Namer(content, model.maker), store=store, **how)


def film(model, store, *shots, story=None, shelf=None, callbacks=None, begun=lambda: None, **how):
    """The state after the last chunk."""
    story = begin(PACK, model, **SIZE) if story is None else story
    making = planned(model, store, story, *shots, **how)
    *_, last = make(making, shelf=shelf, callbacks=callbacks, begin=begun)
    return last


def assert_same_story(a, b, *but: str) -> None:
    assert (a.identity, a.scene, a.plan) == (b.identity, b.scene, b.plan)
    for one, other in zip(a.history, b.history, strict=True):
        fields = [name for name in type(one).__slots__ if name not in ("latents", "text", *but)]
        assert [getattr(one, name) for name in fields] == [getattr(other, name) for name in fields]
        assert same(one.latents, other.latents)
        assert (one.text and one.text.content) == (other.text and other.text.content)


def assert_same_memory(a, b) -> None:
    assert a.tensors()
    assert all(same(x, y) for x, y in zip(a.tensors(), b.tensors(), strict=True))


def words(caplog):
    return [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]


def damage(store, chunk) -> None:
    path = entry_path(store.folder, "chunks", chunk.key)
    path.write_bytes(path.read_bytes()[:-5])


# two scenes; in the first a recache, a keep, and a prompt that comes twice
SCRIPT = (
    shot("a", 2),
    shot("b"),
    shot("b"),
    shot("c", on_prompt_change="keep"),
    shot("d", 2, on_prompt_change="cut", seed=8),
)


def test_one_request_after_the_other_is_a_film_is_a_stream_without_a_store(model, calls, stores):
    whole_store, single_store, apart_store = next(stores), next(stores), next(stores)
    whole = film(model, whole_store, *SCRIPT)
    everything = calls.sampled
    assert everything == [0, 11, 21, 31, 41, 0, 11]
    chained = begin(PACK, model, **SIZE)
    for each in SCRIPT:
        chained = film(model, single_store, each, story=chained)
    assert calls.sampled == everything
    apart = begin(PACK, model, **SIZE)
    for each in SCRIPT:
        for _ in range(each.chunks):
            apart = film(model, apart_store, replace(each, chunks=1), story=apart)
    assert calls.sampled == everything
    *_, plain = make(plan_making(model, begin(PACK, model, **SIZE), SCRIPT))
    assert calls.sampled == everything
    for other in (chained, apart):
        assert_same_story(whole, other)
        assert_same_memory(whole, other)
    assert_same_story(whole, plain, "key", "anywhere")
    assert {chunk.key for chunk in plain.history} == {None}
    assert_same_memory(whole, plain)
    assert [chunk.entry for chunk in whole.history] == [
        "start", "same", "recache", "same", "keep", "start", "same",
    ]  # fmt: skip
    names = [{path.name for path in (store.folder / "chunks").rglob("*.safetensors")} for store in
             (whole_store, single_store, apart_store)]  # fmt: skip
    assert names[0] == names[1] == names[2] == {f"{chunk.key}.safetensors" for chunk in whole.history}


def test_what_is_in_the_store_needs_no_model(model, calls, stores):
    store, begun = next(stores), []
    whole = film(model, store, *SCRIPT)
    assert calls.sampled
    light = film(model, store, *SCRIPT, begun=lambda: begun.append(1))
    assert isinstance(light, LightState)
    assert_same_story(whole, light)
    chained = begin(PACK, model, **SIZE)
    for each in SCRIPT:
        chained = film(model, store, each, story=chained, begun=lambda: begun.append(1))
    assert_same_story(whole, chained)
    assert not calls.denoised + calls.absorbed + begun
    assert_same_memory(rebuild(model, light), whole)
    film(model, store, *SCRIPT, resume=False)
    assert len(calls.sampled) == 7
    film(model, store, *SCRIPT, resume=False, anywhere=True)
    assert len(calls.sampled) == 7


LINES = {
    "a": {"chunks": 2},
    "b": {},
    "c": {"on_prompt_change": "keep"},
    "d": {"on_prompt_change": "cut", "chunks": 2, "seed": 8},
}
# what changes in one line, and where chunks are sampled then; d begins a second scene
EDITS = {
    "a text in the middle of a scene": ("b", {"text": "new"}, [21, 31]),
    "a re-roll": ("c", {"seed": 1}, [31]),
    "a longer line: the next scene stays": ("a", {"chunks": 3}, [21, 31, 41]),
    "a shorter line": ("a", {"chunks": 1}, [11, 21]),
    "a longer end": ("d", {"chunks": 3}, [21]),
    "a line goes": ("c", {"chunks": 0}, []),
    "how a line is entered": ("c", {"on_prompt_change": "recache"}, [31]),
    "a widget that does nothing there": ("a", {"on_prompt_change": "keep"}, []),
    "the last scene": ("d", {"text": "new"}, [0, 11]),
    "a cut where a shot went on": ("c", {"opens": True}, [0]),
    "the sampler of a line": ("c", {"sampler": "euler"}, [31]),
}


def script(line: str = "", **change):
    lines = [{"text": text, **how, **(change if text == line else {})} for text, how in LINES.items()]
    return [shot(**each) for each in lines if each.get("chunks", 1)]


@pytest.mark.parametrize("edit", EDITS.values(), ids=EDITS)
def test_an_edit_samples_what_changed_and_what_follows_in_its_scene(edit, model, calls, stores):
    (line, change, sampled), store = edit, next(stores)
    first = film(model, store, *script())
    assert calls.sampled == [0, 11, 21, 31, 0, 11]
    edited = film(model, store, *script(line, **change))
    assert calls.sampled == sampled
    fresh = film(model, next(stores), *script(line, **change))
    assert len(calls.sampled) == len(fresh.history)
    assert_same_story(edited, fresh)
    assert_same_story(film(model, store, *script()), first)  # back again, for nothing
    assert not calls.sampled


def test_two_scripts_that_begin_alike_share_their_beginning(model, calls, stores):
    store = next(stores)
    film(model, store, shot("a", 2), shot("b"), shot("c"))
    assert calls.sampled
    film(model, store, shot("a"), shot("a"), shot("b"), shot("another"))
    assert calls.sampled == [31]


def test_a_scene_is_the_same_wherever_it_stands(model, calls, stores):
    store = next(stores)
    film(model, store, shot("a", 2), shot("b"))
    assert calls.sampled
    moved = film(model, store, shot("first"), shot("a", 2, opens=True), shot("b"))
    assert calls.sampled == [0]
    assert moved.plan == ((11,), (11, 10, 10))
    assert moved.scene == 1
    again = film(model, store, shot("first"), shot("first", opens=True))
    assert not calls.sampled
    assert again.plan == ((11,), (11,))
    assert same(again.history[0].latents, again.history[1].latents)


@pytest.mark.parametrize("number", [0, 2, 4, 6])
def test_a_damaged_chunk_alone_is_made_again(number, model, calls, stores, caplog):
    store = next(stores)
    whole = film(model, store, *SCRIPT)
    assert calls.sampled
    damage(store, whole.history[number])
    again = film(model, store, *SCRIPT)
    assert calls.sampled == [[0, 11, 21, 31, 41, 0, 11][number]]
    assert_same_story(whole, again)
    assert len(words(caplog)) == 1
    path = entry_path(store.folder, "chunks", whole.history[number].key)
    assert path.with_name(path.name + DAMAGED).exists()
    film(model, store, *SCRIPT)
    assert not calls.sampled
    assert len(words(caplog)) == 1


def test_several_gaps_are_made_from_the_newest_memory(model, calls, stores):
    store = next(stores)
    whole = film(model, store, shot("a", 3), shot("b", 3))
    assert calls.sampled
    for number in (1, 4):
        damage(store, whole.history[number])
    again = film(model, store, shot("a", 3), shot("b", 3))
    # chunk 0; then 1, which is sampled; from there 2, the recache, and 3; then 4
    assert calls.absorbed == [0, 11, 21, 21, 31, 41]
    assert calls.sampled == [11, 41]
    assert_same_story(whole, again)


@pytest.mark.parametrize("entry", ["another length", "another size", "another dtype", "no latents", "no tag"])
def test_an_entry_that_is_no_such_chunk_is_made_again(entry, model, calls, stores):
    source, store = next(stores), next(stores)
    whole = film(model, source, shot("a"))
    key, latents = whole.history[0].key, whole.history[0].latents
    assert calls.sampled
    tensors = {
        "another length": {"latents": latents[:, :, 1:]},
        "another size": {"latents": latents[..., 1:]},
        "another dtype": {"latents": latents.double()},
        "no latents": {"other": latents},
    }.get(entry, {"latents": latents})
    store.write("chunks", key, tensors, {} if entry == "no tag" else {"compute": "cpu"})
    again = film(model, store, shot("a"))
    assert calls.sampled == [0]
    assert_same_story(whole, again)


@pytest.mark.parametrize("change", ["model", "lora", "strength", "order", "tag"])
def test_another_maker_makes_other_chunks(change, model, calls, stores, monkeypatch):
    store, loras = next(stores), [AppliedLora("a", "content a", 1.0), AppliedLora("b", "content b", 0.5)]
    model.loras = tuple(loras)
    film(model, store, shot("a"))
    assert calls.sampled
    film(model, store, shot("a"))
    assert not calls.sampled
    content = "other" if change == "model" else "content"
    if change == "lora":
        model.loras = (loras[0]._replace(content="other"), loras[1])
    if change == "strength":
        model.loras = (loras[0]._replace(strength=0.9), loras[1])
    if change == "order":
        model.loras = tuple(loras[::-1])
    if change == "tag":
        on_another_machine(model, monkeypatch)
    film(model, store, shot("a"), content=content)
    assert calls.sampled == [0]
    model.loras = tuple(lora._replace(name=f"{lora.name} renamed") for lora in model.loras)
    film(model, store, shot("a"), content=content)
    assert not calls.sampled


def on_another_machine(model, monkeypatch, tag: str = "another machine") -> None:
    made = type(model).maker.fget
    monkeypatch.setattr(type(model), "maker", property(lambda self: made(self)._replace(compute=tag)))


def test_chunks_of_another_machine_are_taken_where_they_may(model, calls, stores, monkeypatch):
    store = next(stores)
    there = film(model, store, shot("a", 2))
    assert calls.sampled
    on_another_machine(model, monkeypatch)
    taken = film(model, store, shot("a", 2), anywhere=True)
    assert not calls.sampled
    assert_same_story(there, taken)
    longer = film(model, store, shot("a", 3), anywhere=True)
    assert calls.sampled == [21]
    assert [chunk.compute for chunk in longer.history] == [*(chunk.compute for chunk in there.history),
                                                          "another machine"]  # fmt: skip
    assert_same_story(film(model, store, shot("a", 3), anywhere=True), longer)
    # its own name: the memory that came with a state is another than one that was made again here
    carried = film(model, store, shot("a"), story=there, resume=False)
    assert carried.history[-1].key != longer.history[-1].key
    assert carried.history[-1].anywhere == longer.history[-1].anywhere


def test_a_film_begins_with_a_picture(model, calls, stores):
    """Its chunks have names by their latents, and are in the store."""
    store, latents = next(stores), torch.randn(1, 16, 12, 2, 2, generator=torch.Generator().manual_seed(3))
    empty = begin(PACK, model, **SIZE)

    def beginning(change: float = 0.0, text: str = "p"):
        return primed(model, empty, prompt(PACK, text), latents + change)

    light = film(model, store, shot("p"), shot("b"), story=beginning())
    assert calls.sampled == [12, 22]
    whole = film(model, next(stores), shot("p"), shot("b"), story=rebuild(model, beginning()))
    assert calls.sampled == [12, 22]
    assert_same_story(light, whole)
    assert_same_memory(light, whole)
    again = film(model, store, shot("p"), shot("b"), story=rebuild(model, beginning()))
    assert not calls.sampled
    assert_same_story(again, light)
    first = light.history[0]
    assert first.primed
    assert same(store.read("chunks", first.key).tensors["latents"], first.latents)
    for change in ({"change": 0.5}, {"text": "q"}):
        film(model, store, shot("p"), story=beginning(**change))
        assert calls.sampled == [12], change


def old_state():
    return load_state(ROOT / "tests" / "data" / "state_format_1.safetensors")


def test_a_state_of_format_1_is_a_root(model, calls, stores):
    store, shelf = next(stores), MemoryCache()
    whole = film(model, store, shot("a"), shot("b"), story=old_state())
    assert calls.sampled == [4, 14]
    light = film(model, store, shot("a"), shot("b"), story=old_state())
    assert not calls.sampled
    assert_same_story(whole, light)
    other = old_state()
    memory = (other.memory[0]._replace(vk=other.memory[0].vk + 1), *other.memory[1:])
    film(model, store, shot("a"), story=replace(other, memory=memory))
    assert calls.sampled == [4]
    # its memory can't be made again, so it was kept
    message = refusal(lambda: film(model, store, shot("c"), story=light, shelf=shelf), StateError)
    assert "older state file" in message
    after = film(model, store, shot("c"), story=light, shelf=StoreShelf(shelf, store))
    assert calls.sampled == [24]
    assert_same_memory(after, film(model, next(stores), shot("c"), story=whole))


@pytest.mark.parametrize("light", [False, True])
def test_a_state_that_was_made_without_a_store_is_a_root(light, model, calls, stores, tmp_path):
    store = next(stores)
    *_, state = make(plan_making(model, begin(PACK, model, **SIZE), [shot("a", 2)]))
    save_state(state.light() if light else state, tmp_path / "s.safetensors")
    expected = film(model, next(stores), shot("b"), story=state)
    assert calls.sampled
    after = film(model, store, shot("b"), story=load_state(tmp_path / "s.safetensors"))
    assert calls.sampled == [21]
    assert_same_memory(after, expected)
    assert not (store.folder / "memories").exists()  # this model can make it again
    again = film(model, store, shot("b"), story=load_state(tmp_path / "s.safetensors"))
    assert not calls.sampled
    assert_same_story(after, again)


def test_a_stream_goes_on_after_a_restart_without_the_model_that_was_before(model, calls, stores):
    """The memory is kept wherever the LoRA changes, once."""
    style = (AppliedLora("style", "content of style", 0.5),)

    def chain(store, samplers: int):
        """After a restart: nothing is in RAM. The first and the third sampler have the LoRA."""
        state, shelf = begin(PACK, model, **SIZE), StoreShelf(MemoryCache(), store)
        for number in range(samplers):
            model.loras = style if number in (0, 2) else ()
            state = film(model, store, shot("ab"[number % 2]), story=state, shelf=shelf)
        return state

    store = next(stores)
    chain(store, 5)
    assert calls.sampled == [0, 11, 21, 31, 41]
    kept = sorted(
        (store.folder / "memories").rglob("*.safetensors"), key=lambda path: path.stat().st_mtime_ns
    )
    assert len(kept) == 3
    again = chain(store, 6)
    assert calls.absorbed == [21, 31, 31, 41, 41, 51]  # from the newest memory that was kept, by recaches
    assert calls.sampled == [51]
    whole = chain(next(stores), 6)
    assert calls.sampled == [0, 11, 21, 31, 41, 51]
    assert_same_story(again, whole)
    assert_same_memory(again, whole)
    kept[-1].unlink()
    assert "with the LoRA style 0.5" in refusal(lambda: chain(store, 7), StateError)


def test_the_memory_is_kept_where_another_file_of_the_model_goes_on(model, calls, stores):
    """As the same model in another dtype: its fingerprint is the same."""
    store = next(stores)

    def chain(samplers: int):
        state, shelf = begin(PACK, model, **SIZE), StoreShelf(MemoryCache(), store)
        for number in range(samplers):
            content = "float32" if number == 0 else "bfloat16"
            state = film(model, store, shot("a"), story=state, shelf=shelf, content=content)

    chain(3)
    assert calls.sampled == [0, 11, 21]
    assert len(list((store.folder / "memories").rglob("*.safetensors"))) == 1
    chain(4)
    assert calls.absorbed == [11, 21, 31]
    assert calls.sampled == [31]


def test_the_memory_of_another_machine_is_kept(model, calls, stores, monkeypatch):
    store = next(stores)
    there = film(model, next(stores), shot("a"))
    on_another_machine(model, monkeypatch)
    shelf = StoreShelf(MemoryCache(), store)
    film(model, store, shot("b"), story=there, shelf=shelf)
    assert calls.sampled == [0, 11]
    assert len(list((store.folder / "memories").rglob("*.safetensors"))) == 1
    light = film(model, store, shot("b"), story=there)
    film(model, store, shot("c"), story=light, shelf=StoreShelf(MemoryCache(), store))
    assert calls.absorbed[:2] == [0, 11]  # the recache, then chunk b: not chunk a
    assert calls.sampled == [21]


def test_a_memory_that_another_machine_kept_is_not_one_made_again_here(model, calls, stores, monkeypatch):
    """The name of what follows says that the memory was made again, so it has to be."""
    store = next(stores)
    there = film(model, store, shot("a"))
    on_another_machine(model, monkeypatch)
    film(model, store, shot("b"), story=there)
    assert len(list((store.folder / "memories").rglob("*.safetensors"))) == 1
    assert calls.sampled == [0, 11]
    keep = shot("b", on_prompt_change="keep")
    film(model, store, keep, story=there.light(), shelf=StoreShelf(MemoryCache(), store))
    assert calls.absorbed == [0, 11]


@pytest.mark.parametrize("window", [None, 1])
def test_a_kept_memory_is_read_as_it_was(window, model, stores):
    store = next(stores)
    story = begin(PACK, model, window=window, **SIZE)
    model.loras = (AppliedLora("style", "content", 0.5),)
    state = film(model, next(stores), shot("a", 2), story=story)
    model.loras = ()
    film(model, store, shot("a"), story=state)
    back = rebuild(model, state.light(), shelf=StoreShelf(MemoryCache(), store))
    assert_same_memory(back, state)


def test_a_film_goes_on_when_the_store_cannot_be_written(model, calls, stores, caplog, monkeypatch):
    tries = []

    def full(store, kind, key, tensors, about):
        tries.append(key)
        if len(tries) > 1:
            raise FileError("The disk is full.")
        return write(store, kind, key, tensors, about)

    write, store = Store.write, next(stores)
    monkeypatch.setattr(Store, "write", full)
    state = film(model, store, *SCRIPT)
    assert len(calls.sampled) == len(state.history) == 7
    assert len(tries) == 2
    assert words(caplog) == [
        "The disk is full. The film goes on; after a crash, it would begin again from here."
    ]
    assert all(chunk.key for chunk in state.history)
    monkeypatch.undo()
    film(model, store, *SCRIPT)
    assert len(calls.sampled) == 6


def test_sampling_does_not_wait_for_the_disk(model, stores, monkeypatch):
    """A chunk is written while the next one's first call runs, and not later."""
    free, events, write, threads = threading.Event(), [], keeping._write, threading.active_count()

    def slow(*arguments):
        assert free.wait(10)
        write(*arguments)
        events.append("written")

    def called(*_) -> None:
        events.append("called")
        if len(events) == STEPS + 1:
            free.set()

    monkeypatch.setattr(keeping, "_write", slow)
    model.register_forward_hook(called)
    film(model, next(stores), shot("a", 2))
    assert events == ["called"] * 3 + ["written", "called", "written"]
    assert threading.active_count() == threads


@pytest.mark.parametrize("how", ["closed", "stopped", "failed"])
def test_what_was_made_is_in_the_store_however_it_ends(how, model, calls, stores):
    store, asked = next(stores), []

    def cancelled() -> bool:
        asked.append(1)
        if how == "failed" and len(asked) > 4:
            raise RuntimeError("broken")
        return how == "stopped" and len(asked) > 4

    making = planned(model, store, begin(PACK, model, **SIZE), shot("a", 3))
    work = make(making, callbacks=Callbacks(cancelled))
    if how == "closed":
        next(work), next(work)
        work.close()
    else:
        with pytest.raises(Cancelled if how == "stopped" else RuntimeError):
            list(work)
    calls.denoised.clear()
    film(model, store, shot("a", 3))
    assert calls.sampled == ([21] if how == "closed" else [11, 21])
    assert len(list((store.folder / "chunks").rglob("*.safetensors"))) == 3


def test_a_hit_can_be_stopped(model, calls, stores):
    store = next(stores)
    film(model, store, shot("a", 2))
    with pytest.raises(Cancelled):
        film(model, store, shot("a", 2), callbacks=Callbacks(lambda: True))


def test_progress_counts_the_chunks_of_the_whole_request(model, stores):
    store, heard = next(stores), []
    whole = film(model, store, shot("a", 2), shot("b", 2))
    damage(store, whole.history[2])
    film(model, store, shot("a", 2), shot("b", 2), callbacks=Callbacks(progress=heard.append))
    numbers = [(news.chunk, news.step, news.steps) for news in heard if news.chunk]
    assert numbers == [(1, 1, 1), (2, 1, 1), (3, 1, 3), (3, 2, 3), (3, 3, 3), (4, 1, 1)]
    assert {news.chunks for news in heard} == {4}
    assert isinstance(whole, StreamState)
