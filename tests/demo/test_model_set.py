"""The demo sets: the trained one is there and whole; a random one is the same from the same seed, complete or
absent.

In both the three models fit each other.
"""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from comfyui_sana_video.demo import model_set as module
from comfyui_sana_video.demo.model_set import TINY, DemoSet, demo_set, seeded, write_demo_set
from comfyui_sana_video.sana_video_core.checkpoints.checkpoint import load_transformer
from comfyui_sana_video.sana_video_core.checkpoints.vae_file import load_vae
from comfyui_sana_video.sana_video_core.config import DEMO
from comfyui_sana_video.sana_video_core.errors import FileError
from comfyui_sana_video.sana_video_core.files.tensor_file import read_tensors
from comfyui_sana_video.sana_video_core.text.encoder import load_text_encoder
from comfyui_sana_video.sana_video_core.transformer.model import SanaVideo
from safetensors import SafetensorError
from support.checkpoint_files import refusal
from support.pack import ROOT

FILES = (
    "demo_text/config.json",
    "demo_text/model.safetensors",
    "demo_text/tokenizer.json",
    "demo_text/tokenizer_config.json",
    "demo_transformer.safetensors",
    "demo_vae.safetensors",
)
OTHER_PROCESS = """
import sys
sys.path.insert(0, sys.argv[1])
import conftest
from comfyui_sana_video.demo.model_set import write_demo_set
write_demo_set(sys.argv[2])
"""


def _content(path):
    """What a file holds; safetensors writes equal metadata in any order, so its parts are compared."""
    if path.suffix != ".safetensors":
        return path.read_bytes()
    tensors, metadata = read_tensors(path)
    return {name: (str(t.dtype), t.shape, t.numpy().tobytes()) for name, t in tensors.items()}, metadata


def _contents(folder):
    return {
        path.relative_to(folder).as_posix(): _content(path) for path in folder.rglob("*") if path.is_file()
    }


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A set, written while nobody's random numbers may be touched."""
    numpy_state = np.random.get_state()[1].copy()  # noqa: NPY002  the global one
    states = torch.random.get_rng_state(), numpy_state, random.getstate()
    folder = tmp_path_factory.mktemp("demo") / "new" / "set"
    assert write_demo_set(folder) == DemoSet.at(folder)
    assert torch.equal(torch.random.get_rng_state(), states[0])
    assert (np.random.get_state()[1] == states[1]).all()  # noqa: NPY002
    assert random.getstate() == states[2]
    return folder


def _size(folder):
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def test_files_and_size(folder):
    assert (
        set(_contents(folder))
        == set(FILES)
        == {p.relative_to(folder).as_posix() for p in DemoSet.at(folder).files()}
    )
    assert _size(folder) < 8 * 2**20
    assert [path.name for path in folder.parent.iterdir()] == ["set"]


