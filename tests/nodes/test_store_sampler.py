"""Block Sampler with its store: chains, restarts, what can't be named."""

from __future__ import annotations

import logging
import os
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import patch

import comfy.model_management as management
import pytest
from comfyui_sana_video.bridge import chunk_store, progress, sampling
from comfyui_sana_video.bridge.chunk_store import output_store
from comfyui_sana_video.demo import model_set
from comfyui_sana_video.sana_video_core.errors import FileError
from comfyui_sana_video.sana_video_core.films import contents
from comfyui_sana_video.sana_video_core.films.naming import Namer
from comfyui_sana_video.sana_video_core.films.store import Store
from comfyui_sana_video.sana_video_core.streaming.rebuild import MemoryCache
from comfyui_sana_video.sana_video_core.streaming.state import LightState
from safetensors.torch import save_file
from support import artist
from support.artist import DEMO, demo, folders, run, same_state, start
from support.lora_files import random_tensor
from support.pack import same

CALLS = 3  # in a chunk: two steps, and the clean pass


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    """A MODEL whose file stays."""
    folder = tmp_path_factory.mktemp("models")
    with patch.object(model_set, "demo_set") as built_in:
        built_in.return_value = model_set.write_demo_set(folder / "set")
        for path in folder.rglob("*"):
            os.utime(path, (1_000_000, 1_000_000))  # long settled, so that its content is remembered
        return run("ModelLoader", DEMO, "auto")


@pytest.fixture(autouse=True)
def base(tmp_path, monkeypatch, restart):
    restart()
    with folders(tmp_path):
        yield tmp_path
    management.interrupt_current_processing(False)


@pytest.fixture
def restart(monkeypatch):
    """Forgets what a process knows."""

    def forget() -> None:
        monkeypatch.setattr(sampling, "INTERRUPTED", sampling.InterruptedRun())
        monkeypatch.setattr(sampling, "MEMORIES", MemoryCache())

    return forget


@pytest.fixture
def sample(loaded):
    def with_store(state=None, chunks: int = 1, **changes):
        return artist.sample(state, chunks, **{"model": loaded, "store": True, **changes})

    return with_store


@contextmanager
def calls(model, stop_at: int | None = None):
    """Counts the model's calls in the block, and how often it is loaded."""
    module, made = model.model.diffusion_model, SimpleNamespace(calls=0, loads=0)
    inner, load = module._forward, management.load_models_gpu

    def counted(*arguments, **options):
        made.calls += 1
        if made.calls == stop_at:
            management.interrupt_current_processing()
        return inner(*arguments, **options)

    def loads(*arguments, **options):
        made.loads += 1
        return load(*arguments, **options)

    module._forward = counted
    try:
        with patch.object(management, "load_models_gpu", loads):
            yield made
    finally:
        del module._forward


def three(sample, **changes):
    """A chain as an artist builds it: two chunks, one under another prompt, one after a cut."""
    first = sample(chunks=2, **changes)
    second = sample(first[1], positive=demo().other, **changes)
    return first, second, sample(second[1], seed=9, on_prompt_change="cut", **changes)


def assert_same_outputs(some, others) -> None:
    for (latent, state, frames), (other_latent, other, other_frames) in zip(some, others, strict=True):
        assert same(latent["samples"], other_latent["samples"])
        assert frames == other_frames
        histories = zip(state.state.history, other.state.history, strict=True)
        assert all(same(a.latents, b.latents) for a, b in histories)


def said(caplog) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]


def entries(kind: str = "chunks") -> list[Path]:
    return sorted((output_store().folder / kind).rglob("*.safetensors"))


def test_the_bits_are_those_without_a_store(sample, loaded, base):
    without = three(sample, store=False)
    assert not list((base / "output").rglob("*")), "off by default: nothing is written"
    with calls(loaded) as made:
        with_store = three(sample)
    assert made.calls == 4 * CALLS + 1  # and a recache
    assert_same_outputs(with_store, without)
    assert all(same_state(a[1], b[1]) for a, b in zip(with_store, without, strict=True))
    assert len(entries()) == 4
    assert output_store().folder == base / "output" / "sana_films" / "store"


