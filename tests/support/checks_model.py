"""Checks of the network against golden tensors and formulas. Each takes a Pack and asserts.

They are functions, not tests, because the mutation list runs them on broken copies of the pack.
"""

from __future__ import annotations

import math
from itertools import pairwise

import torch
import torch.nn.functional as F
from support.pack import GOLDEN, Pack, assert_close, assert_sums_close, golden
from torch import Tensor

EDGES = (0, 3, 5, 7)


@torch.no_grad()
def one_chunk(pack: Pack) -> None:
    g = golden("one_chunk")
    assert_close(pack.golden_model(g["in_x"], g["in_t"], g["in_y"], g["in_mask"]), g["out"], 1e-4)


@torch.no_grad()
def stream(pack: Pack, window: int | None) -> None:
    """Three chunks with carried memory: outputs, tails, and the sums that each chunk adds."""
    g = golden("stream_global_windowall" if window is None else f"stream_global_window{window}")
    model, memory = pack.golden_model, None
    vk, ksum = [0.0, 0.0], [0.0, 0.0]
    for c, (start, end) in enumerate(pairwise(EDGES)):
        x = g["in_x"][:, :, start:end]
        where = {"memory": memory, "first_frame": start}
        for t in (500, 0):
            out = model(x, torch.full((2,), t), g["in_y"], g["in_mask"], **where)
            assert_close(out, g[f"out_c{c}_t{t}"], 1e-4)
        memory = model.absorb(x, g["in_y"], g["in_mask"], **where, window=window)
        for b, block in enumerate(memory):
            expected = {part: g[f"state_c{c}_b{b}_{part}"] for part in ("vk", "ksum", "tail")}
            vk[b] = expected["vk"] if window else vk[b] + expected["vk"]
            ksum[b] = expected["ksum"][:, :, 0] if window else ksum[b] + expected["ksum"][:, :, 0]
            assert_sums_close(block.past.vk, vk[b])
            assert_sums_close(block.past.ksum, ksum[b])
            assert_close(block.tail, expected["tail"], 1e-4)


def stream_whole_past(pack: Pack) -> None:
    stream(pack, None)


def stream_window(pack: Pack) -> None:
    stream(pack, 1)


@torch.no_grad()
def few_step_loop(pack: Pack) -> None:
    """The whole loop of the original's sampler with the golden noise, over three chunks."""
    g = golden("sample_global")
    model, memory = pack.golden_model, None
    schedule, solvers = pack.core("sampling.schedule"), pack.core("sampling.solvers")
    sigmas = schedule.few_step_sigmas(4)
    assert [round(1000 * sigma) for sigma in sigmas] == [1000, 960, 889, 727, 0]
    text = model.prepare_text(g["in_y"], g["in_mask"])
    for c, (start, end) in enumerate(pairwise(EDGES)):
        where = {"memory": memory, "first_frame": start}

        def velocity(x: Tensor, sigma: float, where=where) -> Tensor:
            return model(x, torch.full((2,), 1000 * sigma), text, **where)

        def draw(n: int, c=c, start=start, end=end) -> Tensor:
            return g[f"in_noise_c{c}_s{n - 1}"] if n else g["in_latents"][:, :, start:end]

        chunk = solvers.sample_few_step(velocity, draw, sigmas)
        assert_close(chunk, g["out_latents"][:, :, start:end], 1e-4)
        memory = model.absorb(chunk, text, **where)


@torch.no_grad()
def epsilons(pack: Pack) -> None:
    """Each epsilon, on inputs so small that it decides the result."""
    model = pack.tiny_model()
    block, width = model.blocks[0], model.config.width
    small = torch.randn(1, 4, width, generator=torch.Generator().manual_seed(0)) * 1e-3
    for norm, eps in (
        (block.attn.q_norm, 1e-5),
        (block.attn.k_norm, 1e-5),
        (model.attention_y_norm, 1e-5),
        (block.cross_attn.q_norm, 1e-6),
        (block.cross_attn.k_norm, 1e-6),
    ):
        expected = small / (small.square().mean(-1, keepdim=True) + eps).sqrt() * norm.weight
        assert_close(norm(small), expected, 1e-5)
    for norm in (block.norm1, block.norm2, model.final_layer.norm_final):
        centered = small - small.mean(-1, keepdim=True)
        expected = centered / (centered.square().mean(-1, keepdim=True) + 1e-6).sqrt()
        assert_close(norm(small), expected, 1e-5)
    _attention_epsilon(pack)


