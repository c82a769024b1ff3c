"""A family that a file contradicts is refused, without reading weights."""

import json

import pytest
import torch
from comfyui_sana_video.sana_video_core.checkpoints.said_family import check_family, said_family
from comfyui_sana_video.sana_video_core.errors import InputError
from safetensors.torch import save_file

CAUSAL = {"_class_name": "SanaVideoCausalTransformer3DModel"}


def _converted(folder, family, suffix=".safetensors"):
    """As `sana-video convert` writes it, apart from the weights."""
    metadata = {"sana_video": "1", "config": json.dumps({"family": family})}
    save_file({"x": torch.zeros(1)}, folder / f"model{suffix}", metadata)
    return folder / f"model{suffix}"


@pytest.mark.parametrize(
    "said, chosen, fits",
    [
        ("sana_video_480p", "sana_video_480p", True),
        ("sana_video_480p", "longsana_480p", False),
        ("longsana_480p", "sana_video_480p", False),
        ("longsana_480p", "sana_video_720p", False),
        ("demo", "longsana_480p", False),
        ("demo", "sana_video_480p", True),  # the demo tries the 50-step nodes, too
        ("unheard_of", "longsana_480p", True),  # told where it is loaded
    ],
)
@pytest.mark.parametrize("suffix", [".safetensors", ".sft", ".SAFETENSORS"])
def test_a_converted_file_says_its_family(tmp_path, said, chosen, fits, suffix):
    path = _converted(tmp_path, said, suffix)
    if fits:
        check_family(path, chosen)
        return
    with pytest.raises(InputError, match=f"of the family {said}, and {chosen} was chosen. Choose auto"):
        check_family(path, chosen)


def test_a_folder_says_it_in_its_config(tmp_path):
    (tmp_path / "transformer").mkdir()
    for folder in (tmp_path / "transformer", tmp_path):
        assert said_family(tmp_path) is None
        (folder / "config.json").write_text(json.dumps(CAUSAL))
        assert said_family(folder) == "longsana_480p"
        with pytest.raises(InputError, match="longsana_480p, and sana_video_480p"):
            check_family(tmp_path, "sana_video_480p")
        (folder / "config.json").write_text(json.dumps({"family": "sana_video_480p"}))
        with pytest.raises(InputError, match="sana_video_480p, and longsana_480p"):
            check_family(tmp_path, "longsana_480p")
        (folder / "config.json").unlink()
        if folder.name == "transformer":
            folder.rmdir()


def test_other_files_say_nothing(tmp_path):
    save_file({"x": torch.zeros(1)}, tmp_path / "longsana.safetensors")
    torch.save({}, tmp_path / "original.pth")
    (tmp_path / "config.json").write_text(json.dumps({"_class_name": "FluxTransformer", "family": "demo"}))
    for name in ("longsana.safetensors", "original.pth"):
        assert said_family(tmp_path / name) is None
        check_family(tmp_path / name, "sana_video_480p")


def test_an_unknown_choice_is_refused(tmp_path):
    with pytest.raises(InputError, match="no family “toaster”"):
        check_family(_converted(tmp_path, "demo"), "toaster")
