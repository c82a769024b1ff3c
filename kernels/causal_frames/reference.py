"""The plain version, written to be read.

B batch, T time steps, H W rows and columns, C channels, which come last. A causal convolution of three time
steps reads two old ones and the T new ones:

    x' = x + bias + residual
    new = silu(gamma * x' / rms(x'))        (without gamma, new = x')

Source: ResidualBlock and CausalConv3d of the Wan 2.1 VAE, wan/modules/vae.py of the original. Pairs of time
steps: F(2, 3) of Winograd (Lavin and Gray, arXiv 1509.09308), along time alone.
"""

from __future__ import annotations

from typing import NamedTuple, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

HISTORY = 2  # time steps that a kernel of three looks back
LEAST_NORM = 1e-12  # of the length of a position's channels

Four: TypeAlias = tuple[Tensor, Tensor, Tensor, Tensor]


class Parts(NamedTuple):
    """What is still to be added."""

    # [B, T, H, W, C]; of a sub-pixel convolution [B, T, H / 2 + 1, W / 2 + 1, 4 C], see `unshuffled`; four
    # products of pairs [B, T / 2, H, W, C], see `pairs_from`
    x: Tensor | Four
    bias: Tensor | None = None  # [C]
    residual: Tensor | None = None  # [B, T, H, W, C]
    subpixels: bool = False


class Frames(NamedTuple):
    """What a convolution reads, and what goes with it; nothing shares memory."""

    total: Tensor | None  # x' [B, T, H, W, C], if asked for
    seen: Tensor  # see `causal_frames` and `paired_frames`
    kept: Tensor  # the last two time steps [B, 2, H, W, C]


def unshuffled(x: Tensor) -> Tensor:
    """Sub-pixels [B, T, h + 1, w + 1, 4 C] -> [B, T, 2 h, 2 w, C].

    A convolution of 2 x 2 on a picture with a border of one pixel has (h + 1) x (w + 1) places. Its four
    groups of channels are the sub-pixels (row a, column b) at 2 a + b; of the pixel i, j they stand at i + a,
    j + b.
    """
    rows, columns = x.shape[2] - 1, x.shape[3] - 1
    groups = x.unflatten(4, (2, 2, -1))
    halves = [
        torch.stack([groups[:, :, a : a + rows, b : b + columns, a, b] for b in range(2)], dim=4)
        for a in range(2)
    ]
    return torch.stack(halves, dim=3).flatten(4, 5).flatten(2, 3)  # [B, T, h, 2, w, 2, C] in between


def pairs_from(products: Four) -> Tensor:
    """Four products [B, T / 2, H, W, C] -> the sums over three taps [B, T, H, W, C] of two time steps each.

    The products are those of `paired_frames` with `paired_taps`: four multiplications in place of six.
    """
    first, middle, crossed, last = (product.to(_wide(product)) for product in products)
    return torch.stack((first + middle + crossed, middle - crossed - last), dim=2).flatten(1, 2)


def paired_taps(first: Tensor, middle: Tensor, last: Tensor) -> Four:
    """The weights of three taps -> of four products."""
    return first, (first + middle + last) / 2, (first - middle + last) / 2, last


def _wide(x: Tensor) -> torch.dtype:
    return torch.promote_types(x.dtype, torch.float32)


def _total(parts: Parts) -> Tensor:
    """x', in float32 if the parts are narrower."""
    if isinstance(parts.x, tuple):
        x = pairs_from(parts.x)
    else:
        x = unshuffled(parts.x) if parts.subpixels else parts.x
        x = x.to(_wide(x))
    for part in (parts.bias, parts.residual):
        x = x if part is None else x + part.to(x.dtype)
    return x


def dtype_of(parts: Parts) -> torch.dtype:
    return (parts.x[0] if isinstance(parts.x, tuple) else parts.x).dtype


def summed(parts: Parts) -> Tensor:
    """x' [B, T, H, W, C]."""
    return _total(parts).to(dtype_of(parts)).contiguous()


def causal_frames(
    parts: Parts,
    past: Tensor | None,
    gamma: Tensor | None,
    *,
    stacked: bool = False,
    want_total: bool = False,
) -> Frames:
    """past [B, 2, H, W, C] (None: zeros) and gamma [C]. `seen` are old and new steps [B, 2 + T, H, W, C].

    Stacked, it is each new step with the two before it: [B, T, H, W, 3 C].
    """
    wide, dtype = _total(parts), dtype_of(parts)
    new = wide
    if gamma is not None:
        scale = wide.shape[-1] ** 0.5 * gamma.to(wide.dtype)
        new = F.silu(F.normalize(wide, dim=-1, eps=LEAST_NORM) * scale)
    new = new.to(dtype)
    if past is None:
        past = new.new_zeros(new.shape[0], HISTORY, *new.shape[2:])
    seen = torch.cat((past, new), dim=1)
    kept = seen[:, -HISTORY:].clone()
    if stacked:
        seen = torch.cat([seen[:, tap : tap + new.shape[1]] for tap in range(HISTORY + 1)], dim=-1)
    return Frames(wide.to(dtype).contiguous() if want_total else None, seen, kept)


def paired_frames(parts: Parts, past: Tensor, gamma: Tensor, *, want_total: bool = False) -> Frames:
    """The same for an even T. `seen` are four sums and differences of each pair [4, B, T / 2, H, W, C].

    Of the steps e0 e1 (old) and e2 e3: e0 - e2, e1 + e2, e2 - e1, e1 - e3.
    """
    total, seen, kept = causal_frames(parts, past, gamma, want_total=want_total)
    wide = seen.to(_wide(seen))
    e0, e1, e2, e3 = wide[:, :-2:2], wide[:, 1:-2:2], wide[:, 2::2], wide[:, 3::2]
    four = torch.stack((e0 - e2, e1 + e2, e2 - e1, e1 - e3))
    return Frames(total, four.to(seen.dtype), kept)
