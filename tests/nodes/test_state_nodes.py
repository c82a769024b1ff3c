"""State Info, Save State, Load State."""

import json
import os
from pathlib import Path

import pytest
import torch
from comfyui_sana_video.nodes.files import saved_state, saved_states
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


def _save(state, prefix="sana_states/state") -> Path:
    """The newest file, and what the node said of it."""
    before = set(Path.cwd().glob("output/**/*"))
    output = output_of("SaveState", state, prefix)
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
