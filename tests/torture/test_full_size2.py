"""Files of SANA-Video 2.0 in their published size, of zeros: read within the memory of a usual machine.

`python -m pytest tests/torture/test_full_size2.py --full` writes 17.9 and 8.9 GB, sparse: a few megabytes
of the disk where its file system has holes. By hand only: minutes, and 16 GB of RAM.
"""

from __future__ import annotations

import json
import os
import shutil
import struct
import subprocess
import sys

import pytest
import torch
from support.pack import Pack

PACK = Pack()
GIB = 2**30
MOST = 16 * GIB  # resident, at any moment
NEEDED = 2 * GIB  # of disk, for what isn't a hole
READ = """
import resource, sys, time
sys.path.insert(0, "tests")
import conftest
import torch
from comfyui_sana_video.sana_video_core.checkpoints.checkpoint import load_transformer, read_checkpoint
path, how = sys.argv[1:]
begin = time.time()
if how == "read":
    family = read_checkpoint(path).family.name
else:
    model = load_transformer(path, dtype=torch.bfloat16)
    family = model.family.name
    assert model.dtype == torch.bfloat16
print(family, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, round(time.time() - begin))
"""


@pytest.fixture(scope="module")
def shapes():
    config = PACK.core("config").SANA_VIDEO2_720P.config
    network = PACK.core("checkpoints.checkpoint").network_of(config, PACK.core("config").SANA_VIDEO2_720P)
    return {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}


def test_the_published_sizes(shapes):
    """795 parameters, 4,466,980,960 values."""
    assert len(shapes) == 795
    assert sum(torch.Size(shape).numel() for shape in shapes.values()) == 4_466_980_960


@pytest.mark.parametrize("how", ["read", "load"])
@pytest.mark.parametrize(
    ("name", "family"),
    [
        ("SANA_Video_2.0_5B_720p.pth", "sana_video2_720p"),
        ("SANA_Video_2.0_5B_720p_4step.safetensors", "sana_video2_720p_4step"),
    ],
)
def test_a_file_of_full_size(name, family, how, shapes, tmp_path, request):
    if not request.config.getoption("--full"):
        pytest.skip("gigabytes, by hand: --full")
    if shutil.disk_usage(tmp_path).free < NEEDED:
        pytest.skip("no room on the disk")
    path = tmp_path / name
    (_sparse_pickle if name.endswith(".pth") else _sparse_safetensors)(path, shapes)
    assert path.stat().st_blocks * 512 < NEEDED, "this file system has no holes"
    try:
        words = [sys.executable, "-c", READ, str(path), how]
        out = subprocess.run(words, capture_output=True, text=True, check=True, cwd=request.config.rootpath)
    finally:
        path.unlink()
    read, peak, seconds = out.stdout.split()
    print(f"\n{name} ({how}): {int(peak) / 2**20:.2f} GiB at most, {seconds} s")  # noqa: T201
    assert read == family
    assert int(peak) * 1024 < MOST


def _sparse_pickle(path, shapes):
    """As torch.save writes it, float32 under “state_dict”; the values are holes."""
    tensors = {f"model.{name}": torch.empty(shape) for name, shape in shapes.items()}  # never touched
    with torch.serialization.skip_data():
        torch.save({"state_dict": tensors}, path)


def _sparse_safetensors(path, shapes):
    """bfloat16 under original names; the values are one hole."""
    header, end = {}, 0
    for name, shape in shapes.items():
        begin, end = end, end + 2 * torch.Size(shape).numel()
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        os.truncate(file.fileno(), 8 + len(text) + end)
