"""The plain version, written to be read.

B batch, T frames, H W rows and columns, C channels, which come last. A convolution over three frames reads
what is kept of a clip and the new frames; at the clip's ends, copies of its first and last frame:

    x'  = enlarged(x + bias) + enlarged(residual)
    new = silu(x' / sqrt(mean(x'^2) + 1e-8))        (if it isn't active, new = x')

Source: the LTX-2 video VAE, as in diffusers' AutoencoderKLLTX2Video. Pairs of frames: as in causal_frames.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ..causal_frames.reference import Four, pairs_from

HISTORY = 2  # frames that a kernel of three keeps
EPSILON = 1e-8  # of the squares' mean


class Pending(NamedTuple):
    """What is still to be added, and to be put in its place."""

    # [B, T, H, W, p C], of the p = a b c neighbours that a position becomes, one after the other; four
    # products of pairs [B, T / 2, H, W, p C], see `pairs_from` of causal_frames
    x: Tensor | Four
    bias: Tensor | None = None  # [p C]
    # the frames of both, one behind the other, of which the first T count; [B, any, H, W, p K], a channel's
    # neighbours side by side, and the K channels again and again until there are C
    old: Tensor | None = None
    new: Tensor | None = None
    factor: tuple[int, int, int] = (1, 1, 1)  # a b c, in time, rows, columns
    drop: int = 0  # first frames of the enlarged that nobody wants


class Frames(NamedTuple):
    """What a convolution reads, and what goes with it; nothing shares memory."""

    total: Tensor | None  # x' [B, T', H', W', C], if asked for
    seen: Tensor | None  # see `clip_frames`; None if there are fewer than three frames
    kept: Tensor  # the last two frames [B, 2, H', W', C]


def first_of(pending: Pending) -> Tensor:
    return pending.x[0] if isinstance(pending.x, tuple) else pending.x


def frames_of(pending: Pending) -> int:
    """T."""
    return first_of(pending).shape[1] * (2 if isinstance(pending.x, tuple) else 1)


def length_of(pending: Pending) -> int:
    """T', of the enlarged."""
    return pending.factor[0] * frames_of(pending) - pending.drop


def enlarged(x: Tensor) -> Tensor:
    """[B, T, H, W, a, b, c, C] -> [B, a T, b H, c W, C]."""
    return x.permute(0, 1, 4, 2, 5, 3, 6, 7).flatten(5, 6).flatten(3, 4).flatten(1, 2)


def _total(pending: Pending) -> Tensor:
    """x', in float32 if the parts are narrower."""
    factor, wide = pending.factor, torch.promote_types(first_of(pending).dtype, torch.float32)
    y = pairs_from(pending.x) if isinstance(pending.x, tuple) else pending.x.to(wide)
    y = y if pending.bias is None else y + pending.bias.to(wide)
    y = enlarged(y.unflatten(4, (*factor, -1)))
    added = [part for part in (pending.old, pending.new) if part is not None]
    if added:
        own = torch.cat(added, dim=1)[:, : frames_of(pending)].to(wide)
        own = enlarged(own.unflatten(4, (-1, *factor)).movedim(4, -1))
        y = y + own.repeat(1, 1, 1, 1, y.shape[4] // own.shape[4])
    return y[:, pending.drop :]


def clip_sum(pending: Pending) -> Tensor:
    """x' [B, T', H', W', C]."""
    return _total(pending).to(first_of(pending).dtype).contiguous()


def clip_frames(
    pending: Pending,
    past: Tensor | None,
    *,
    front: int,
    last: bool,
    active: bool,
    stacked: bool = False,
    paired: bool = False,
    reflect: bool = False,
    want_total: bool = False,
) -> Frames:
    """`seen` are the past [B, 2, H, W, C] (None: `front` copies of the first new frame), the new frames, and
    if they are the `last` ones, a copy of the last: [B, n, H, W, C].

    Stacked, it is every three frames side by side: [B, n - 2, H, W, 3 C]. Paired (of an even n), it is four
    sums and differences of each pair, as in causal_frames: [4, B, n / 2 - 1, H, W, C]. With `reflect` there
    is a border of one position, in which the picture is reflected: [..., H + 2, W + 2, ...].
    """
    wide = _total(pending)
    new = wide
    if active:
        new = F.silu(wide * (wide.square().mean(dim=-1, keepdim=True) + EPSILON).rsqrt())
    new = new.to(first_of(pending).dtype)
    before = new[:, :1].expand(-1, front, -1, -1, -1) if past is None else past
    seen = torch.cat((before, new, new[:, -1:]) if last else (before, new), dim=1)
    total = wide.to(new.dtype).contiguous() if want_total else None
    return Frames(total, _seen(seen, stacked, paired, reflect), seen[:, -HISTORY:].clone())


def _seen(frames: Tensor, stacked: bool, paired: bool, reflect: bool) -> Tensor | None:
    count = frames.shape[1] - HISTORY
    if count < 1:
        return None
    if reflect:
        border = F.pad(frames.movedim(-1, 1), (1, 1, 1, 1, 0, 0), mode="reflect")
        frames = border.movedim(1, -1).contiguous()
    if paired:
        wide = frames.to(torch.promote_types(frames.dtype, torch.float32))
        e0, e1, e2, e3 = wide[:, :-2:2], wide[:, 1:-2:2], wide[:, 2::2], wide[:, 3::2]
        return torch.stack((e0 - e2, e1 + e2, e2 - e1, e1 - e3)).to(frames.dtype)
    if stacked:
        return torch.cat([frames[:, tap : tap + count] for tap in range(HISTORY + 1)], dim=-1)
    return frames