def test_chained_samplers_share_their_chunks_with_one(sample, loaded, tmp_path):
    with calls(loaded) as made:
        whole = sample(chunks=3)
    assert made.calls == 3 * CALLS
    with calls(loaded) as made:
        chained = sample(sample(sample()[1])[1])
    assert (made.calls, made.loads) == (0, 0)
    assert_same_outputs([(whole[0] | {"samples": chained[0]["samples"]}, *whole[1:])], [chained])
    with folders(tmp_path / "another"), calls(loaded) as made:
        again = sample(sample(sample()[1])[1])
        assert made.calls == 3 * CALLS
    assert same_state(again[1], whole[1])


def test_after_a_restart_nothing_is_made_again(sample, loaded, restart):
    first = three(sample)
    restart()
    with calls(loaded) as made:
        again = three(sample)
    assert (made.calls, made.loads) == (0, 0)
    assert_same_outputs(first, again)
    assert all(isinstance(outputs[1].state, LightState) for outputs in again)
    run("StateInfo", again[-1][1])
    with calls(loaded) as made:
        longer = sample(again[1][1], positive=demo().other)
    assert made.calls == CALLS + 4, "three chunks and a recache are absorbed again, then a chunk is sampled"
    assert same_state(longer[1], sample(first[1][1], positive=demo().other, store=False)[1])


def test_a_stop_costs_the_chunk_in_work(sample, loaded, restart):
    with calls(loaded, stop_at=CALLS + 2), pytest.raises(management.InterruptProcessingException):
        sample(chunks=3)
    assert sampling.INTERRUPTED._kept is None
    assert len(entries()) == 1
    restart()
    with calls(loaded) as made:
        after = sample(chunks=3)
    assert made.calls == 1 + 2 * CALLS  # absorbed again; two chunks
    assert same_state(after[1], sample(chunks=3, store=False)[1])


def test_the_node_says_what_came_from_the_store(sample, monkeypatch, caplog):
    heard, lines = [], []
    monkeypatch.setattr(sampling, "say", heard.append)
    for module in (progress, chunk_store, sampling):
        monkeypatch.setattr(module, "say_progress", lines.append)
    monkeypatch.setattr(contents, "BUFFER", 1 << 16)
    sample(chunks=2)
    assert not heard
    assert lines[0].startswith("reading the model's file once")
    assert lines[0].endswith(" %")
    assert lines[-1].startswith("2 chunks · 5.1 s · took")
    lines.clear()
    sample(chunks=3)
    assert heard == ["2 of 3 chunks are from the store."]
    assert lines[:2] == [f"bringing the memory back, chunk {number} of 2" for number in (1, 2)]
    assert lines[2].startswith("chunk 3 of 3 · 7.6 of 7.6 s")
    assert not [line for line in lines if "reading" in line]
    assert not said(caplog)


def test_another_file_of_the_same_name_makes_other_chunks(sample, loaded, tmp_path, monkeypatch):
    sample()
    load, (path, *rest) = loaded.cached_patcher_init
    copy = tmp_path / "other.safetensors"
    copy.write_bytes(Path(path).read_bytes() + b" ")
    other = loaded.clone()
    other.cached_patcher_init = (load, (copy, *rest))
    with calls(loaded) as made:
        sample(model=other)
    assert made.calls == CALLS


def _wrapped(model):
    other = model.clone()
    other.add_wrapper_with_key("diffusion_model", "another pack", lambda executor, *a, **k: executor(*a, **k))
    return other


def _patched(model):
    other = model.clone()
    other.hook_patches = {"of another node": {}}
    return other


def _from_elsewhere(model):
    other = model.clone()
    other.cached_patcher_init = None
    return other


def _gone(model):
    other = model.clone()
    load, (path, *rest) = model.cached_patcher_init
    other.cached_patcher_init = (load, (Path(f"{path}.gone"), *rest))
    return other


UNKNOWN = {_wrapped: "another pack", _patched: "weights", _from_elsewhere: "which file", _gone: "gone"}


