"""Pages of mapped files are given back once they were looked at; nothing else is."""

import sys
from pathlib import Path

import pytest
import torch
from comfyui_sana_video.sana_video_core.files.mapped import let_go
from comfyui_sana_video.sana_video_core.files.tensor_file import read_tensors
from safetensors.torch import save_file

MEBI = 2**20


def _resident_of_files():
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("RssFile"))


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the system decides")
@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_a_mapped_tensor_keeps_its_values_and_gives_its_memory_back(tmp_path, suffix):
    values = torch.arange(8 * MEBI, dtype=torch.float32)
    path = tmp_path / f"m{suffix}"
    tensors = {"a.b": values, "c.d": values + 1}
    save_file(tensors, path) if suffix == ".safetensors" else torch.save(tensors, path)
    for name, tensor in read_tensors(path)[0].items():
        assert torch.equal(tensor, tensors[name])
        before = _resident_of_files()
        let_go(tensor)
        assert before - _resident_of_files() > 31 * MEBI
        assert torch.equal(tensor, tensors[name])


def test_other_memory_stays():
    values = torch.arange(4 * MEBI)
    let_go(values)
    assert torch.equal(values, torch.arange(4 * MEBI))
