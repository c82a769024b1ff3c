"""Malformed checkpoints, LoRAs, encoders, states, folders and pickles: a sentence or a model, no traceback.

`python -m pytest tests/torture/test_model_files.py --full` tries 1,000 files in a minute; the suite, three.
A case is its number: the same number makes the same file.
"""

from __future__ import annotations

import json
import math
import random
import shutil
import struct
import tempfile
import time
import warnings
import zipfile
from functools import cache
from pathlib import Path

import pytest
import torch
from comfyui_sana_video.command_line.files import describe
from comfyui_sana_video.sana_video_core.checkpoints.checkpoint import load_transformer
from comfyui_sana_video.sana_video_core.checkpoints.lora import CanonicalLora
from comfyui_sana_video.sana_video_core.checkpoints.lora_file import read_lora
from comfyui_sana_video.sana_video_core.errors import SanaVideoError
from comfyui_sana_video.sana_video_core.files.finite import check_finite
from comfyui_sana_video.sana_video_core.streaming.state_file import load_state
from comfyui_sana_video.sana_video_core.text.encoder import load_text_encoder
from safetensors.torch import load_file, save_file
from support.checkpoint_files import CONFIG, WEIGHTS, assert_sentence, diffusers_named
from support.lora_files import NAMINGS, SHAPES, STYLES, lora_file

CASES, IN_SUITE = 1000, 3
LONGEST = 30.0  # seconds
HELD = []  # folders that are removed at the end
STEM = "diffusion_pytorch_model"
VALUES = (0, -1, 1, "", "x", None, True, [], {}, 10**30, 1.5, float("nan"), "../x", "\0", "é" * 300, [[]])
DTYPES = (
    torch.int8,
    torch.uint8,
    torch.float64,
    torch.float16,
    torch.bool,
    torch.float8_e4m3fn,
    torch.complex64,
)
WORDS = (
    "module",
    "_orig_mod",
    "model",
    "lora_A",
    "weight",
    "scale_weight",
    "qweight",
    "absmax",
    "..",
    "",
    "\n",
    "é",
)


def pytest_generate_tests(metafunc):
    count = CASES if metafunc.config.getoption("--full") else IN_SUITE
    metafunc.parametrize("number", range(count))


# --- what is done to names, tensors and bytes


def _odd_tensor(rng, tensor):
    changes = (
        lambda t: t.to(rng.choice(DTYPES)),
        lambda t: t.reshape(-1)[: rng.randrange(3)],
        lambda t: t.unsqueeze(rng.randrange(t.ndim + 1)),
        lambda t: torch.tensor(1.0),
        lambda t: torch.full_like(t, rng.choice((math.nan, math.inf, -math.inf, 0.0))),
        lambda t: torch.stack([t, t]),
        lambda t: t.transpose(0, -1).contiguous() if t.ndim else t,
    )
    return rng.choice(changes)(tensor)


def _odd_name(rng, name):
    parts = name.split(".")
    place = rng.randrange(len(parts))
    changes = (
        lambda: parts.insert(place, rng.choice(WORDS)),
        lambda: parts.pop(place),
        lambda: parts.__setitem__(place, rng.choice(WORDS)),
        lambda: parts.__setitem__(place, str(rng.choice((99, -1, 10**9, 10**40, "01")))),
        lambda: parts.reverse(),
    )
    rng.choice(changes)()
    return ".".join(parts)


def _mixed(rng, tensors):
    """Some names and tensors changed, lost, doubled."""
    tensors = dict(tensors)
    for name in rng.sample(sorted(tensors), min(len(tensors), rng.choice((0, 1, 1, 2, 5, 50)))):
        tensor = tensors[name]
        change = rng.randrange(4)
        if change in (0, 1):
            del tensors[name]
        if change == 1:
            tensors[_odd_name(rng, name)] = tensor
        if change == 2:
            tensors[name] = _odd_tensor(rng, tensor)
        if change == 3:
            tensors[_odd_name(rng, name)] = _odd_tensor(rng, tensor)
    return {name: tensor.contiguous().clone() for name, tensor in tensors.items()}