def test_the_same_content_in_another_process(folder, tmp_path):
    """Another order of hashes, another state of random numbers, another time."""
    environment = os.environ | {"PYTHONHASHSEED": "7"}
    command = [sys.executable, "-c", OTHER_PROCESS, str(ROOT / "tests"), str(tmp_path / "set")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert _contents(tmp_path / "set") == _contents(folder)


def test_the_same_content_again_and_others_from_another_seed(folder, tmp_path):
    torch.randn(3)  # the global generator stands elsewhere
    write_demo_set(str(tmp_path / "same"))
    assert _contents(tmp_path / "same") == _contents(folder)
    write_demo_set(tmp_path / "other", seed=1)
    other, contents = _contents(tmp_path / "other"), _contents(folder)
    for name in FILES:
        assert (other[name] != contents[name]) == name.endswith(".safetensors"), name


# --- what is in a set


@pytest.fixture(params=["trained", "random"])
def paths(request, folder):
    return demo_set() if request.param == "trained" else DemoSet.at(folder)


def test_sizes_are_read_off_the_file(folder):
    """The family of a random set is the demo's, its sizes are its own."""
    for paths, sizes in ((demo_set(), DEMO.config), (DemoSet.at(folder), TINY)):
        transformer = load_transformer(paths.transformer)
        assert transformer.config == sizes
        assert transformer.family is DEMO
    assert DEMO.config != TINY


def test_the_three_fit_each_other(paths):
    transformer, vae = load_transformer(paths.transformer), load_vae(paths.vae)
    encoder = load_text_encoder(paths.text_encoder)
    embeddings, mask = encoder.encode("a small red circle", system_prompt=False)
    assert embeddings.shape[2] == transformer.config.caption_channels
    assert vae.config.latent_channels == transformer.config.channels
    latents = torch.randn(1, vae.config.latent_channels, 1, 4, 6, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        velocity = transformer(latents, torch.tensor([500]), embeddings, mask)
        pixels = vae.decode(latents - velocity)
        assert vae.encode(pixels).shape == latents.shape
    assert velocity.isfinite().all()
    assert pixels.shape == (1, 3, 1, 32, 48)


def test_random_pictures_are_not_grey(folder):
    latents = torch.randn(1, 16, 1, 4, 6, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert load_vae(DemoSet.at(folder).vae).decode(latents).std() > 0.1


def test_the_prompt_and_the_time_matter(paths):
    """A demo in which words do nothing would let a broken text path pass."""
    transformer, encoder = load_transformer(paths.transformer), load_text_encoder(paths.text_encoder)
    latents = torch.randn(1, 16, 1, 4, 6, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        results = [
            transformer(latents, torch.tensor([t]), *encoder.encode(words, system_prompt=False))
            for words, t in (("a red circle", 500), ("a blue square", 500), ("a red circle", 900))
        ]
    for other in results[1:]:
        assert (results[0] - other).abs().max() > 1e-3


def test_seeded_draws_every_parameter(folder):
    model = seeded(SanaVideo(DEMO.config, DEMO), 5)
    same, other = (seeded(SanaVideo(DEMO.config, DEMO), seed) for seed in (5, 6))
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, same.state_dict()[name])
        assert not torch.equal(tensor, other.state_dict()[name])
        assert tensor.unique().numel() > tensor.numel() // 2


# --- complete or absent


@pytest.mark.parametrize("content", ["empty", "full", "file"])
def test_an_existing_folder_is_refused(tmp_path, content):
    path = tmp_path / "set"
    if content == "file":
        path.write_text("mine")
    else:
        path.mkdir()
        if content == "full":
            (path / "mine").touch()
    before = _contents(tmp_path)
    assert "exists already" in refusal(lambda: write_demo_set(path), FileError)
    assert _contents(tmp_path) == before


@pytest.mark.parametrize(
    "error",
    [
        KeyboardInterrupt(),
        ZeroDivisionError(),
        OSError(28, "No space left on device"),
        SafetensorError("I/O error: No space left on device"),
        Exception("No space left on device"),  # what tokenizers raises
    ],
    ids=lambda error: type(error).__name__,
)
@pytest.mark.parametrize("step", ["save_transformer", "write_tensors", "build_demo_text_encoder"])
def test_a_failure_in_the_middle_leaves_nothing(tmp_path, monkeypatch, error, step):
    right = getattr(module, step)

    def fails(*arguments, **options):
        right(*arguments, **options)
        raise error

    monkeypatch.setattr(module, step, fails)
    path = tmp_path / "set"
    if isinstance(error, KeyboardInterrupt | ZeroDivisionError):
        with pytest.raises(type(error)):
            write_demo_set(path)
    else:
        message = refusal(lambda: write_demo_set(path), FileError)
        assert f"“{path}” (" in message
        assert "No space left" in message
    assert list(tmp_path.iterdir()) == []


def test_a_set_that_somebody_else_finished_meanwhile_is_taken(folder, tmp_path, monkeypatch):
    path = tmp_path / "set"
    right = module._write

    def slower(paths, seed):
        monkeypatch.setattr(module, "_write", right)
        write_demo_set(path)
        right(paths, seed)

    monkeypatch.setattr(module, "_write", slower)
    assert write_demo_set(path) == DemoSet.at(path)
    assert _contents(path) == _contents(folder)
    assert [file.name for file in tmp_path.iterdir()] == ["set"]


def test_a_place_where_no_folder_can_be(tmp_path):
    (tmp_path / "file").touch()
    for place in (tmp_path / "file" / "set", tmp_path / ("x" * 300)):
        with pytest.raises(FileError, match=r"cannot be (written|opened)"):
            write_demo_set(place)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_the_set_is_made_beside_its_place(tmp_path, monkeypatch):
    """And not in the system's temporary folder: a rename works on one disk only."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(elsewhere))

    def write(paths, seed):
        assert list(elsewhere.iterdir()) == []
        paths.transformer.touch()

    monkeypatch.setattr(module, "_write", write)
    write_demo_set(tmp_path / "set")
    assert (tmp_path / "set").is_dir()


# --- the trained set


def test_the_trained_set_lies_in_the_pack():
    assert demo_set() == DemoSet.at(ROOT / "demo")
    assert _size(ROOT / "demo") <= 16 * 2**20, "everybody downloads it with the pack"


@pytest.mark.parametrize("name", [None, *FILES])
def test_a_pack_that_lacks_a_file_of_the_demo_says_which(tmp_path, monkeypatch, name):
    pack = tmp_path / "pack"
    shutil.copytree(ROOT / "demo", pack / "demo", copy_function=lambda source, target: Path(target).touch())
    monkeypatch.setattr(module, "FOLDER", pack / "demo")
    if name is None:
        assert demo_set() == DemoSet.at(pack / "demo")
        return
    (pack / "demo" / name).unlink()
    message = refusal(demo_set, FileError)
    assert f"“demo/{name}” is not in this pack's folder “{pack}”" in message
    assert "Get the pack again" in message
