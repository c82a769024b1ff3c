"""State Info, Save State, Load State."""

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from comfyui_sana_video.bridge import progress, sampling, states
from comfyui_sana_video.nodes.files import saved_state, saved_states
from comfyui_sana_video.nodes.sockets import SocketState
from comfyui_sana_video.sana_video_core.files.tensor_file import read_metadata
from comfyui_sana_video.sana_video_core.files.video_reader import read_frames
from comfyui_sana_video.sana_video_core.streaming.rebuild import MemoryCache
from comfyui_sana_video.sana_video_core.streaming.state import LightState
from PIL import Image
from safetensors.torch import save_file
from support.artist import (
    demo,
    folders,
    node,
    one_chunk,
    output_of,
    refused,
    run,
    same_state,
    sample,
    start,
    two_chunks,
)


@pytest.fixture(autouse=True)
def base(tmp_path):
    with folders(tmp_path):
        yield tmp_path


# --- info


def test_info_returns_and_shows(base):
    state = two_chunks()[1]
    output = output_of("StateInfo", state)
    passed, text, chunks, seconds, strip = output.args
    assert passed is state
    assert (chunks, seconds) == (2, 81 / 16)
    assert strip.shape[::3] == (1, 3)
    assert strip.shape[2] == 480
    assert (strip.min() >= 0) & (strip.max() <= 1)
    assert text.count("a red ball rolls") == 2
    assert "48 x 32" in text
    assert output.ui["text"] == (text,)
    (shown,) = output.ui["images"]
    with Image.open(base / "temp" / shown["filename"]) as image:
        assert image.size == (480, strip.shape[1])


def test_info_of_an_empty_stream():
    _, text, chunks, seconds, strip = run("StateInfo", start())
    assert (chunks, seconds) == (0, 0)
    assert "0 chunks, 0 frames" in text
    assert strip.ndim == 4
    assert strip.shape == (1, 28, 480, 3)  # only text


def test_the_filmstrip_shows_the_chunks():
    *_, strip = run("StateInfo", two_chunks()[1])
    *_, other = run("StateInfo", sample(one_chunk()[1], positive=demo().other)[1])
    assert torch.equal(strip[:, 30:160, :230], other[:, 30:160, :230])  # the same first chunk
    assert not torch.equal(strip[:, 30:160, 250:], other[:, 30:160, 250:])


# --- save and load


def _save(state, prefix="sana_states/state", **options) -> Path:
    """The newest file, and what the node said of it."""
    before = set(Path.cwd().glob("output/**/*"))
    output = output_of("SaveState", state, prefix, **options)
    (new,) = [path for path in Path.cwd().glob("output/**/*") if path.is_file() and path not in before]
    assert output.args == (state,)
    (said,) = output.ui.as_dict()["text"]
    assert new.name in said
    assert f"{state.state.frames} frames" in said
    return new


@pytest.fixture(autouse=True)
def _inside(base, monkeypatch):
    monkeypatch.chdir(base)


def _name(path: Path) -> str:
    return f"{path.relative_to(Path.cwd() / 'output').as_posix()} [output]"


def test_continuing_from_a_file_is_bit_identical():
    path = _save(one_chunk()[1])
    assert path.relative_to(Path.cwd()).as_posix() == "output/sana_states/state_00001_.safetensors"
    loaded = run("LoadState", _name(path))
    assert same_state(loaded, one_chunk()[1])
    assert type(loaded).__name__ == "SocketState"
    for positive in (demo().positive, demo().other):
        assert same_state(sample(loaded, positive=positive)[1], sample(one_chunk()[1], positive=positive)[1])


def test_a_primed_stream_is_saved_too():
    state = run("Prime", demo().model, demo().vae, demo().positive, start(), torch.ones(1, 8, 8, 3))
    assert same_state(run("LoadState", _name(_save(state))), state)


# --- light states


def _recached():
    return sample(two_chunks()[1], positive=demo().other)[1]


def _light(state):
    path = _save(state, what="history only")
    return run("LoadState", _name(path))


@pytest.fixture
def absorbs(monkeypatch):
    """The first frame of every pass that absorbs; nothing is remembered of other tests."""
    monkeypatch.setattr(sampling, "MEMORIES", MemoryCache())
    monkeypatch.setattr(states, "MEMORIES", sampling.MEMORIES)
    network, seen = type(demo().model.model.diffusion_model), []
    absorb = network.absorb

    def counted(self, *args, **options):
        seen.append(options["first_frame"])
        return absorb(self, *args, **options)

    monkeypatch.setattr(network, "absorb", counted)
    return seen


def test_a_light_state_goes_on_to_the_same_bits(absorbs):
    whole = _recached()
    light = _light(whole)
    assert type(light.state) is LightState
    assert len(light.tensors) == 7  # three chunks, two texts with their masks
    passed, text, chunks, *_ = run("StateInfo", light)
    assert (passed, chunks) == (light, 3)
    assert "none (history only)" in text
    for positive in (demo().positive, demo().other):
        absorbs.clear()
        assert same_state(sample(light, positive=positive)[1], sample(whole, positive=positive)[1])