def _attention_epsilon(pack: Pack) -> None:
    """The denominator's epsilon, 1e-8, with features whose products are of that size."""
    model = pack.tiny_model()
    attention = model.blocks[0].attn
    for norm in (attention.q_norm, attention.k_norm):
        norm.weight.data.mul_(1e-5)
    x = torch.randn(1, 6, model.config.width, generator=torch.Generator().manual_seed(1))
    still = (torch.ones(6, 10), torch.zeros(6, 10))  # cosines and sines of no rotation at all
    q, k, v = attention.qkv(x).chunk(3, -1)
    heads = [_heads(y, 20).double() for y in (F.relu(attention.q_norm(q)), F.relu(attention.k_norm(k)), v)]
    weights = heads[0] @ heads[1].transpose(-1, -2)
    out = (weights @ heads[2]) / (weights.sum(-1, keepdim=True) + 1e-8)
    expected = attention.proj(out.float().transpose(1, 2).flatten(2))
    assert_close(attention(x, still, None)[0], expected, 1e-5)


def _heads(x: Tensor, size: int) -> Tensor:
    return x.unflatten(-1, (-1, size)).transpose(1, 2)


def timesteps(pack: Pack) -> None:
    """Truncation: every k / 1000 in float32 and what is beside it; true fractions go down."""
    truncate = pack.core("transformer.positions").truncate_timestep
    k = torch.arange(1001)
    for sigmas in (
        k.float() / 1000,
        (k.double() / 1000).float(),
        torch.tensor([i / 1000 for i in range(1001)]),
    ):
        assert truncate(sigmas * 1000).tolist() == k.tolist()
        assert truncate(sigmas.double() * 1000).tolist() == k.tolist()
    for beside in (0.0002, 0.0005, 0.0007, 0.01, 0.4, 0.9):
        assert truncate(k[1:].double() - beside).tolist() == (k[1:] - 1).tolist()
        assert truncate((k[1:].double() - beside).float()).tolist() == (k[1:] - 1).tolist()
        assert truncate((k.double() + beside).float()).tolist() == k.tolist()
    fractions = torch.tensor([948.99, 948.9995, 866.9993, 409.99, 60.21, 0.5, 999.0])
    assert truncate(fractions).tolist() == [948, 948, 866, 409, 60, 0, 999]
    assert truncate(torch.tensor([727], dtype=torch.int64)).tolist() == [727]
    model = pack.tiny_model()
    features = pack.core("transformer.positions").timestep_features(torch.tensor([888.9, 888.0]))
    assert torch.equal(features[0], features[1])
    assert features.shape == (2, 256)
    angle = 888 * math.exp(-math.log(10000) * 3 / 128)
    assert_close(features[0, [3, 131]], torch.tensor([math.cos(angle), math.sin(angle)]), 1e-4)
    assert model.t_embedder(torch.tensor([1.0]), torch.float32).shape == (1, model.config.width)


def rotary_precision(pack: Pack) -> None:
    """Cosines and sines at position 1000 and beyond against exact angles, on all three axes."""
    positions, shapes = pack.core("transformer.positions"), pack.core("shapes")
    split, grid = (40, 36, 36), shapes.LatentGrid(3, 2)
    cosines, sines = positions.rotary_table(2, grid, split, 1000, torch.device("cpu"))
    assert cosines.shape == (12, 56)
    for token, place in ((0, (1000, 0, 0)), (11, (1001, 2, 1)), (8, (1001, 1, 0))):
        angles = [
            p * 10000 ** (-2 * i / size)
            for p, size in zip(place, split, strict=True)
            for i in range(size // 2)
        ]
        assert_close(cosines[token], torch.tensor([math.cos(a) for a in angles]), 2e-7)
        assert_close(sines[token], torch.tensor([math.sin(a) for a in angles]), 2e-7)
    x = torch.randn(1, 1, 12, 112, generator=torch.Generator().manual_seed(0))
    turned = pack.core("transformer.ops").rotate(x, (cosines, sines))
    complex_x = torch.view_as_complex(x.double().unflatten(-1, (-1, 2)))
    exact = torch.view_as_real(complex_x * torch.complex(cosines.double(), sines.double())).flatten(-2)
    assert_close(turned, exact, 1e-6)


@torch.no_grad()
def prepared_text(pack: Pack) -> None:
    """Prepared text equals raw text; padding has no effect; one prompt serves a batch."""
    model, generator = pack.tiny_model(), torch.Generator().manual_seed(3)
    x = torch.randn(2, 16, 2, 4, 6, generator=generator)
    text = torch.randn(2, 5, 24, generator=generator)
    mask = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 0]])
    t = torch.tensor([700, 300])
    out = model(x, t, text, mask)
    assert torch.equal(model(x, t, model.prepare_text(text, mask)), out)
    other = torch.where(mask.bool()[..., None], text, 100 * torch.ones_like(text))
    assert_close(model(x, t, other, mask), out, 1e-5)
    assert (model(x, t, other) - out).abs().max() > 1e-2
    single = model(x, t, text[:1], mask[:1])
    assert_close(single[1:], model(x[1:], t[1:], text[:1], mask[:1]), 1e-5)