@pytest.mark.parametrize("change, word", UNKNOWN.items(), ids=[change.__name__ for change in UNKNOWN])
def test_what_has_no_name_passes_the_store_by(change, word, sample, loaded, caplog):
    model = change(loaded)
    with calls(loaded) as made:
        outputs = sample(model=model)
        sample(model=model)
    assert made.calls == 2 * CALLS
    (first, second) = said(caplog)
    assert first == second
    assert "store is passed by" in first
    assert word in first
    assert not entries()
    assert_same_outputs([outputs], [sample(model=model, store=False)])


def test_a_lora_has_a_name(sample, loaded, base, restart, caplog):
    """And the stream goes on behind it after a restart, with the model alone."""
    folder, width = base / "models" / "loras", loaded.model.diffusion_model.config.width
    folder.mkdir(parents=True)
    pair = {"lora_A.weight": random_tensor(2, width), "lora_B.weight": random_tensor(width, 2, seed=1)}
    save_file({f"blocks.1.attn.proj.{end}": t * 4 for end, t in pair.items()}, folder / "rain.safetensors")

    def chain(samplers: int):
        state = sample(model=run("LoraLoader", loaded, "rain.safetensors", 0.5))[1]
        for _ in range(samplers - 1):
            state = sample(state)[1]
        return state

    chain(2)
    assert (len(entries()), len(entries("memories"))) == (2, 1)
    restart()
    with calls(loaded) as made:
        longer = chain(3)
    assert made.calls == 1 + CALLS
    restart()
    with folders(base / "another"):
        folder = base / "another" / "models" / "loras"
        folder.mkdir(parents=True)
        (base / "models" / "loras" / "rain.safetensors").rename(folder / "rain.safetensors")
        whole = chain(3)
    assert same_state(longer, whole)
    assert not said(caplog)
    management.load_models_gpu([])


def test_a_store_that_is_pruned_or_cannot_be_made_is_passed_by(sample, base, caplog, monkeypatch):
    (base / "output").mkdir()
    (base / "output" / "sana_films").write_text("a file where the folder should be")
    outputs = sample()
    assert "store is passed by" in said(caplog)[0]
    assert_same_outputs([outputs], [sample(store=False)])


def test_a_full_disk_costs_only_the_store(sample, caplog, monkeypatch):
    def full(store, kind, key, tensors, about):
        if kind == "chunks":
            raise FileError("The disk is full.")

    monkeypatch.setattr(Store, "write", full)
    outputs = sample(chunks=2)
    assert len(said(caplog)) == 1
    assert_same_outputs([outputs], [sample(chunks=2, store=False)])


def test_reading_the_file_can_be_stopped(sample):
    management.interrupt_current_processing()
    with pytest.raises(management.InterruptProcessingException):
        sample()
    assert not entries("contents")


def test_a_picture_begins_the_same_chain(sample, loaded, restart):
    def chain():
        primed = run("Prime", loaded, demo().vae, demo().positive, start(), artist.picture())
        return sample(primed)

    first = chain()
    assert all(chunk.key for chunk in first[1].state.history)
    restart()
    with calls(loaded) as made:
        again = chain()
    assert made.calls == 1  # Prime absorbs the picture
    assert_same_outputs([first], [again])


def test_the_key_is_that_of_a_film(sample, loaded):
    """What the film node and the command line ask the store for."""
    from comfyui_sana_video.bridge.stream_model import HostedModel
    from comfyui_sana_video.bridge.text_encoders import prompt_of
    from comfyui_sana_video.sana_video_core.films.contents import transformer_content
    from comfyui_sana_video.sana_video_core.films.making import Request, plan_making
    from comfyui_sana_video.sana_video_core.streaming.stream import Sampling

    three(sample)
    model, store = HostedModel(loaded), output_store()
    content = transformer_content(model.file, model.config, store)
    shots = [("positive", 2, 3, "recache"), ("other", 1, 3, "recache"), ("positive", 1, 9, "cut")]
    requests = [
        Request(
            prompt=prompt_of(getattr(demo(), text)),
            sampling=Sampling(seed=seed, steps=2, on_prompt_change=change),
            chunks=chunks,
        )
        for text, chunks, seed, change in shots
    ]
    namer = Namer(content, model.maker)
    making = plan_making(model, start().state, requests, namer=namer, store=store)
    assert making.missing == 0
