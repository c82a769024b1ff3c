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
from comfyui_sana_video.sana_video_core.transformer import network as module
from comfyui_sana_video.sana_video_core.transformer import ops
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

ROWS, WIDTH = 2 * 21 * 30 * 52, 2240
ACTIVATION = ROWS * WIDTH * 2  # bytes of one, in bfloat16


class Held(TorchDispatchMode):
    """Bytes of all storages that operations inside made and that are still held, at most."""

    def __init__(self):
        super().__init__()
        self.storages, self.most = {}, 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
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
