"""A running ComfyUI: what is cached, what an interrupt leaves, what comes out."""

import json

import graphs
import pytest
import torch
from comfyui_sana_video.sana_video_core.streaming.state_file import load_state
from graphs import chain, changed, film, loaders, node, prompt, sampler, save_video, show, with_film
from support.comfyui import film_of, frames_of, needs_comfyui, running

BLOCKS = {"block1", "block2", "block3", "block4", "other"}

pytestmark = needs_comfyui


def _blocks(run):
    assert run.error is None, run.error["exception_message"]
    return set(run.ran) & BLOCKS


# --- caching


def test_an_artist_pays_only_for_what_changed(server):
    three = chain(3, seed=11)
    assert _blocks(server.run(three)) == {"block1", "block2", "block3"}
    assert _blocks(server.run(three)) == set()

    four = chain(4, seed=11)
    assert _blocks(server.run(four)) == {"block4"}  # append

    edited = changed(four, "block3", seed=99)
    assert _blocks(server.run(edited)) == {"block3", "block4"}  # change in the middle

    branched = edited | {"other": sampler(["block2", 1], seed=5), "info_other": show(["other", 1])}
    assert _blocks(server.run(branched)) == {"other"}  # branch

    reworded = changed(branched, "text", text="a green ball rolls")
    assert _blocks(server.run(reworded)) == BLOCKS


def test_branches_do_not_affect_each_other(server):
    """Both endings are the same in either order and alone."""
    trunk = chain(1, seed=21) | {"end": prompt("the ball stops")}
    one = {"a": sampler(["block1", 1], seed=1), "info_a": show(["a", 1]), "sa": _saved("a", "one")}
    two = {"b": sampler(["block1", 1], "end", seed=2), "info_b": show(["b", 1]), "sb": _saved("b", "two")}
    together = server.run(trunk | one | two)
    assert together.error is None
    reseeded = server.run(changed(trunk | one | two, "b", seed=77))  # the trunk comes from the cache
    assert "block1" not in reseeded.ran
    assert "a" not in reseeded.ran
    again = server.run(changed(trunk | two, "b", seed=2))
    assert again.error is None
    states = sorted((server.base / "output" / "sana_states").glob("two_*.safetensors"))
    first, last = load_state(states[0]), load_state(states[-1])
    assert all(torch.equal(a, b) for a, b in zip(first.tensors(), last.tensors(), strict=True))


def _saved(block, name):
    return node("SanaVideoSaveState", state=[block, 1], filename_prefix=f"sana_states/{name}")


def test_a_changed_state_file_is_read_again(server):
    saved = server.run(chain(1, seed=31) | {"save": _saved("block1", "watched")})
    assert saved.error is None
    path = next((server.base / "output" / "sana_states").glob("watched_*.safetensors"))
    load = loaders() | {
        "load": node("SanaVideoLoadState", file=f"sana_states/{path.name} [output]"),
        "info": show(["load", 0]),
    }
    assert "load" in server.run(load).ran
    assert "load" not in server.run(load).ran
    server.run(chain(2, seed=31) | {"save": _saved("block2", "longer")})
    longer = next((server.base / "output" / "sana_states").glob("longer_*.safetensors"))
    path.write_bytes(longer.read_bytes())
    again = server.run(load)
    assert "load" in again.ran
    assert "2 chunks" in json.dumps(again.shown["info"])


def test_a_light_state_goes_on_another_day(server):
    """Saved as history only, and gone on from by two samplers: the same as without a file, absorbed once."""
    words = {"end": prompt("the ball stops")}
    begun = changed(chain(2, seed=61) | {"save": _saved("block2", "light")}, "save", what="history only")
    straight = {f"a{seed}": sampler(["block2", 1], "end", seed=seed) for seed in (1, 2)}
    straight |= {f"s{seed}": _saved(f"a{seed}", f"straight{seed}") for seed in (1, 2)}
    assert server.run(begun | words | straight).error is None
    folder = server.base / "output" / "sana_states"
    path = next(folder.glob("light_*.safetensors"))
    graph = loaders() | words | {"load": node("SanaVideoLoadState", file=f"sana_states/{path.name} [output]")}
    graph |= {"info": show(["load", 0]), "film": film(["load", 0]), "video": save_video(["film", 0], "light")}
    graph |= {f"a{seed}": sampler(["load", 0], "end", seed=seed) for seed in (1, 2)}
    graph |= {f"s{seed}": _saved(f"a{seed}", f"again{seed}") for seed in (1, 2)}
    went_on = server.run(graph)
    assert went_on.error is None, went_on.error
    assert "none (history only)" in json.dumps(went_on.shown["info"])
    bars = [name for name, _, most in went_on.progress if name in ("a1", "a2") and most == 2]
    assert bars in (["a1", "a1"], ["a2", "a2"])  # two chunks are absorbed again, by one sampler
    for seed in (1, 2):
        names = (f"straight{seed}", f"again{seed}")
        one, other = (load_state(next(folder.glob(f"{name}_*"))).tensors() for name in names)
        assert len(one) == len(other)
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


# --- progress, previews, interrupts


