"""Typical mistakes of a port, each made on purpose in a copy of the pack: at least one check has to notice.

A mutation is (file, text, replacement). The text has to occur exactly once, so the list cannot rot silently.
"""

from __future__ import annotations

import pytest
from support import checks_diffusers, checks_ltx, checks_model, checks_stream, checks_vae
from support.pack import Pack, forget, mutant

CORE = "sana_video_core"
FRAMES = "kernels/causal_frames/reference.py"
MODEL, STREAM, VAE, LTX = "model", "stream", "vae", "ltx"
CHECKS = {
    MODEL: (*checks_model.MODEL_CHECKS, *checks_diffusers.DIFFUSERS_CHECKS),
    STREAM: checks_stream.STREAM_CHECKS,
    VAE: checks_vae.VAE_CHECKS,
    LTX: checks_ltx.LTX_CHECKS,
}

MUTATIONS = {
    # attention
    "rotated denominator": (
        MODEL,
        "kernels/linear_attention/reference.py",
        "ksum=k.sum(dim=-2)",
        "ksum=k_rotated.sum(dim=-2)",
    ),
    "rotated queries in the denominator": (
        MODEL,
        "kernels/linear_attention/reference.py",
        "denominator = q @",
        "denominator = q_rotated @",
    ),
    "past left out of the sums": (
        MODEL,
        "kernels/linear_attention/reference.py",
        "total = sums if past is None else past + sums",
        "total = sums",
    ),
    "transposed state": (
        MODEL,
        "kernels/linear_attention/reference.py",
        "q_rotated @ total.vk.transpose(-1, -2)",
        "q_rotated @ total.vk",
    ),
    "rotation before the ReLU": (
        MODEL,
        f"{CORE}/transformer/layers.py",
        "q, k = F.relu(self.q_norm(q)), F.relu(self.k_norm(k))\n",
        "q, k = self.q_norm(q), self.k_norm(k)\n",
    ),
    "norm within each head": (
        MODEL,
        f"{CORE}/transformer/layers.py",
        "q = split_heads(self.q_norm(queries), self.head_dim)",
        "q = split_heads(queries / queries.unflatten(-1, (-1, self.head_dim)).square().mean(-1).sqrt()"
        ".repeat_interleave(self.head_dim, -1) * self.q_norm.weight, self.head_dim)",
    ),
    "keys and values swapped": (
        MODEL,
        f"{CORE}/transformer/layers.py",
        "keys, values = self.kv_linear(caption).chunk(2, dim=-1)",
        "values, keys = self.kv_linear(caption).chunk(2, dim=-1)",
    ),
    "text mask dropped": (MODEL, f"{CORE}/transformer/layers.py", "attn_mask=bias", "attn_mask=None"),
    "text mask inverted": (
        MODEL,
        f"{CORE}/transformer/network.py",
        "padding = ~text_mask",
        "padding = text_mask",
    ),
    # positions
    "first_frame forgotten": (
        MODEL,
        f"{CORE}/transformer/positions.py",
        "offsets = (first_frame, 0, 0)",
        "offsets = (0, 0, 0)",
    ),
    "halves instead of pairs": (
        MODEL,
        "kernels/linear_attention/reference.py",
        "x.to(torch.float32).unflatten(-1, (-1, 2)).unbind(-1)",
        "x.to(torch.float32).unflatten(-1, (2, -1)).unbind(-2)",
    ),
    "equal rotary split": (
        MODEL,
        f"{CORE}/sizes.py",
        "return head_dim - 2 * space, space, space",
        "return space, head_dim - 2 * space, space",
    ),
    "float32 angles": (
        MODEL,
        f"{CORE}/transformer/positions.py",
        "torch.arange(first, first + count, **place)[:, None] * frequencies",
        "(torch.arange(first, first + count, **place).float()[:, None] * frequencies.float()).double()",
    ),
    "sines first": (
        MODEL,
        f"{CORE}/transformer/positions.py",
        "torch.cat([angles.cos(), angles.sin()], dim=-1)",
        "torch.cat([angles.sin(), angles.cos()], dim=-1)",
    ),
    "timestep not truncated": (
        MODEL,
        f"{CORE}/transformer/positions.py",
        "torch.floor(timesteps.to(torch.float64) + 0.0001)",
        "timesteps.to(torch.float64)",
    ),
    "timestep truncated without the offset": (
        MODEL,
        f"{CORE}/transformer/positions.py",
        "(torch.float64) + 0.0001)",
        "(torch.float64))",
    ),
    "timestep rounded": (MODEL, f"{CORE}/transformer/positions.py", "+ 0.0001)", "+ 0.5)"),
    "timestep offset too large": (MODEL, f"{CORE}/transformer/positions.py", "+ 0.0001)", "+ 0.001)"),
    # epsilons
    "epsilon of the layer norms": (
        MODEL,
        f"{CORE}/transformer/layers.py",
        "LAYER_NORM_EPS = 1e-6",
        "LAYER_NORM_EPS = 1e-5",
    ),
    "epsilon of the self-attention norms": (
        MODEL,
        f"{CORE}/transformer/layers.py",
        "SELF_NORM_EPS = 1e-5",
        "SELF_NORM_EPS = 1e-6",
    ),
    "epsilon of the cross-attention norms": (
        MODEL,
        f"{CORE}/transformer/layers.py",
        "CROSS_NORM_EPS = 1e-6",
        "CROSS_NORM_EPS = 1e-5",
    ),
    "epsilon of the attention": (
        MODEL,
        f"{CORE}/transformer/layers.py",
        "ATTENTION_EPS = 1e-8",
        "ATTENTION_EPS = 1e-15",
    ),
    "epsilon of the caption norm": (
        MODEL,
        f"{CORE}/transformer/network.py",
        "CAPTION_NORM_EPS = 1e-5",
        "CAPTION_NORM_EPS = 1e-6",
    ),
    # modulation
    "gate order": (
        MODEL,
        f"{CORE}/transformer/layers.py",
        "shift1, scale1, gate1, shift2, scale2, gate2 = rows",
        "shift1, gate1, scale1, shift2, gate2, scale2 = rows",
    ),
    "scale before shift in the last layer": (
        MODEL,
        f"{CORE}/transformer/layers.py",
        "shift, scale = table.unsqueeze(2).unbind(3)",
        "scale, shift = table.unsqueeze(2).unbind(3)",
    ),
    "scale without the one": (
        MODEL,
        f"{CORE}/transformer/layers.py",
        "* (1 + scale) + shift",
        "* scale + shift",
    ),
    "norm before the cross-attention": (
        MODEL,
        f"{CORE}/transformer/layers.py",
        "self.cross_attn(x, text, text_bias)",
        "self.cross_attn(self.norm2(x), text, text_bias)",
    ),
    # caption and patches
    "GELU kind": (
        MODEL,
        f"{CORE}/transformer/embedders.py",
        'approximate="tanh"',
        'approximate="none"',
    ),
    "channels slowest in a patch": (
        MODEL,
        f"{CORE}/transformer/network.py",
        "x = x.unflatten(2, (p, p, -1))",
        "x = x.unflatten(2, (-1, p, p)).permute(0, 1, 3, 4, 2)",
    ),
    "rows and columns of a patch swapped": (
        MODEL,
        f"{CORE}/transformer/network.py",
        "x.permute(0, 6, 1, 2, 4, 3, 5)",
        "x.permute(0, 6, 1, 2, 5, 3, 4)",
    ),
    # feed-forward
    "gate half first": (
        MODEL,
        f"{CORE}/transformer/layers.py",
        "signal, gate = x.chunk(2, dim=1)",
        "gate, signal = x.chunk(2, dim=1)",
    ),
    "no SiLU after the first convolution": (
        MODEL,
        f"{CORE}/transformer/layers.py",
        "self.depth_conv(F.silu(self.inverted_conv(x)))",
        "self.depth_conv(self.inverted_conv(x))",
    ),
    "temporal convolution without its residual": (
        MODEL,
        f"{CORE}/transformer/layers.py",
        "y = u + self.t_conv",
        "y = self.t_conv",
    ),
    "tail of the wrong latent frame": (MODEL, f"{CORE}/transformer/layers.py", "u[:, :, -1:]", "u[:, :, :1]"),
    "tail after the temporal convolution": (
        MODEL,
        f"{CORE}/transformer/layers.py",
        "flatten(1, 2), u[:, :, -1:]",
        "flatten(1, 2), y[:, :, -1:]",
    ),
    "tail on the right": (
        MODEL,
        f"{CORE}/transformer/layers.py",
        "torch.cat([left, u, zeros], dim=2)",
        "torch.cat([zeros, u, left], dim=2)",
    ),
    "last latent frame repeated on the right": (
        MODEL,
        f"{CORE}/transformer/layers.py",
        "torch.cat([left, u, zeros], dim=2)",
        "torch.cat([left, u, u[:, :, -1:]], dim=2)",
    ),
    # memory
    "memory not added to": (
        MODEL,
        f"{CORE}/transformer/memory.py",
        "SumMemory(*(self.past + contribution.sums), contribution.kept_tail())",
        "SumMemory(*contribution.sums, contribution.kept_tail())",
    ),
    "window one too long": (
        MODEL,
        f"{CORE}/transformer/memory.py",
        "[-self.window :]",
        "[-self.window - 1 :]",
    ),
    "memory absorbed at another timestep": (
        MODEL,
        f"{CORE}/transformer/model.py",
        "torch.zeros(latents.shape[0], device=latents.device)",
        "torch.ones(latents.shape[0], device=latents.device)",
    ),
    # schedules and samplers
    "sigma of the unrounded timestep": (
        MODEL,
        f"{CORE}/sampling/schedule.py",
        "(round(1000 * warp(1 - i / steps, shift)) / 1000 for",
        "(warp(1 - i / steps, shift) for",
    ),
    "Euler grid warped once": (
        MODEL,
        f"{CORE}/sampling/schedule.py",
        "lowest = warp(1 / TRAINING_STEPS, shift)",
        "lowest = 1 / TRAINING_STEPS",
    ),
    "DPM grid from 1": (
        MODEL,
        f"{CORE}/sampling/schedule.py",
        "_spaced(1 / TRAINING_STEPS, 1.0, steps + 1)",
        "_spaced(1e-6, 1.0, steps + 1)",
    ),
    "DPM of first order": (MODEL, f"{CORE}/sampling/solvers.py", "if before is not None:", "if False:"),
    "guidance the wrong way round": (
        MODEL,
        f"{CORE}/sampling/one_shot.py",
        "return uncond + sampling.cfg * (cond - uncond)",
        "return cond + sampling.cfg * (uncond - cond)",
    ),
    "image at the timestep of the rest": (
        MODEL,
        f"{CORE}/sampling/one_shot.py",
        "timesteps[:, 0] = 0",
        "timesteps[:, 1] = 0",
    ),
    "image behind the rest": (
        MODEL,
        f"{CORE}/sampling/one_shot.py",
        "latents = x if image is None else torch.cat([image, x], dim=2)",
        "latents = x if image is None else torch.cat([x, image], dim=2)",
    ),
    "velocity of the first frames": (
        MODEL,
        f"{CORE}/sampling/one_shot.py",
        "v = v[:, :, 1:]",
        "v = v[:, :, :-1]",
    ),
    "guidance with the branches swapped": (
        MODEL,
        f"{CORE}/sampling/one_shot.py",
        "both = _stacked(negative, positive, batch)",
        "both = _stacked(positive, negative, batch)",
    ),
    "noise of the same level": (
        STREAM,
        f"{CORE}/sampling/solvers.py",
        "x = level.noise * draw(number) + (1 - level.noise) * clean",
        "x = (n := few_step_levels(sigmas, rule)[number - 1].noise) * draw(number) + (1 - n) * clean",
    ),
    # stream
    "noise counted from the chunk": (
        STREAM,
        f"{CORE}/streaming/chunk_runner.py",
        "first = state.identity, state.position",
        "first = state.identity, 0",
    ),
    "noise counted on over a cut": (
        STREAM,
        f"{CORE}/streaming/chunk_runner.py",
        "first = state.identity, state.position",
        "first = state.identity, sum(chunk.length for chunk in state.history)",
    ),
    "one seed for all rows": (
        STREAM,
        f"{CORE}/sampling/noise.py",
        "frame_seed(seed + row,",
        "frame_seed(seed,",
    ),
    "the same noise for every draw": (
        STREAM,
        f"{CORE}/sampling/noise.py",
        "+ draw) & _MASK)",
        "+ 0) & _MASK)",
    ),
    "recache from the newest memory": (
        STREAM,
        f"{CORE}/streaming/chunk_runner.py",
        "memory_to(state.memory_before, device)",
        "memory_to(state.memory, device)",
    ),
    "recache at the wrong position": (
        STREAM,
        f"{CORE}/streaming/chunk_runner.py",
        "replace(state, history=state.history[:-1])",
        "replace(state, scene=state.scene)",
    ),
    "cut keeps the memory": (
        STREAM,
        f"{CORE}/streaming/state.py",
        "return StreamState(identity=self.identity, history=self.history, scene=scene)",
        "return replace(self, scene=scene)",
    ),
    "primed latents shared with the caller": (
        STREAM,
        f"{CORE}/streaming/stream.py",
        "torch.float32, copy=True)",
        "torch.float32)",
    ),
    "ten latent frames first": (
        STREAM,
        f"{CORE}/shapes.py",
        "(self.base if position else self.first,)",
        "(self.base,)",
    ),
    "remainder in the last chunk": (
        STREAM,
        f"{CORE}/shapes.py",
        "return (head,) + (self.base,) * ((latent_frames - head) // self.base)",
        "return (self.base,) * ((latent_frames - head) // self.base) + (head,)",
    ),
    # video autoencoder
    "symmetric border before halving": (
        VAE,
        f"{CORE}/vae/layers.py",
        "nn.ZeroPad2d((0, 1, 0, 1))",
        "nn.ZeroPad2d((1, 0, 1, 0))",
    ),
    "a cache of one time step": (
        VAE,
        f"{CORE}/vae/layers.py",
        "seen[:, :, -HISTORY:].clone()",
        "torch.cat((torch.zeros_like(x[:, :, :1]), x), dim=2)[:, :, -HISTORY:].clone()",
    ),
    "first time step in the history of the doubling": (
        VAE,
        f"{CORE}/vae/layers.py",
        "(no_history(x),)",
        "(torch.cat((torch.zeros_like(x), x), dim=2),)",
    ),
    "first frame repeated in front": (
        VAE,
        f"{CORE}/vae/layers.py",
        "        past = no_history(x)\n",
        "        past = x[:, :, :1].repeat(1, 1, 2, 1, 1)\n",
    ),
    "halves interleaved the other way": (
        VAE,
        f"{CORE}/vae/layers.py",
        "y = y.unflatten(1, (2, x.shape[1]))",
        "y = y.unflatten(1, (x.shape[1], 2)).transpose(1, 2)",
    ),
    "smooth instead of nearest": (
        VAE,
        f"{CORE}/vae/layers.py",
        'mode="nearest-exact"',
        'mode="bilinear"',
    ),
    "norm without its root of the width": (
        VAE,
        f"{CORE}/vae/layers.py",
        "x.shape[axis] ** 0.5 * gamma",
        "x.shape[axis] ** 0.4 * gamma",
    ),
    "queries and keys swapped with values": (
        VAE,
        f"{CORE}/vae/layers.py",
        "q, k, v = tokens",
        "v, q, k = tokens",
    ),
    "variances instead of means": (
        VAE,
        f"{CORE}/vae/wan_vae.py",
        "moments[:, : self.config.latent_channels]",
        "moments[:, self.config.latent_channels :]",
    ),
    # the fused VAE
    "pairs with their differences the other way": (
        VAE,
        FRAMES,
        "middle - crossed - last",
        "middle + crossed - last",
    ),
    "differences of the wrong time steps": (
        VAE,
        FRAMES,
        "torch.stack((e0 - e2, e1 + e2, e2 - e1, e1 - e3))",
        "torch.stack((e0 - e2, e1 + e2, e2 - e1, e2 - e3))",
    ),
    "taps of pairs not halved": (
        VAE,
        FRAMES,
        "(first - middle + last) / 2",
        "(first - middle + last)",
    ),
    "sub-pixels of rows and columns exchanged": (
        VAE,
        FRAMES,
        "groups[:, :, a : a + rows, b : b + columns, a, b]",
        "groups[:, :, a : a + rows, b : b + columns, b, a]",
    ),
    "the past in front is the newest step twice": (
        VAE,
        FRAMES,
        "kept = seen[:, -HISTORY:].clone()",
        "kept = seen[:, -1:].repeat(1, HISTORY, 1, 1, 1)",
    ),
    "a residual forgotten": (
        VAE,
        f"{CORE}/vae/fused_layers.py",
        "passage.put(passage.take()._replace(residual=residual))",
        "passage.put(passage.take())",
    ),
    "the first time step doubled": (
        VAE,
        f"{CORE}/vae/fused_layers.py",
        "passage.kept.append(x.new_zeros(x.shape[0], ops.HISTORY, *x.shape[2:]))",
        "passage.kept.append(x.repeat(1, ops.HISTORY, 1, 1, 1))",
    ),
    "halves of time in the wrong order": (
        VAE,
        f"{CORE}/vae/fused_layers.py",
        "pictures[clip, 2 * step + half]",
        "pictures[clip, 2 * step + 1 - half]",
    ),
    "a second piece without a past": (
        VAE,
        f"{CORE}/vae/fused_network.py",
        "        past = deque(part.kept)\n",
        "        past = deque(0 * tensor for tensor in part.kept)\n",
    ),
    # drafts
    "taew2_1 reads VAE space": (
        VAE,
        f"{CORE}/vae/tiny_decoder.py",
        "to_model_space(latent, self.spec) if self.kind == TAEW2_1 else latent",
        "latent",
    ),
    "the past after the present": (
        VAE,
        f"{CORE}/vae/tiny_decoder.py",
        "torch.cat((x, before.flatten(0, 1)), dim=1)",
        "torch.cat((before.flatten(0, 1), x), dim=1)",
    ),
    "the first time step kept instead of the last": (
        VAE,
        f"{CORE}/vae/tiny_decoder.py",
        "x.unflatten(0, (batch, -1))[:, -1]",
        "x.unflatten(0, (batch, -1))[:, 0]",
    ),
    "a draft's first frame is its latent frame's first": (
        VAE,
        f"{CORE}/vae/tiny_decoder.py",
        "-1 if memory is None else 0 :",
        "slice(0, 1) if memory is None else slice(None)",
    ),
    "channels slowest in a time step": (
        VAE,
        f"{CORE}/vae/tiny_decoder.py",
        "unflatten(1, (self.growth, -1))",
        "unflatten(1, (-1, self.growth)).transpose(1, 2)",
    ),
    "latents bent at one deviation": (VAE, f"{CORE}/vae/tiny_decoder.py", "tanh(x / 3) * 3", "tanh(x)"),
    "deviations as a factor": (
        VAE,
        f"{CORE}/vae/statistics.py",
        "- means) / deviations",
        "- means) * deviations",
    ),
    # LTX-2's VAE
    "columns and rows of a patch exchanged": (
        LTX,
        f"{CORE}/vae/ltx_layers.py",
        "x.permute(0, 1, 6, 4, 2, 3, 5).flatten(1, 3)",
        "x.permute(0, 1, 4, 6, 2, 3, 5).flatten(1, 3)",
    ),
    "channels innermost in depth to space": (
        LTX,
        f"{CORE}/vae/ltx_layers.py",
        "x.unflatten(1, (-1, *factor)).permute(0, 1, 5, 2, 6, 3, 7, 4)",
        "x.unflatten(1, (*factor, -1)).permute(0, 4, 5, 1, 6, 2, 7, 3)",
    ),
    "channels innermost in space to depth": (
        LTX,
        f"{CORE}/vae/ltx_layers.py",
        "x.permute(0, 1, 3, 5, 7, 2, 4, 6)",
        "x.permute(0, 3, 5, 7, 1, 2, 4, 6)",
    ),
    "epsilon of LTX's norms": (LTX, f"{CORE}/vae/ltx_layers.py", "EPSILON = 1e-8", "EPSILON = 1e-6"),
    "activation before the norm": (
        LTX,
        f"{CORE}/vae/ltx_layers.py",
        "    return F.silu((x * (squares / x.shape[1] + EPSILON).rsqrt()).to(x.dtype))",
        "    x = F.silu(x)\n    return x * (x.square().mean(1, keepdim=True) + EPSILON).rsqrt()",
    ),
    "zeros before a clip": (
        LTX,
        f"{CORE}/vae/ltx_layers.py",
        "past = x[:, :, :1].expand(",
        "past = torch.zeros_like(x[:, :, :1]).expand(",
    ),
    "zeros behind a clip": (
        LTX,
        f"{CORE}/vae/ltx_layers.py",
        "end = (x[:, :, -1:],)",
        "end = (0 * x[:, :, -1:],)",
    ),
    "a causal decoder where it isn't": (
        LTX,
        f"{CORE}/vae/ltx_network.py",
        '{"causal": config.causal, "padding": config.padding',
        '{"causal": True, "padding": config.padding',
    ),
    "a symmetric decoder where it is causal": (
        LTX,
        f"{CORE}/vae/ltx_network.py",
        '{"causal": config.causal, "padding": config.padding',
        '{"causal": False, "padding": config.padding',
    ),
    "mirrored and zero borders exchanged": (
        LTX,
        f"{CORE}/vae/ltx_config.py",
        'return "reflect" if self.spec is LTX_2 else "zeros"',
        'return "zeros" if self.spec is LTX_2 else "reflect"',
    ),
    "mirrored borders in the encoder": (
        LTX,
        f"{CORE}/vae/ltx_network.py",
        '{"causal": True, "padding": "zeros", **place}',
        '{"causal": True, "padding": "reflect", **place}',
    ),
    "the last frame left out behind a step up": (
        LTX,
        f"{CORE}/vae/ltx_layers.py",
        "y = y[:, :, 1:]",
        "y = y[:, :, :-1]",
    ),
    "a shortcut up interleaved": (
        LTX,
        f"{CORE}/vae/ltx_layers.py",
        "own.repeat(1, y.shape[1] // own.shape[1], 1, 1, 1)",
        "own.repeat_interleave(y.shape[1] // own.shape[1], 1)",
    ),
    "shortcuts up exchanged": (
        LTX,
        f"{CORE}/vae/ltx_config.py",
        "return self.spec is LTX_2\n",
        "return self.spec is not LTX_2\n",
    ),
    "a shortcut up of the newest frames": (
        LTX,
        f"{CORE}/vae/ltx_layers.py",
        "own = depth_to_space(waiting[:, :, :frames], self.factor)",
        "own = depth_to_space(waiting[:, :, -frames:], self.factor)",
    ),
    "a shortcut down over strided channels": (
        LTX,
        f"{CORE}/vae/ltx_layers.py",
        ".unflatten(1, (y.shape[1], -1))\n        return y + groups.mean(dim=2), kept",
        ".unflatten(1, (-1, y.shape[1]))\n        return y + groups.mean(dim=1), kept",
    ),
    "a zero frame in front of a step down": (
        LTX,
        f"{CORE}/vae/ltx_layers.py",
        "x = torch.cat((x[:, :, :1], x), dim=2)",
        "x = torch.cat((0 * x[:, :, :1], x), dim=2)",
    ),
    "the residual of the normed input": (
        LTX,
        f"{CORE}/vae/ltx_layers.py",
        "        waiting = joined(waiting, x)\n        if y is None:",
        "        waiting = joined(waiting, active(x))\n        if y is None:",
    ),
    "a residual of the newest frames": (
        LTX,
        f"{CORE}/vae/ltx_layers.py",
        "return y + waiting[:, :, : y.shape[2]], (",
        "return y + waiting[:, :, -y.shape[2] :], (",
    ),
    "no norm before the last convolution": (
        LTX,
        f"{CORE}/vae/ltx_network.py",
        "y, past = self.conv_out(active(x), past, last)",
        "y, past = self.conv_out(x, past, last)",
    ),
    "the log variance in front": (
        LTX,
        f"{CORE}/vae/ltx_vae.py",
        "moments[:, : self.config.latent_channels]",
        "moments[:, 1:]",
    ),
    "statistics not applied": (
        LTX,
        f"{CORE}/vae/ltx_vae.py",
        "return latents * deviation + mean",
        "return latents * 1 + 0 * mean",
    ),
    "statistics not taken out": (
        LTX,
        f"{CORE}/vae/ltx_vae.py",
        "return (means - mean) / deviation",
        "return means",
    ),
    "a past of the new frames only": (
        LTX,
        f"{CORE}/vae/ltx_layers.py",
        "return y, seen[:, :, -HISTORY:].clone()",
        "return y, torch.cat((x[:, :, -1:],) * HISTORY, dim=2)[:, :, : seen.shape[2]]",
    ),
    "the end told to the first part": (
        LTX,
        f"{CORE}/vae/ltx_stream.py",
        "waiting[-len(parts)] = (place + 1, parts[-1], True)",
        "waiting[-1] = (place + 1, parts[0], True)",
    ),
    "columns and rows of a made patch exchanged": (
        LTX,
        f"{CORE}/vae/ltx_layers.py",
        "x.unflatten(1, (-1, PATCH, PATCH)).permute(0, 1, 4, 5, 3, 6, 2)",
        "x.unflatten(1, (-1, PATCH, PATCH)).permute(0, 1, 4, 5, 2, 6, 3)",
    ),
}


@pytest.mark.parametrize("name", MUTATIONS)
def test_mistake_is_noticed(name, tmp_path):
    kind, file, old, new = MUTATIONS[name]
    pack = mutant(tmp_path, f"mutant_{list(MUTATIONS).index(name)}", file, old, new)
    try:
        assert any(_fails(check, pack) for check in CHECKS[kind]), "no check noticed"
    finally:
        forget(pack)


@pytest.mark.parametrize("kind", CHECKS)
def test_the_unchanged_copy_passes(kind, tmp_path):
    """Without this, a copy that cannot even be imported would count as a noticed mistake."""
    line = "THETA = 10000.0"
    pack = mutant(tmp_path, f"unchanged_{kind}", f"{CORE}/transformer/positions.py", line, line)
    try:
        for check in CHECKS[kind]:
            check(pack)
    finally:
        forget(pack)


def _fails(check, pack: Pack) -> bool:
    """True when the check's assertion fails. Any other error is the mutation's fault and is raised."""
    try:
        check(pack)
    except AssertionError:
        return True
    return False