def _spoiled(rng, path):
    """Bytes cut, flipped, doubled, or another file's beginning."""
    data = bytearray(path.read_bytes())
    for _ in range(rng.choice((1, 1, 4, 50))):
        place = rng.randrange(max(1, min(len(data), rng.choice((16, 2000, 10**9)))))
        change = rng.randrange(5)
        if change == 0:
            del data[place:]
        elif change == 1 and place < len(data):
            data[place] ^= 1 << rng.randrange(8)
        elif change == 2:
            data[place:place] = data[: rng.randrange(64)]
        elif change == 3:
            data[place : place + 8] = struct.pack("<Q", rng.choice((0, 1, 2**20, 2**31, 2**63, 2**64 - 1)))
        else:
            data[:4] = rng.choice(
                (b"GGUF", b"PK\3\4", b"\x80\2}q", b"<htm", b'{"a"', b"\0\0\0\0", b"\x89PNG")
            )
    path.write_bytes(data)


def _odd_json(rng, entries):
    entries = dict(entries)
    for _ in range(rng.choice((0, 1, 1, 3))):
        key = rng.choice(
            [*entries, "family", "num_layers", "quantization_config", "lora_alpha", "alpha_pattern"]
        )
        entries[key] = rng.choice(VALUES)
    text = json.dumps(entries)
    return rng.choice(
        (text, text, text, text, text[: rng.randrange(len(text))], "[]", "[" * 50_000, "1" * 5000)
    )


# --- files of every kind


def _wrapped(rng, tensors):
    """As a training's dump."""
    extras = {"step": 1, "optimizer": {"state": {0: torch.ones(2)}}, "args": rng.choice(VALUES)}
    keys = ("state_dict", "generator", "generator_ema", "model", "critic", "mine", "", 5)
    content = {rng.choice(keys): tensors for _ in range(rng.choice((1, 1, 2, 3)))}
    return rng.choice((content | extras, content, {"a": content}, [content], tensors, list(tensors.values())))


def _checkpoint(rng, folder):
    tensors = _mixed(rng, rng.choice((dict, diffusers_named))(WEIGHTS))
    if rng.random() < 0.4:
        path = folder / f"m{rng.choice(('.pth', '.pt', '.bin', '.pkl', '.safetensors'))}"
        torch.save(_wrapped(rng, tensors), path, _use_new_zipfile_serialization=rng.random() < 0.7)
    else:
        path = folder / f"m{rng.choice(('.safetensors', '.sft', '.pth', '.gguf'))}"
        metadata = {
            "sana_video": rng.choice(("1", "1", "2")),
            "config": _odd_json(rng, {"attention_head_dim": 20}),
        }
        save_file(tensors, path, rng.choice((None, metadata)))
    if rng.random() < 0.4:
        _spoiled(rng, path)
    return path


def _folder(rng, folder):
    names = sorted(tensors := _mixed(rng, diffusers_named(WEIGHTS)))
    half = rng.randrange(len(names) + 1)
    places = {}
    for part, group in (("00001", names[:half]), ("00002", names[half:])):
        suffix = rng.choice(("safetensors", "safetensors", "bin"))
        variant = rng.choice(("", "", ".bf16"))
        path = folder / f"{STEM}{variant}-{part}-of-00002.{suffix}"
        chosen = {name: tensors[name] for name in group}
        torch.save(chosen, path) if suffix == "bin" else save_file(chosen, path)
        places |= dict.fromkeys(
            group, rng.choice((path.name,) * 6 + ("../m", "/etc/passwd", "gone.safetensors", 5))
        )
    if rng.random() < 0.7:
        (folder / f"{STEM}.safetensors.index.json").write_text(_odd_json(rng, {"weight_map": places}))
    (folder / "config.json").write_text(_odd_json(rng, json.loads(CONFIG.read_text())))
    return folder


def _lora(rng, folder):
    tensors = _mixed(rng, lora_file(rng.choice([*NAMINGS.values()]), rng.choice([*STYLES])))
    adapter = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "alpha_pattern": {"proj": 2}}
    (folder / "adapter_config.json").write_text(_odd_json(rng, adapter))
    path = folder / f"adapter_model{rng.choice(('.safetensors', '.bin'))}"
    metadata = {rng.choice(("lora_alpha", "lora_adapter_metadata", "alpha_pattern")): _odd_json(rng, adapter)}
    if path.suffix == ".bin":
        torch.save(_wrapped(rng, tensors), path)
    else:
        save_file(tensors, path, rng.choice((None, metadata)))
    if rng.random() < 0.3:
        _spoiled(rng, path)
    return path


