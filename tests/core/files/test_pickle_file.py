"""Pickles: what training leaves in them is let through or named, and false sizes are refused."""

from __future__ import annotations

import pickle
import struct
import time
import zipfile

import numpy as np
import pytest
import torch
from comfyui_sana_video.sana_video_core.errors import FileError
from comfyui_sana_video.sana_video_core.files import pickle_file, tensor_file
from comfyui_sana_video.sana_video_core.files.pickle_file import read_pickle
from comfyui_sana_video.sana_video_core.files.tensor_file import read_tensors
from support.checkpoint_files import refusal

WEIGHTS = {"a.weight": torch.arange(12.0).view(3, 4), "b.bias": torch.ones(5)}


def _same(path, expected=WEIGHTS):
    tensors, _ = read_tensors(path)
    return tensors.keys() == expected.keys() and all(torch.equal(tensors[n], expected[n]) for n in expected)


# --- numpy's random state, as NVlabs' training saves it


@pytest.mark.parametrize("new", [True, False], ids=["zip", "old"])
@pytest.mark.parametrize("core", ["core", "_core"])
def test_a_numpy_random_state_is_let_through(tmp_path, new, core):
    """Under the names of numpy 1 and of numpy 2, whichever is installed."""
    path = tmp_path / "x.pth"
    rng = {"numpy": np.random.RandomState(0).get_state(), "python": (3, (1, 2), None)}
    content = {"state_dict": WEIGHTS, "rng_state": rng}
    torch.save(content, path, _use_new_zipfile_serialization=new)
    here = np.ndarray(0).__reduce__()[0].__module__.encode()
    other = f"numpy.{core}.multiarray".encode()
    if new:
        with zipfile.ZipFile(path) as archive:
            records = {name: archive.read(name) for name in archive.namelist()}
        with zipfile.ZipFile(path, "w") as archive:
            for name, data in records.items():
                archive.writestr(name, data.replace(here, other) if name.endswith("data.pkl") else data)
    else:
        path.write_bytes(path.read_bytes().replace(here, other))
    assert other in path.read_bytes()
    content = read_pickle(path)
    assert isinstance(content, dict)
    assert content["rng_state"]["numpy"][0] == "MT19937"


def test_weights_beside_a_numpy_state(tmp_path):
    torch.save({"state_dict": WEIGHTS, "rng": np.random.RandomState(0).get_state()}, tmp_path / "x.pth")
    assert _same(tmp_path / "x.pth")


def test_what_the_host_allows_stays_allowed(tmp_path):
    torch.save({"state_dict": WEIGHTS, "rng": np.random.RandomState(0).get_state()}, tmp_path / "x.pth")
    before = set(torch.serialization.get_safe_globals())
    with torch.serialization.safe_globals([np.dtype]):
        assert _same(tmp_path / "x.pth")
        assert set(torch.serialization.get_safe_globals()) == before | {np.dtype}
    assert set(torch.serialization.get_safe_globals()) == before


@pytest.mark.parametrize("odd", [np.float64(1.0), np.array([None, 1], dtype=object), np.array(["a"])])
def test_nothing_else_of_numpy_is_let_through(tmp_path, odd):
    torch.save({"state_dict": WEIGHTS, "metrics": odd}, tmp_path / "x.pth")
    assert "numpy" in refusal(lambda: read_tensors(tmp_path / "x.pth"), FileError)


# --- files that only claim to be large


def _refused_at_once(path):
    began = time.process_time()
    message = refusal(lambda: read_tensors(path), FileError)
    assert time.process_time() - began < 1
    assert path.name in message
    return message


