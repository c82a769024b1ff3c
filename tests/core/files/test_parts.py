"""Folders of weights as diffusers writes them: variants, indices, pickles, parts, and stray paths."""

from __future__ import annotations

import json
import logging

import pytest
import torch
from comfyui_sana_video.sana_video_core.errors import FileError
from comfyui_sana_video.sana_video_core.files.parts import read_parts
from comfyui_sana_video.sana_video_core.files.tensor_file import read_json, read_tensors
from safetensors.torch import save_file
from support.checkpoint_files import refusal

TENSORS = {"a.weight": torch.arange(12.0).view(3, 4), "b.weight": torch.ones(5), "c.bias": torch.zeros(2)}
STEM = "diffusion_pytorch_model"


def _write(path, names):
    tensors = {name: TENSORS[name] for name in names}
    torch.save(tensors, path) if path.suffix == ".bin" else save_file(tensors, path)


def _same(tensors):
    return tensors.keys() == TENSORS.keys() and all(torch.equal(tensors[n], TENSORS[n]) for n in TENSORS)


@pytest.mark.parametrize(
    "name",
    [
        f"{STEM}.safetensors",
        f"{STEM}.bf16.safetensors",
        f"{STEM}.fp16.safetensors",
        f"{STEM}.ema.safetensors",
        f"{STEM}.bin",
        f"{STEM}.fp16.bin",
        "model.safetensors",
        "pytorch_model.bin",
    ],
)
def test_one_file_of_any_variant(tmp_path, name):
    _write(tmp_path / name, TENSORS)
    assert _same(read_parts(tmp_path))


@pytest.mark.parametrize(
    ("index", "part"),
    [
        (f"{STEM}.safetensors.index.json", f"{STEM}-0000{{}}-of-00002.safetensors"),
        (f"{STEM}.safetensors.index.fp16.json", f"{STEM}.fp16-0000{{}}-of-00002.safetensors"),
        (f"{STEM}.safetensors.index.fp16.json", f"{STEM}-0000{{}}-of-00002.fp16.safetensors"),
        (f"{STEM}.fp16.safetensors.index.json", f"{STEM}.fp16-0000{{}}-of-00002.safetensors"),
        (f"{STEM}.bin.index.json", f"{STEM}-0000{{}}-of-00002.bin"),
        ("model.safetensors.index.json", "model-0000{}-of-00002.safetensors"),
        (None, f"{STEM}-0000{{}}-of-00002.safetensors"),
        (None, f"{STEM}.bf16-0000{{}}-of-00002.safetensors"),
    ],
)
def test_parts_of_any_variant_with_and_without_index(tmp_path, index, part):
    first, second = part.format(1), part.format(2)
    _write(tmp_path / first, ["a.weight"])
    _write(tmp_path / second, ["b.weight", "c.bias"])
    if index:
        places = {"a.weight": first, "b.weight": second, "c.bias": second}
        (tmp_path / index).write_text(json.dumps({"weight_map": places}))
    assert _same(read_parts(tmp_path))
    (tmp_path / second).unlink()
    assert second in refusal(lambda: read_parts(tmp_path), FileError)


def test_a_part_that_lacks_what_the_index_says(tmp_path):
    _write(tmp_path / "one.safetensors", ["a.weight"])
    index = {"weight_map": {"a.weight": "one.safetensors", "z.weight": "one.safetensors"}}
    (tmp_path / f"{STEM}.safetensors.index.json").write_text(json.dumps(index))
    message = refusal(lambda: read_parts(tmp_path), FileError)
    assert "not whole" in message
    assert "z.weight" in message


def test_of_several_variants_one_is_taken_with_a_word(tmp_path, caplog):
    for variant in ("fp16", "bf16"):
        tensors = {name: tensor + (variant == "fp16") for name, tensor in TENSORS.items()}
        save_file(tensors, tmp_path / f"{STEM}.{variant}.safetensors")
    with caplog.at_level(logging.WARNING, "sana_video"):
        assert _same(read_parts(tmp_path))
    assert "bf16" in caplog.text
    save_file(TENSORS, tmp_path / f"{STEM}.safetensors")
    assert _same(read_parts(tmp_path))


@pytest.mark.parametrize(
    "place",
    [
        "../one.safetensors",
        "/etc/passwd",
        "..\\one.safetensors",
        "C:\\one.safetensors",
        "C:one.safetensors",
        "..",
        "",
        "a/../../b",
    ],
)
def test_an_index_stays_in_its_folder(tmp_path, place):
    folder = tmp_path / "folder"
    folder.mkdir()
    _write(tmp_path / "one.safetensors", TENSORS)
    index = {"weight_map": dict.fromkeys(TENSORS, place)}
    (folder / f"{STEM}.safetensors.index.json").write_text(json.dumps(index))
    assert "outside of its folder" in refusal(lambda: read_parts(folder), FileError)


def test_a_folder_of_links_as_the_hub_keeps_it(tmp_path):
    (tmp_path / "blobs").mkdir()
    (tmp_path / "snapshot").mkdir()
    _write(tmp_path / "blobs" / "0a1b.safetensors", TENSORS)
    (tmp_path / "snapshot" / f"{STEM}.safetensors").symlink_to("../blobs/0a1b.safetensors")
    assert _same(read_parts(tmp_path / "snapshot"))


@pytest.mark.parametrize("suffix", [".safetensors", ".bin"])
def test_a_part_chosen_as_a_file_names_its_folder(tmp_path, suffix):
    (tmp_path / "longlive").mkdir()
    path = tmp_path / "longlive" / f"{STEM}-00001-of-00003{suffix}"
    _write(path, TENSORS)
    message = refusal(lambda: read_tensors(path), FileError)
    assert "one of 3 parts" in message
    assert "“longlive”" in message
    _write(path.with_name(f"{STEM}-00001-of-00001{suffix}"), TENSORS)
    assert _same(read_tensors(path.with_name(f"{STEM}-00001-of-00001{suffix}"))[0])


def test_other_weights_in_a_folder_are_named(tmp_path):
    _write(tmp_path / "mine.safetensors", TENSORS)
    assert "mine.safetensors" in refusal(lambda: read_parts(tmp_path), FileError)


def test_json_without_end(tmp_path):
    with (tmp_path / "config.json").open("wb") as file:
        file.truncate(1 << 30)
    assert "config.json" in refusal(lambda: read_json(tmp_path / "config.json"), FileError)
