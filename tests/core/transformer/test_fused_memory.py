"""What a call holds at its fullest, at the true size: counted without a GPU, on tensors that have sizes and
no numbers.

The kernels are stood in for by what they allocate.
"""

import dataclasses

import pytest
import torch
import torch.nn.functional as F
from comfyui_sana_video.sana_video_core.config import FAMILIES
from comfyui_sana_video.sana_video_core.transformer import model as networks
from comfyui_sana_video.sana_video_core.transformer import model2 as module2
from comfyui_sana_video.sana_video_core.transformer import network as module
from comfyui_sana_video.sana_video_core.transformer import ops
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

ROWS, WIDTH = 2 * 21 * 30 * 52, 2240
ACTIVATION = ROWS * WIDTH * 2  # bytes of one, in bfloat16


class Held(TorchDispatchMode):
    """Bytes of all storages that operations inside made and that are still held, at most; not of `known`."""

    def __init__(self, known=()):
        super().__init__()
        self.storages, self.most = {}, 0
        self.known = {tensor.untyped_storage()._cdata for tensor in known}  # views of them are made inside

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                if storage._cdata not in self.known:
                    self.storages.setdefault(storage._cdata, (StorageWeakRef(storage), storage.nbytes()))
        self.storages = {key: held for key, held in self.storages.items() if not held[0].expired()}
        self.most = max(self.most, sum(size for _, size in self.storages.values()))
        return out


def _rows(x, dtype=torch.float8_e4m3fn):
    return ops.Fp8Rows(
        x.new_empty(x.shape, dtype=dtype), x.new_empty((*x.shape[:-1], 1), dtype=torch.float32)
    )


def _rows_of(qkv):
    return qkv.new_empty(*qkv.shape[:2], qkv.shape[2] // 3)


def _sums(qkv, *_, heads=20, size=112):
    turned = _rows_of(qkv)  # the keys, between the two kernels
    sums = turned.new_empty(len(qkv), heads, size, size), qkv.new_empty(len(qkv), heads, size)
    return ops.KeyValueSum(*(x.float() for x in sums))


def _mixed(x, branch, *_, want_logits=False, want_mix=False, eight=False):
    newest = x if branch is None else torch.empty_like(x)
    logits = x.new_empty(*x.shape[:2], 3, dtype=torch.float32) if want_logits else None
    return ops.Mixed(
        newest, logits, torch.empty_like(x) if want_mix else None, _rows(x) if eight else torch.empty_like(x)
    )


STANDING_IN = {
    "residual_norm": lambda x, branch, *_: (
        x if branch is None else torch.empty_like(x),
        torch.empty_like(x),
    ),
    "residual_norm_fp8": lambda x, branch, *_: (x if branch is None else torch.empty_like(x), _rows(x)),
    "gated_residual": lambda x, *_: torch.empty_like(x),
    "gated_residual_fp8": lambda x, *_: (torch.empty_like(x), _rows(x)),
    "gated_depthwise": lambda u, *_: u.new_empty(*u.shape[:2], u.shape[2] // 2),
    "key_value_sum": _sums,
    "query_rows": lambda qkv, *_: _rows_of(qkv),
    "folded_weight": lambda weight, total: weight.new_empty(len(total.vk), *weight.shape),
    "residual_mix": lambda *args, **wanted: _mixed(*args, **wanted),
    "residual_mix_fp8": lambda *args, **wanted: _mixed(*args, eight=True, **wanted),
    "rotated_rows": lambda qkv, *_: _rows_of(qkv),
    "key_value_product": lambda keys, values, heads: keys.new_empty(
        len(keys), heads, *(keys.shape[2] // heads,) * 2, dtype=torch.float32
    ),
    "gated_heads": lambda queries, *_: torch.empty_like(queries),
    "silu_product": lambda x, gate: torch.empty_like(x),
    "silu_product_fp8": lambda x, gate: _rows(x),
    "sigmoid_product": lambda x, gate: torch.empty_like(x),
    "sigmoid_product_fp8": lambda x, gate: _rows(x),
    "temporal_taps": lambda weight: weight.new_empty(len(weight), 3, weight.shape[1]),
    "fp8_rows": _rows,
    "fp8_taps": lambda x: _rows(x.new_empty((len(x) - 2) * x.shape[1], 3 * x.shape[2])),
    "fp8_gemm": lambda rows, weight, bias, dtype, out=None: (
        rows.values.new_empty(len(rows.values), len(weight.values), dtype=dtype) if out is None else out
    ),
}


@pytest.fixture
def kernels(monkeypatch):
    for name, stands_in in STANDING_IN.items():
        monkeypatch.setattr(ops, name, stands_in)
    # on a GPU these two hold nothing in between, either
    monkeypatch.setattr(F, "scaled_dot_product_attention", lambda q, *_, attn_mask=None: torch.empty_like(q))
    monkeypatch.setattr(F, "rms_norm", lambda x, *_: torch.empty_like(x))
    tables = (torch.empty(ROWS // 2, 56, device="meta"),) * 2
    monkeypatch.setattr(networks, "rotary_table", lambda *_: tables)


@pytest.mark.parametrize(
    "batch, frames, fp8, most", [(2, 21, False, 10.8), (2, 21, True, 9.8), (1, 42, False, 10.8)]
)
@torch.no_grad()
def test_activations_at_480p(kernels, monkeypatch, batch, frames, fp8, most):
    """x twice, its norm, the frames between their neighbours, and 4.5 in the widest part (of one clip, or
    half): the rest is let go.
    """
    monkeypatch.setattr(module, "choose", lambda *_: ops.Choice(True, "", fp8))
    family = FAMILIES["sana_video_480p"]
    with torch.device("meta"):
        model = networks.SanaVideo(dataclasses.replace(family.config, depth=3), family, dtype=torch.bfloat16)
        text = model.prepare_text(torch.empty(batch, 300, 2304, dtype=torch.bfloat16))
        latents, times = torch.empty(batch, 16, frames, 60, 104, dtype=torch.bfloat16), torch.empty(batch)
        with Held() as held:
            model(latents, times, text)
    assert 9 < held.most / ACTIVATION < most


@pytest.mark.parametrize("fp8", [False, True])
@torch.no_grad()
def test_activations_of_the_second_network(kernels, monkeypatch, fp8):
    """193 frames of 736x1280, one sample. At the fullest, in rows of 118 MB: four closed sums, the newest
    before and after, what was added, mix and norm, gate, q, k, and the product that q, k and v come from.
    """
    monkeypatch.setattr(module2, "choose_gated", lambda *_: ops.Choice(True, "", fp8))
    family, tokens = FAMILIES["sana_video2_720p"], 25 * 23 * 40
    tables = (torch.empty(tokens, 128, device="meta"),) * 2
    monkeypatch.setattr(module2, "rotary_table", lambda *_: tables)
    with torch.device("meta"):
        model = module2.SanaVideo2(family.config, family, dtype=torch.bfloat16)
        text = model.prepare_text(torch.empty(1, 300, 2304, dtype=torch.bfloat16))
        latents, times = torch.empty(1, 128, 25, 23, 40, dtype=torch.bfloat16), torch.empty(1)
        with Held([*model.parameters(), *tree_leaves(text.blocks)]) as held:
            model(latents, times, text)
    assert 14 < held.most / (tokens * 2560 * 2) < 17.2
    weights = sum(part.nbytes for part in model.parameters())
    assert (weights + held.most) / 2**30 < 10.3