def test_two_samplers_behind_a_light_state_bring_its_memory_back_once(absorbs):
    light = _light(_recached())
    absorbs.clear()
    sample(light, positive=demo().other)
    assert absorbs == [0, 11, 11, 21, 31]  # the second 11 is the recache, 31 the new chunk
    absorbs.clear()
    sample(light, positive=demo().other, seed=9)
    assert absorbs == [31]
    absorbs.clear()
    sample(light, on_prompt_change="cut")  # a scene of its own needs no memory
    assert absorbs == [0]


def test_a_light_state_decodes(absorbs):
    (latent, whole, _), light = one_chunk(), _light(one_chunk()[1])
    absorbs.clear()
    assert torch.equal(run("Decode", demo().vae, latent, light), run("Decode", demo().vae, latent, whole))
    films = [run("DecodeStream", demo().vae, state, 0, 16.0, "h264", 0) for state in (light, whole)]
    ours, other = (read_frames(film.get_stream_source(), fps=None) for film in films)
    assert ours.shape[2] == 41
    assert torch.equal(ours, other)
    assert torch.equal(run("StateInfo", light)[4], run("StateInfo", whole)[4])  # the filmstrip
    assert not absorbs


def test_a_light_state_is_not_primed():
    with refused("already holds 81 frames", "Start node"):
        run(
            "Prime",
            demo().model,
            demo().vae,
            demo().positive,
            _light(two_chunks()[1]),
            torch.ones(1, 8, 8, 3),
        )


def test_bringing_the_memory_back_is_said_and_can_be_stopped(absorbs, monkeypatch):
    said, interrupts, light = [], iter([False] * 2 + [True] * 9), _light(_recached())
    monkeypatch.setattr(progress, "say_progress", said.append)
    with monkeypatch.context() as stopping:
        stopping.setattr(progress, "interrupted", lambda: next(interrupts))
        with refused("Stopped"):
            sample(light)
    assert [line.split(" · ")[0] for line in said] == [
        f"bringing the memory back, chunk {number} of 3" for number in (1, 2)
    ]
    said.clear()
    sample(light)
    back = [line for line in said if line.startswith("bringing the memory back, ")]
    assert back[-1].startswith("bringing the memory back, 3 chunks · took")
    assert said[len(back)].startswith("chunk 1 of 1")


def test_sizes_are_said(absorbs):
    def said(what):
        return output_of("SaveState", two_chunks()[1], "sana_states/a", what).ui.as_dict()["text"][0]

    history = sum(tensor.numel() * tensor.element_size() for tensor in _light(two_chunks()[1]).tensors)
    assert f"The history only takes {history / 2**20:.1f} MiB." in said("everything")
    assert "history only, 81 frames, " in said("history only")
    assert "everything, 81 frames, " in said("everything")


def test_everything_of_a_light_state(absorbs, caplog):
    """Is saved if somebody has brought its memory back; else the history is, with a word."""
    light = _light(_recached())
    again = run("LoadState", _name(_save(light)))
    assert type(again.state) is LightState
    assert "run a Block Sampler behind this state first" in caplog.text
    assert same_state(again, light)
    sample(light)
    caplog.clear()
    assert same_state(run("LoadState", _name(_save(light))), _recached())
    assert not caplog.records


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"entry": None, "text": None}, "older state file"),
        ({"weights": "x", "loras": ("style 1",)}, "changed within a scene (from style 1 to none)"),
    ],
)
def test_what_can_not_be_light_is_refused_before_anything_is_written(base, changed, said):
    state = two_chunks()[1].state
    state = SocketState.of(replace(state, history=(replace(state.history[0], **changed), state.history[1])))
    before = sorted(base.rglob("*"))
    with refused(said, "Save everything"):
        run("SaveState", state, "sana_states/state", "history only")
    assert [path for path in sorted(base.rglob("*")) if path.is_file()] == [p for p in before if p.is_file()]
    _save(state)


def test_an_empty_stream_is_not_saved(base):
    with refused("stream is empty", "Sample or prime"):
        run("SaveState", start(), "sana_states/state")
    assert not [path for path in (base / "output").rglob("*") if path.is_file()]


def test_a_state_prints_its_report():
    """Preview Any shows what `str` gives, as does ComfyUI in an error."""
    state = two_chunks()[1]
    with pytest.raises(TypeError):
        json.dumps(state)  # then Preview Any asks for text
    assert str(state) == run("StateInfo", state)[1]
    assert "a red ball rolls" in str([state])


def test_names_count_up_and_nothing_is_overwritten():
    names = [_save(one_chunk()[1], prefix).name for prefix in ("a", "a", "b/c", "a")]
    assert names == [
        "a_00001_.safetensors",
        "a_00002_.safetensors",
        "c_00001_.safetensors",
        "a_00003_.safetensors",
    ]