@torch.no_grad()
def block_causal_whole(pack: Pack) -> None:
    """Chunks with a carried memory equal one pass with a causal mask; head size 112, several seeds."""
    for seed, plan in ((0, (3, 2, 2)), (1, (1, 2))):
        model = pack.tiny_model(seed=seed, head=112, heads=2)
        generator = torch.Generator().manual_seed(seed)
        x = torch.randn(1, 16, sum(plan), 4, 6, generator=generator)
        text = torch.randn(1, 5, 24, generator=generator)
        memory, outputs, start = None, [], 0
        for length in plan:
            piece = x[:, :, start : start + length]
            outputs.append(model(piece, torch.zeros(1), text, memory=memory, first_frame=start))
            memory = model.absorb(piece, text, memory=memory, first_frame=start)
            start += length
        assert_close(torch.cat(outputs, 2), _naive_block_causal(pack, model, x, text, plan), 1e-4)


def _naive_block_causal(pack: Pack, model, x: Tensor, text: Tensor, plan: tuple[int, ...]) -> Tensor:
    """The network at timestep 0 with an explicit N x N attention mask and convolutions chunk by chunk."""
    positions, shapes = pack.core("transformer.positions"), pack.core("shapes")
    frames, grid = x.shape[2], shapes.LatentGrid(x.shape[3] // 2, x.shape[4] // 2)
    spatial, head = grid.area, model.config.head_dim
    table = positions.rotary_table(frames, grid, model.config.rotary_split, 0, x.device)
    chunk_of = torch.repeat_interleave(torch.arange(len(plan)), torch.tensor(plan) * spatial)
    visible = (chunk_of[:, None] >= chunk_of[None, :]).double()
    time = model.t_embedder(torch.zeros(1, 1), torch.float32)
    modulation = model.t_block(time).view(1, 6, -1)
    prepared = model.prepare_text(text)
    h = model.x_embedder(x)
    for block, keys in zip(model.blocks, prepared.blocks, strict=True):
        shift1, scale1, gate1, shift2, scale2, gate2 = (modulation + block.scale_shift_table).unbind(1)
        y = F.layer_norm(h, h.shape[-1:], eps=1e-6) * (1 + scale1) + shift1
        q, k, v = block.attn.qkv(y).chunk(3, -1)
        q, k = F.relu(block.attn.q_norm(q)), F.relu(block.attn.k_norm(k))
        q, k, v = (_heads(z, head).double() for z in (q, k, v))
        scores = (
            pack.core("transformer.ops").rotate(q.float(), table).double()
            @ pack.core("transformer.ops").rotate(k.float(), table).double().mT
        ) * visible
        out = scores @ v / (((q @ k.mT) * visible).sum(-1, keepdim=True) + 1e-8)
        h = h + gate1 * block.attn.proj(out.float().transpose(1, 2).flatten(2))
        h = h + block.cross_attn(h, keys, None)
        y = F.layer_norm(h, h.shape[-1:], eps=1e-6) * (1 + scale2) + shift2
        h = h + gate2 * _naive_feed_forward(block.mlp, y, plan, grid)
    shift, scale = (time + model.final_layer.scale_shift_table).unbind(1)
    y = model.final_layer.linear(F.layer_norm(h, h.shape[-1:], eps=1e-6) * (1 + scale) + shift)
    y = y.view(1, frames, *grid, 2, 2, 16)
    return torch.einsum("bfhwpqc->bcfhpwq", y).reshape(x.shape)


def _naive_feed_forward(mlp, y: Tensor, plan: tuple[int, ...], grid) -> Tensor:
    images = y.view(-1, *grid, y.shape[-1]).permute(0, 3, 1, 2)
    signal, gate = mlp.depth_conv.conv(F.silu(mlp.inverted_conv.conv(images))).chunk(2, 1)
    u = mlp.point_conv.conv(signal * F.silu(gate))  # [F, D, H, W]
    left, middle, right = mlp.t_conv.weight.squeeze(-1).unbind(-1)
    ends = {sum(plan[: i + 1]) - 1 for i in range(len(plan))}
    out = []
    for f in range(len(u)):
        mixed = torch.einsum("dc,chw->dhw", middle, u[f])
        if f > 0:
            mixed = mixed + torch.einsum("dc,chw->dhw", left, u[f - 1])
        if f not in ends:
            mixed = mixed + torch.einsum("dc,chw->dhw", right, u[f + 1])
        out.append(u[f] + mixed)
    return torch.stack(out).permute(0, 2, 3, 1).reshape(1, -1, y.shape[-1])


MODEL_CHECKS = (
    one_chunk,
    stream_whole_past,
    stream_window,
    few_step_loop,
    epsilons,
    timesteps,
    rotary_precision,
    prepared_text,
    block_causal_whole,
)

__all__ = ["GOLDEN", "MODEL_CHECKS"]