@cache
def _made(kind):
    """A good state or text encoder, made once."""
    from comfyui_sana_video.demo.text_encoder import build_demo_text_encoder
    from comfyui_sana_video.sana_video_core.config import FAMILIES, TransformerConfig
    from comfyui_sana_video.sana_video_core.streaming import state_file, stream
    from comfyui_sana_video.sana_video_core.text.prompt import Prompt
    from comfyui_sana_video.sana_video_core.transformer.model import SanaVideo

    HELD.append(tempfile.TemporaryDirectory())
    folder = Path(HELD[-1].name)
    if kind == "encoder":
        build_demo_text_encoder(folder)
        return folder
    config = TransformerConfig(
        channels=16,
        patch=2,
        width=60,
        depth=2,
        head_dim=20,
        cross_head_dim=20,
        ffn_hidden=180,
        caption_channels=24,
    )
    model = SanaVideo(config, FAMILIES["longsana_480p"]).eval()
    model.load_state_dict(WEIGHTS)
    model.fingerprint = "0" * 64
    prompt = Prompt(embeddings=torch.ones(1, 4, 24), mask=None, digest="d", text="a")
    state = stream.start(model, height=32, width=48)
    for chunks in (1, 1):
        for newer in stream.extend(model, state, prompt, stream.Sampling(), chunks=chunks):
            state = newer
    state_file.save_state(state, folder / "s.safetensors")
    return folder


def _state(rng, folder):
    path = folder / "s.safetensors"
    shutil.copy(_made("state") / "s.safetensors", path)
    if rng.random() < 0.5:
        _spoiled(rng, path)
        return path
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    described = json.loads(metadata["state"])
    owner = rng.choice((described, described["identity"], described["story"][0], described["blocks"]))
    owner[rng.choice(list(owner))] = rng.choice(VALUES)
    save_file(_mixed(rng, load_file(path)), path, metadata | {"state": json.dumps(described)})
    return path


def _encoder(rng, folder):
    shutil.copytree(_made("encoder"), folder, dirs_exist_ok=True)
    if rng.random() < 0.4:
        path = folder / "config.json"
        path.write_text(_odd_json(rng, json.loads(path.read_text())))
    weights = _mixed(rng, load_file(folder / "model.safetensors"))
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    if rng.random() < 0.4:
        _spoiled(rng, rng.choice(sorted(path for path in folder.iterdir() if path.is_file())))
    return folder if rng.random() < 0.7 else folder / "model.safetensors"


def _zip(rng, folder):
    """A pickle whose zip was written by hand."""
    torch.save({"state_dict": WEIGHTS}, folder / "a.pth")
    with zipfile.ZipFile(folder / "a.pth") as archive:
        records = [(name, archive.read(name)) for name in archive.namelist()]
    how = rng.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))
    with warnings.catch_warnings(), zipfile.ZipFile(folder / "m.pth", "w", how) as archive:
        warnings.simplefilter("ignore")  # two records of one name
        for name, data in records:
            if rng.random() < 0.95:
                odd = rng.choice((data,) * 6 + (b"", data * 2, data[: len(data) // 2], bytes(1 << 20)))
                archive.writestr(rng.choice((name,) * 9 + ("../x", "a/data.pkl")), odd)
    return folder / "m.pth"


KINDS = {
    "checkpoint": (_checkpoint, lambda path: load_transformer(path, config=CONFIG)),
    "info": (_checkpoint, describe),
    "folder": (_folder, load_transformer),
    "lora": (_lora, lambda path: read_lora(path, SHAPES)),
    "state": (_state, load_state),
    "encoder": (_encoder, load_text_encoder),
    "zip": (_zip, lambda path: load_transformer(path, config=CONFIG)),
}


def _tensors_of(result):
    if isinstance(result, torch.nn.Module):
        return result.state_dict()
    return result.tensors if isinstance(result, CanonicalLora) else {}


@pytest.mark.filterwarnings("ignore")  # torch and transformers warn about what they read
def test_a_sentence_or_a_model(number, tmp_path):
    rng = random.Random(number)
    kind = [*KINDS][number % len(KINDS)]
    make, read = KINDS[kind]
    path = make(rng, tmp_path)
    began = time.process_time()
    try:
        check_finite(_tensors_of(read(path)), path)
    except SanaVideoError as error:
        assert_sentence(error)
    assert time.process_time() - began < LONGEST, (number, kind)
