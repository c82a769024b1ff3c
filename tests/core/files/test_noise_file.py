"""The noise that a clip starts from, as other programs save it."""

import pytest
import torch
from comfyui_sana_video.sana_video_core.errors import FileError
from comfyui_sana_video.sana_video_core.files.noise_file import read_noise
from safetensors.torch import save_file

NOISE = torch.randn(1, 16, 3, 4, 6, generator=torch.Generator().manual_seed(0))
VERSION = {"latent_format_version_0": torch.tensor([])}  # what ComfyUI's Save Latent adds


@pytest.mark.parametrize(
    "name, write",
    [
        ("n.pt", lambda path: torch.save(NOISE, path)),
        ("n.pth", lambda path: torch.save({"z": NOISE, "seed": torch.tensor(3)}, path)),
        ("n.safetensors", lambda path: save_file({"noise": NOISE}, path)),
        ("N.LATENT", lambda path: save_file({"latent_tensor": NOISE, **VERSION}, path)),
    ],
)
def test_a_tensor_comes_back_as_it_is(tmp_path, name, write):
    write(tmp_path / name)
    assert torch.equal(read_noise(tmp_path / name), NOISE)


def test_other_dtypes_become_float32_and_the_file_may_change(tmp_path):
    path = tmp_path / "n.safetensors"
    save_file({"noise": NOISE.bfloat16()}, path)
    noise = read_noise(path)
    assert noise.dtype == torch.float32
    path.write_bytes(bytes(path.stat().st_size))
    assert torch.equal(noise, NOISE.bfloat16().float())


@pytest.mark.parametrize(
    "name, write, words",
    [
        ("n.pt", lambda path: torch.save({"a": NOISE, "b": NOISE}, path), "holds 2 of that kind"),
        ("n.pt", lambda path: torch.save(NOISE[0], path), "holds 0 of that kind"),
        ("n.pt", lambda path: torch.save(NOISE.long(), path), "holds 0 of that kind"),
        ("n.pt", lambda path: torch.save({}, path), r"\(nothing\)"),
        ("n.pt", lambda path: torch.save([NOISE], path), r"holds 0 of that kind \(nothing\)"),
        ("n.pt", lambda path: path.write_bytes(b"x" * 100), "cannot be read"),
        ("n.latent", lambda path: path.write_bytes(b"x" * 100), "cannot be read"),
        ("n.npy", lambda path: path.touch(), "use one of .safetensors, .sft, .latent, .pth"),
        ("n.pt", lambda path: None, "There is no file"),
        ("n.latent", lambda path: path.mkdir(), "There is no file"),
    ],
)
def test_other_files_are_refused_with_a_sentence(tmp_path, name, write, words):
    write(tmp_path / name)
    with pytest.raises(FileError, match=words):
        read_noise(tmp_path / name)