def test_a_file_that_was_rewritten_is_read_again():
    path, ask = _save(one_chunk()[1]), node("LoadState").fingerprint_inputs
    before = ask(_name(path))
    assert ask(_name(path)) == before
    os.utime(path, ns=(1, path.stat().st_mtime_ns + 1))
    assert ask(_name(path)) != before
    with refused("no saved state"):
        ask("sana_states/gone.safetensors [output]")


def test_a_state_of_another_model_is_refused(monkeypatch):
    state = run("LoadState", _name(_save(one_chunk()[1])))
    other = demo().model.clone()
    monkeypatch.setattr(other.model.diffusion_model, "fingerprint", "0" * 64)
    with refused("made by the model", "000000000000"):
        sample(state, model=other)


def test_a_damaged_state_is_refused():
    path = Path("output/sana_states/bad.safetensors")
    path.parent.mkdir(parents=True)
    path.write_bytes(b"no")
    with refused("bad.safetensors"):
        run("LoadState", _name(path.absolute()))
    assert "bad.safetensors" in node("LoadState").validate_inputs(_name(path.absolute()))


def test_another_kind_of_file_is_refused_before_the_run(base):
    path = base / "output" / "sana_states" / "other.safetensors"
    path.parent.mkdir(parents=True)
    for metadata, said in ((None, "isn't a saved state"), ({"sana_video_state": "3"}, "Update the pack")):
        save_file({"x": torch.zeros(1)}, path, metadata)
        assert said in node("LoadState").validate_inputs(_name(path))


# --- names that lead elsewhere


@pytest.mark.parametrize("prefix", ["../state", "/tmp/state", "a/../../state", "..", ".", "", "  ", "a/.."])
def test_a_prefix_stays_in_the_output_folder(base, prefix):
    before = sorted(base.rglob("*"))
    with refused(f"“{prefix}” does not name a file in ComfyUI's output folder", "sana_states/state"):
        run("SaveState", start(), prefix)
    assert prefix in node("SaveState").validate_inputs(prefix)
    assert sorted(base.rglob("*")) == before


def test_a_prefix_does_not_follow_links_out_of_the_output_folder(base):
    (base / "elsewhere").mkdir()
    (base / "output" / "sana_states").mkdir(parents=True)
    (base / "output" / "sana_states" / "link").symlink_to(base / "elsewhere")
    with refused("link/state"):
        run("SaveState", start(), "link/state")
    assert not list((base / "elsewhere").iterdir())


def test_a_prefix_through_a_file_is_refused(base):
    (base / "output" / "sana_states").mkdir(parents=True)
    (base / "output" / "sana_states" / "note").touch()
    with refused("note/state", "cannot be written"):
        run("SaveState", one_chunk()[1], "note/state")


@pytest.mark.parametrize("prefix", ["mine", "sana_states/mine", "sana_states", "film/mine"])
def test_a_saved_state_is_in_the_list(base, prefix):
    """Whatever the prefix, Load State finds it."""
    run("SaveState", one_chunk()[1], prefix)
    (name,) = saved_states()
    assert name.startswith("sana_states/")
    assert saved_state(name).is_file()


@pytest.mark.parametrize(
    "name",
    [
        "../secret.safetensors [output]",
        "sana_states/../../secret.safetensors [output]",
        "../secret.safetensors",
    ],
)
def test_a_name_stays_in_the_folders(base, name):
    (base / "secret.safetensors").touch()
    for absolute in (name, str(base / "secret.safetensors"), f"{base / 'secret.safetensors'} [input]"):
        with refused("outside of ComfyUI's output and input folders"):
            run("LoadState", absolute)
        assert "outside" in node("LoadState").validate_inputs(absolute)


def test_a_missing_state_is_reported_before_the_run():
    check = node("LoadState").validate_inputs
    assert all(word in check("a.safetensors [output]") for word in ("no saved state", "press R"))
    assert check(None) is True  # linked
    assert check(_name(_save(one_chunk()[1]))) is True


def test_a_state_s_file_opens_in_the_page_as_load_state(base):
    """The page reads a dropped file's metadata, and opens the workflow in it."""
    output_of("SaveState", two_chunks()[1], "sana_states/dropped")
    path = base / "output" / "sana_states" / "dropped_00001_.safetensors"
    workflow = json.loads(read_metadata(path)["workflow"])
    load, info = workflow["nodes"]
    assert load["widgets_values"] == ["sana_states/dropped_00001_.safetensors [output]"]
    assert load["widgets_values"][0] in saved_states()
    ((number, source, output, target, socket, kind),) = workflow["links"]
    assert (source, output, target, socket, kind) == (load["id"], 0, info["id"], 0, "SANA_STATE")
    assert load["outputs"][0]["links"] == [number]
    assert info["inputs"][0]["link"] == number
