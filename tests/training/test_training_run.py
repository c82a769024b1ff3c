"""The one command that trains everything, with a few steps of each stage."""

import re
import shutil
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from unittest.mock import patch

import pytest
import torch
from comfyui_sana_video.demo.model_set import DemoSet, demo_set
from comfyui_sana_video.sana_video_core.errors import FileError
from comfyui_sana_video.sana_video_core.files.tensor_file import read_tensors
from comfyui_sana_video.training.run import main
from comfyui_sana_video.training.sampling import load, prompt_of
from comfyui_sana_video.training.stages import begin_folder

pytestmark = pytest.mark.slow


def run(folder, *options, status=0):
    """What the command prints, on a CPU."""
    output = StringIO()
    with (
        patch.object(torch.cuda, "is_available", lambda: False),
        redirect_stdout(output),
        redirect_stderr(output),
    ):
        assert main(["--smoke", "--folder", str(folder), *options]) == status
    return output.getvalue()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Trained in two calls: the first one has no time for anything."""
    folder = tmp_path_factory.mktemp("training")
    assert "time is up" in run(folder, "--minutes", "0")
    assert run(folder).strip().endswith("done")
    return folder


def test_the_set_works_and_tells_how_it_came_to_be(folder):
    paths = DemoSet.at(folder / "set")
    models = load(paths, "cpu")
    latents = torch.randn(1, 16, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    prompt = prompt_of(models, ["a red ball spins over a blue floor"])
    with torch.no_grad():
        velocity = models.transformer(latents, torch.tensor([960]), prompt.embeddings, prompt.mask)
    assert velocity.isfinite().all()
    for path in (paths.transformer, paths.vae, paths.text_encoder / "model.safetensors"):
        _, metadata = read_tensors(path)
        assert "scenes.py" in metadata["note"]
        assert re.search(r'"steps": "\d+ of \d+"', metadata["training"])


def test_what_is_kept_is_small(folder):
    kept = [path for path in folder.iterdir() if path.is_file()]
    assert {path.name.split("-")[0] for path in kept if path.suffix == ".safetensors"} == {
        "student",
        "teacher",
        "vae.safetensors",
    }
    assert max(path.stat().st_size for path in kept) < 16 * 2**20
    assert sum(path.stat().st_size for path in kept) < 48 * 2**20


def test_who_is_done_stays_done(folder):
    before = read_tensors(DemoSet.at(folder / "set").transformer)[0]
    assert run(folder).strip().endswith("done")
    after = read_tensors(DemoSet.at(folder / "set").transformer)[0]
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())


def test_a_training_can_begin_with_a_set(tmp_path):
    trained = demo_set()
    run(tmp_path, "--start", str(trained.vae.parent))
    assert read_tensors(tmp_path / "vae.safetensors")[1] == read_tensors(trained.vae)[1]
    begun = read_tensors(DemoSet.at(tmp_path / "set").transformer)[0]
    for name, tensor in read_tensors(trained.transformer)[0].items():
        assert torch.allclose(begun[name].float(), tensor.float(), atol=0.02), name


def test_a_training_on_another_vae_is_not_mixed_with_a_set(folder):
    with pytest.raises(FileError, match="holds a training on another VAE"):
        begin_folder(folder, demo_set().vae)


@pytest.mark.parametrize("damaged", ["demo_vae.safetensors", "demo_text/model.safetensors"])
def test_half_a_set_is_refused_in_a_sentence_before_anything_is_written(tmp_path, damaged):
    half, new = tmp_path / "half", tmp_path / "new"
    shutil.copytree(demo_set().vae.parent, half)
    (half / damaged).unlink()
    assert "half" in run(new, "--start", str(half), status=1)
    assert not list(new.iterdir())