def test_compressed_records_are_not_unpacked(tmp_path):
    torch.save({"state_dict": WEIGHTS}, tmp_path / "small.pth")
    with zipfile.ZipFile(tmp_path / "small.pth") as archive:
        records = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(tmp_path / "x.pth", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in records.items():
            archive.writestr(name, bytes(1 << 24) if name.endswith("data/0") else data)
    assert (tmp_path / "x.pth").stat().st_size < 1 << 20
    assert "it is compressed, and would unpack to 16,7" in _refused_at_once(tmp_path / "x.pth")


def test_overlapping_records(tmp_path):
    """Each entry of the directory points to the same bytes."""
    torch.save({"state_dict": {"a.b": torch.zeros(1000)}}, tmp_path / "x.pth")
    data = bytearray((tmp_path / "x.pth").read_bytes())
    ends = [i for i in range(len(data)) if data[i : i + 4] == b"PK\x01\x02"]
    for end in ends:  # sizes of every record
        struct.pack_into("<LL", data, end + 20, 3000, 3000)
    (tmp_path / "x.pth").write_bytes(data)
    assert "overlap" in _refused_at_once(tmp_path / "x.pth")


def test_a_directory_without_end(tmp_path):
    torch.save({"state_dict": WEIGHTS}, tmp_path / "x.pth")
    data = bytearray((tmp_path / "x.pth").read_bytes())
    struct.pack_into("<L", data, data.rfind(b"PK\x05\x06") + 12, 1 << 30)
    struct.pack_into("<Q", data, data.rfind(b"PK\x06\x06") + 40, 1 << 40)
    (tmp_path / "x.pth").write_bytes(data)
    assert "more records" in _refused_at_once(tmp_path / "x.pth")


def test_a_program_without_end(tmp_path, monkeypatch):
    program = b"\x80\x02" + b"]" * (1 << 16)
    with zipfile.ZipFile(tmp_path / "x.pth", "w") as archive:
        archive.writestr("x/data.pkl", program)
    (tmp_path / "y.pth").write_bytes(program)
    monkeypatch.setattr(pickle_file, "MOST_INSTRUCTIONS", 1 << 10)
    for name in ("x.pth", "y.pth"):
        assert "instructions" in _refused_at_once(tmp_path / name)
    monkeypatch.setattr(pickle_file, "LARGEST_PROGRAM", 1 << 10)
    assert "4 MB" in _refused_at_once(tmp_path / "x.pth")


@pytest.mark.parametrize("new", [True, False], ids=["zip", "old"])
def test_tuples_that_hold_each_other(tmp_path, new):
    """Each holds the one before twice, so the hash of the last one, as a key, would take 2^25 steps."""
    key = b"}(" + b")" + b"q\0h\0\x86" * 25 + b"K\1u."
    if new:
        with zipfile.ZipFile(tmp_path / "x.pth", "w") as archive:
            archive.writestr("x/data.pkl", b"\x80\2" + key)
            archive.writestr("x/version", b"3\n")
    else:
        torch.save({}, tmp_path / "x.pth", _use_new_zipfile_serialization=False)
        empty = pickle.dumps({}, 2)
        start = (tmp_path / "x.pth").read_bytes()
        place = start.rindex(empty)
        (tmp_path / "x.pth").write_bytes(start[:place] + b"\x80\2" + key + start[place + len(empty) :])
    assert "again and again" in _refused_at_once(tmp_path / "x.pth")


def test_keys_that_share_tuples(tmp_path):
    shared = (1, (2, 3))
    content = {"state_dict": WEIGHTS, "x": {(shared, shared): 1, ((shared,) * 9,) * 9: [shared] * 9}}
    torch.save(content, tmp_path / "x.pth")
    assert _same(tmp_path / "x.pth")


@pytest.mark.parametrize("new", [True, False], ids=["zip", "old"])
def test_objects_that_torch_allows_and_that_inflate(tmp_path, new):
    class Zeros:
        def __reduce__(self):
            return bytearray, (1 << 30,)

    torch.save({"a.b": Zeros()}, tmp_path / "x.pth", _use_new_zipfile_serialization=new)
    assert "bytearray" in _refused_at_once(tmp_path / "x.pth")


def test_more_tensors_or_records_than_a_checkpoint_has(tmp_path, monkeypatch):
    torch.save({f"a.{i}": torch.zeros(1) for i in range(30)}, tmp_path / "x.pth")
    monkeypatch.setattr(tensor_file, "MOST_WEIGHTS", 29)
    assert "30 tensors" in _refused_at_once(tmp_path / "x.pth")
    monkeypatch.setattr(pickle_file, "MOST_RECORDS", 29)
    assert "records" in _refused_at_once(tmp_path / "x.pth")


def test_values_that_are_not_in_the_file(tmp_path):
    torch.save({"a.b": torch.zeros(1).expand(1 << 30)}, tmp_path / "x.pth")
    assert "a.b" in _refused_at_once(tmp_path / "x.pth")


def test_an_old_file_that_claims_gigabytes(tmp_path):
    torch.save({"a.b": torch.zeros(3)}, tmp_path / "x.pth", _use_new_zipfile_serialization=False)
    data = (tmp_path / "x.pth").read_bytes()
    claim = data.replace(b"K\x03", b"\x8a\x08" + struct.pack("<q", 1 << 45), 1)
    (tmp_path / "x.pth").write_bytes(claim)
    assert data != claim
    _refused_at_once(tmp_path / "x.pth")


def test_memory_that_is_not_there(tmp_path, monkeypatch):
    torch.save(WEIGHTS, tmp_path / "x.pth")

    def full(*_, **__):
        raise MemoryError

    monkeypatch.setattr(torch, "load", full)
    _refused_at_once(tmp_path / "x.pth")


# --- other makers' objects


def test_a_quantisers_objects_are_named_as_such(tmp_path):
    foreign = b"\x80\x02}q\x00X\x01\x00\x00\x00aq\x01ctorchao.dtypes\nAffineQuantizedTensor\nq\x02s."
    torch.save({"a": 1}, tmp_path / "x.pth")
    with zipfile.ZipFile(tmp_path / "x.pth") as archive:
        records = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(tmp_path / "y.pth", "w") as archive:
        for name, data in records.items():
            archive.writestr(name, foreign if name.endswith("data.pkl") else data)
    assert "quantised with torchao" in refusal(lambda: read_tensors(tmp_path / "y.pth"), FileError)


# --- contents under another suffix


@pytest.mark.parametrize("suffix", [".safetensors", ".sft", ".pkl", ".bin", ".ckpt"])
def test_the_content_says_what_a_file_is(tmp_path, suffix):
    from safetensors.torch import save_file

    torch.save(WEIGHTS, tmp_path / f"x{suffix}")
    assert _same(tmp_path / f"x{suffix}")
    torch.save(WEIGHTS, tmp_path / f"x{suffix}", _use_new_zipfile_serialization=False)
    assert _same(tmp_path / f"x{suffix}")
    save_file(WEIGHTS, tmp_path / f"x{suffix}")
    assert _same(tmp_path / f"x{suffix}")


@pytest.mark.parametrize("name", ["x.gguf", "x.safetensors", "x.bin"])
def test_gguf(tmp_path, name):
    (tmp_path / name).write_bytes(b"GGUF\x03\x00\x00\x00" + bytes(64))
    message = refusal(lambda: read_tensors(tmp_path / name), FileError)
    assert "quantised with GGUF" in message
    assert "can't read it yet" in message