def test_one_bar_over_chunks_and_steps_with_previews(server):
    run = server.run(
        chain(1, seed=41) | {"long": sampler(["block1", 1], chunks=3, seed=41), "il": show(["long", 1])}
    )
    bar = [(value, most) for name, value, most in run.progress if name == "long"]
    assert bar == sorted(set(bar))
    assert (bar[0], bar[-1]) == ((1, 9), (9, 9))  # 3 chunks x (2 steps + absorbing)
    assert run.previews >= 3


def test_an_interrupted_sampler_loses_nothing(server):
    graph = chain(1, seed=51) | {"long": sampler(["block1", 1], chunks=40, seed=51), "il": show(["long", 1])}

    def stop(kind, data):
        if kind == "progress" and data["node"] == "long" and data["value"] >= 10:
            server.ask("/interrupt", {})

    stopped = server.run(graph, on_event=stop)
    assert stopped.interrupted
    values = [value for name, value, _ in stopped.progress if name == "long"]
    assert 10 <= values[-1] < 60, values  # soon after, not at the end (120)
    again = server.run(changed(graph, "long", chunks=21) | {"s1": _saved("long", "resumed")})
    assert again.error is None
    assert not again.interrupted
    assert "block1" not in again.ran
    left = next(most for name, _, most in again.progress if name == "long")
    assert left % 3 == 0
    assert 3 <= left <= 54, left  # of 63: three chunks or more were kept
    halves = {"first": sampler(["block1", 1], chunks=10, seed=51)}
    halves |= {"second": sampler(["first", 1], chunks=11, seed=51), "s2": _saved("second", "halves")}
    assert server.run(chain(1, seed=51) | halves).error is None
    folder = server.base / "output" / "sana_states"
    resumed, whole = (load_state(next(folder.glob(f"{name}_*"))) for name in ("resumed", "halves"))
    assert all(torch.equal(a, b) for a, b in zip(resumed.tensors(), whole.tensors(), strict=True))


def test_an_interrupted_video_is_kept_and_plays(server):
    graph = loaders() | {"text": prompt("a ball")}
    graph["start"] = node("SanaVideoStart", model=["model", 0], width=128, height=128, batch_size=1)
    graph |= {
        "block1": sampler(["start", 0], chunks=8),
        "film": film(["block1", 1]),
        "save": save_video(["film", 0]),
    }

    def stop(kind, data):
        if kind == "progress" and data["node"] == "film" and data["value"] >= 25:
            server.ask("/interrupt", {})

    assert server.run(graph, on_event=stop).interrupted
    kept = sorted((server.base / "output" / "video").glob("interrupted_*.mp4"))
    assert kept, "nothing was kept"
    frames = frames_of(kept[-1])
    assert 80 <= len(frames) < 321
    assert not list((server.base / "temp").glob(".sana*"))
    done = server.run(graph)
    assert done.error is None
    assert len(film_of(done)) == 321


# --- ComfyUI's own samplers


@pytest.mark.parametrize("sampler_name", ["euler", "uni_pc", "dpmpp_2m"])
def test_ksampler_makes_clips(server, sampler_name):
    run = server.run(graphs.clip(sampler_name=sampler_name))
    assert run.error is None, run.error
    assert len(run.files) == 9
    assert len({path.read_bytes() for path in run.files}) > 1
    assert run.previews


# --- without a cache


def test_cache_none(tmp_path):
    with running(tmp_path, "--cache-none") as bare:
        run = bare.run(with_film(chain(3, seed=71)))
        assert run.error is None, run.error
        assert len(film_of(run)) == 41
        again = bare.run(chain(3, seed=71))
        assert set(again.ran) >= {"block1", "block2", "block3"}
        assert json.dumps(again.shown["info3"]["text"]) == json.dumps(run.shown["info3"]["text"])


# --- the store


def test_a_chain_goes_on_after_comfyui_was_killed(tmp_path):
    """The states are saved, so their files show every bit of both films."""
    graph = changed(chain(3, seed=72, store=True), "block2", chunks=2, steps=20)
    graph["text2"] = prompt("a blue cube falls")
    graph = changed(graph, "block2", positive=["text2", 0])
    save = node("SanaVideoSaveState", state=["block3", 1], filename_prefix="sana_states/killed")
    graph["save"] = save

    def kill(kind, data):
        if kind == "progress" and data["node"] == "block2" and data["value"] >= 25:
            server.process.kill()

    with running(tmp_path) as server:
        killed = server.run(graph, on_event=kill)
        assert killed.ran[-1] == "block2"
    with running(tmp_path) as server:
        run = server.run(graph)
        assert run.error is None, run.error
        assert run.words["block1"].startswith("1 of 1 chunks are from the store.")
        assert run.words["block2"].startswith("1 of 2 chunks are from the store.")
        again = server.run(changed(graph, "save", filename_prefix="sana_states/again"))
        without = server.run({name: _without_store(each) for name, each in graph.items()})
        assert again.error is without.error is None
    saved = [load_state(path) for path in sorted((tmp_path / "output" / "sana_states").iterdir())]
    assert len(saved) == 3
    for other in saved[1:]:
        pairs = zip(saved[0].tensors(), other.tensors(), strict=True)
        assert all(torch.equal(a, b) for a, b in pairs)


def _without_store(each):
    return each | {"inputs": {name: value for name, value in each["inputs"].items() if name != "store"}}
