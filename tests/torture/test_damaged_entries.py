"""Damaged stores: an entry is given as it was written or made again, and nothing is raised.

`python -m pytest tests/torture/test_damaged_entries.py --full` tries 2,000 damages and 30
kills in a minute; the suite, four and one. A case is its number: the same number makes the same damage.
"""

import logging
import os
import random
import signal
import struct
import time

import pytest
import torch
from comfyui_sana_video.sana_video_core.films import entry
from comfyui_sana_video.sana_video_core.films.layout import entry_path
from comfyui_sana_video.sana_video_core.films.store import Store
from comfyui_sana_video.sana_video_core.films.survey import survey
from safetensors.torch import load_file, save_file
from support.pack import same

CASES = {"damage": (2000, 4), "kill": (30, 1)}
KEYS = [f"{number:064x}" for number in (1, 2)]
WORDS = ("", "0", "1", "2", "-1", "chunks", "memories", *KEYS)
VALUES = (*WORDS, "[]", "{", "null", "é", "\0", "9" * 300, "[" * 9999)
DTYPES = (torch.float64, torch.float16, torch.bool, torch.float8_e4m3fn, torch.int8, torch.complex64)


def pytest_generate_tests(metafunc):
    for name, counts in CASES.items():
        if name in metafunc.fixturenames:
            metafunc.parametrize(name, range(counts[not metafunc.config.getoption("--full")]))


def _tensors(number):
    made = torch.Generator().manual_seed(number)
    latents, tail = torch.randn(1, 2, 3, 2, 2, generator=made), torch.randn(5, generator=made)
    return {"latents": latents, "tail": tail.bfloat16()}


def _spoiled_bytes(rng, path, _):
    data = bytearray(path.read_bytes())
    for _ in range(rng.choice((1, 1, 3, 20))):
        place = rng.randrange(max(1, min(len(data), rng.choice((8, 400, 10**9)))))
        change = rng.randrange(6)
        if change == 0:
            del data[place:]
        elif change == 1 and place < len(data):
            data[place] ^= 1 << rng.randrange(8)
        elif change == 2:
            data[place:place] = data[: rng.randrange(64)]
        elif change == 3:
            data[place : place + 8] = struct.pack("<Q", rng.choice((0, 1, 2**20, 2**31, 2**63, 2**64 - 1)))
        elif change == 4:
            data[place : place + rng.randrange(600)] = b"\0" * rng.randrange(600)  # a page that was lost
        else:
            data[:] = rng.choice((b"", b"\0" * len(data), b"PK\3\4", b"GGUF", b"<html>"))
    path.write_bytes(data)
    return False


def _changed(rng, name, tensor):
    changes = (
        dict,
        lambda: {f"{name}{rng.choice(WORDS)}": tensor},
        lambda: {name: tensor.float().to(rng.choice(DTYPES))},
        lambda: {name: tensor.reshape(-1)[: rng.randrange(4)]},
        lambda: {name: torch.full_like(tensor, rng.choice((0.0, 1.0)))},
        lambda: {
            name: torch.full_like(tensor, rng.choice((float("nan"), float("inf"))), dtype=torch.float32)
        },
    )
    return rng.choice(changes)()


def _spoiled_parts(rng, path, _):
    tensors, metadata = load_file(path), entry.read_safetensors(path)[1]
    name = rng.choice(sorted(tensors))
    if rng.randrange(2):
        tensors |= _changed(rng, name, tensors.pop(name))
    for _ in range(rng.choice((0, 1, 3))):
        metadata[rng.choice((*metadata, "other"))] = rng.choice(VALUES)
    if rng.randrange(2):
        metadata["content"] = entry.tensors_digest(tensors)
    if resealed := rng.randrange(2) == 1:  # the work of a later version, or of a forger
        metadata["seal"] = entry.json_digest({name: metadata.get(name, "") for name in entry.SEALED})
    save_file({name: tensor.contiguous().clone() for name, tensor in tensors.items()}, path, metadata)
    return resealed


def _exchanged(rng, path, other):
    path.write_bytes(other.read_bytes()[: rng.choice((100, 10**9))])
    return False


def test_a_damaged_entry_is_made_again(damage, tmp_path, caplog):
    caplog.set_level(logging.WARNING)
    rng, films = random.Random(damage), Store(tmp_path / "store")
    for number, key in enumerate(KEYS):
        films.write("chunks", key, _tensors(number), {"number": number})
    path, other = (entry_path(films.folder, "chunks", key) for key in KEYS)
    spoil = rng.choice((_spoiled_bytes, _spoiled_bytes, _spoiled_parts, _exchanged))
    resealed = spoil(rng, path, other)
    read = films.read("chunks", KEYS[0])
    if read is None:
        assert len(caplog.messages) == 1
        assert len(caplog.messages[0]) < 1000
        assert not path.exists()
        read = films.write("chunks", KEYS[0], _tensors(0), {"number": 0})
    elif resealed:  # it says the right things about itself
        assert entry.tensors_digest(read.tensors) == read.content
        return
    assert read.about == {"number": 0}
    assert all(same(read.tensors[name], tensor) for name, tensor in _tensors(0).items())
    assert films.read("chunks", KEYS[1]).about == {"number": 1}


@pytest.mark.skipif(os.name != "posix", reason="kills as POSIX does")
def test_a_killed_writer_leaves_whole_entries(kill, tmp_path, caplog):
    rng, films = random.Random(kill), Store(tmp_path / "store")
    child = os.fork()
    if not child:
        try:
            for number in range(10**6):
                films.write("chunks", f"{number:064x}", _tensors(number), {})
        finally:
            os._exit(1)
    try:
        time.sleep(rng.uniform(0.02, 0.2))
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    films.write("segments", KEYS[0], {}, {})
    items = [item for item in survey(films.folder).items if item.kind == "chunks"]
    assert all(films.read("chunks", item.key) for item in items)
    assert [int(item.key, 16) for item in items] == list(range(len(items))), (
        "what was written before is there"
    )
    assert not list(films.folder.glob(".*"))
    assert not caplog.records
