"""Checks inside ComfyUI's process: fused blocks on its layers, in plain operations, since there is no GPU."""

from __future__ import annotations

import tempfile
from contextlib import contextmanager
from pathlib import Path

from checks_inside import DEMO, check, close, image, pack, run, same


@contextmanager
def replaced(owner, name: str, value):
    before = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)


def fused(fp8: bool = False):
    """Fused blocks, as if the kernels could run."""
    choice = pack("sana_video_core.transformer.ops").Choice(True, "", fp8)
    return replaced(pack("sana_video_core.transformer.network"), "choose", lambda *_: choice)


def loaded_as(dtype, computing=None):
    """A MODEL on a machine where ComfyUI keeps weights in `dtype` and computes in `computing`."""
    import comfy.model_management as management

    with (
        replaced(management, "unet_dtype", lambda **_: dtype),
        replaced(management, "unet_manual_cast", lambda *_: computing),
    ):
        return run("SanaVideoModelLoader", DEMO, "auto")


def lora_on_every_gemm(folder: Path) -> Path:
    """Changes weights that fused blocks ask ComfyUI for, and layers that they call."""
    import torch
    from safetensors.torch import save_file

    generator, tensors = torch.Generator().manual_seed(4), {}
    network = pack("sana_video_core.checkpoints.checkpoint").load_transformer(
        pack("demo.model_set").demo_set().transformer
    )
    for name, parameter in network.blocks[0].named_parameters():
        if name.endswith("weight"):
            change = torch.randn(parameter.shape, generator=generator) * 0.3 * parameter.std()
            tensors[f"diffusion_model.blocks.0.{name.removesuffix('.weight')}.diff"] = change
    save_file(tensors, folder / "all.safetensors")
    return folder / "all.safetensors"


def near(a, b, share: float = 1e-4) -> None:
    close(a, b, share * b.abs().max().item())


@check
def fused_blocks_compute_what_plain_ones_do(demo):
    plain, _, _ = demo.sample(chunks=2)
    with fused():
        fused_latent, _, _ = demo.sample(chunks=2)
    assert not same(fused_latent["samples"], plain["samples"]), "the plain blocks ran"
    near(fused_latent["samples"], plain["samples"])


def moves_both(demo, changed) -> None:
    """Plain and fused blocks agree on a changed model, and the change shows."""
    plain, _, _ = demo.sample(changed)
    with fused():
        fused_latent, _, _ = demo.sample(changed)
        before, _, _ = demo.sample()
    near(fused_latent["samples"], plain["samples"])
    moved = (fused_latent["samples"] - before["samples"]).abs().max() / before["samples"].abs().max()
    assert moved > 0.01, f"the LoRA changed the picture only by {moved:.2g}"


@check
def loras_reach_fused_blocks(demo):
    with tempfile.TemporaryDirectory() as folder:
        changed = pack("bridge.lora").with_lora(demo.causal, lora_on_every_gemm(Path(folder)), 0.7)
        moves_both(demo, changed)


def low_rank_on_projections() -> dict:
    import torch

    network = pack("sana_video_core.checkpoints.checkpoint").load_transformer(
        pack("demo.model_set").demo_set().transformer
    )
    generator, tensors = torch.Generator().manual_seed(5), {}
    for layer in ("attn.qkv", "attn.proj", "cross_attn.q_linear", "cross_attn.proj"):
        rows, columns = network.blocks[0].get_submodule(layer).weight.shape
        name = f"diffusion_model.blocks.0.{layer}"
        tensors[f"{name}.lora_A.weight"] = torch.randn(4, columns, generator=generator) * columns**-0.5
        tensors[f"{name}.lora_B.weight"] = torch.randn(rows, 4, generator=generator) * 0.3
    return tensors


@check
def loras_in_bypass_mode_reach_fused_blocks(demo):
    """ComfyUI replaces a layer's forward there; a projection that is folded into another would miss it."""
    import comfy.sd

    changed, _ = comfy.sd.load_bypass_lora_for_models(demo.causal, None, low_rank_on_projections(), 1.0, 0.0)
    moves_both(demo, changed)


@check
def weights_kept_in_8_bits_reach_fused_blocks(demo):
    """As with --fp8_e4m3fn-unet: stored in float8, computed in float32."""
    import torch

    small = loaded_as(torch.float8_e4m3fn, torch.float32)
    assert small.model.diffusion_model.dtype == torch.float8_e4m3fn
    plain, _, _ = demo.sample(small)
    with fused():
        fused_latent, _, _ = demo.sample(small)
    near(fused_latent["samples"], plain["samples"])


@check
def gemms_in_8_bits_use_comfyuis_weights(demo):
    """Weights in float32, computing in bfloat16, GEMMs in 8 bits: near full precision, also with a LoRA."""
    import torch

    half = loaded_as(torch.float32, torch.bfloat16)
    with tempfile.TemporaryDirectory() as folder:
        changed = pack("bridge.lora").with_lora(half, lora_on_every_gemm(Path(folder)), 0.7)
        for model in (half, changed):
            full, _, _ = demo.sample(model, steps=1)
            with fused(fp8=True):
                fused_latent, _, _ = demo.sample(model, steps=1)
            error = (fused_latent["samples"] - full["samples"]).norm() / full["samples"].norm()
            assert 0.003 < error < 0.15, error


def fused_vae():
    """The VAE's kernels in their plain versions, as if they could run."""
    choice = pack("sana_video_core.vae.ops").Choice(True, "")
    return replaced(pack("sana_video_core.vae.wan_vae"), "choose_for_frames", lambda *_: choice)


def _latents() -> dict:
    import torch

    return {"samples": torch.randn(1, 16, 3, 6, 8, generator=torch.Generator().manual_seed(2))}


def _primed(demo, vae):
    state = run("SanaVideoPrime", demo.causal, vae, demo.positive, demo.start(), image=image()).state
    return state.history[0].latents


def both_ways(demo, vae):
    """Frames and primed latents of fused layers, of which it is known that they ran; near the plain ones."""
    plain = run("SanaVideoDecode", vae, _latents()), _primed(demo, vae)
    with fused_vae():
        made = run("SanaVideoDecode", vae, _latents()), _primed(demo, vae)
    for ours, theirs in zip(made, plain, strict=True):
        assert not same(ours, theirs), "the plain layers ran"
        near(ours, theirs)
    return made


def _another(dtype=None):
    import comfy.sd
    from safetensors.torch import load_file

    return comfy.sd.VAE(sd=load_file(pack("demo.model_set").demo_set().vae), dtype=dtype)


@check
def cores_vae_runs_fused(demo):
    """Whoever loaded it; also with parts that were compiled, whose layers are the same."""
    import torch

    ours, compiled = both_ways(demo, demo.vae), _another()
    assert all(map(same, both_ways(demo, _another()), ours))
    for part in ("encoder", "decoder"):
        network = compiled.first_stage_model
        setattr(network, part, torch.compile(getattr(network, part), backend="eager"))
    assert all(map(same, both_ways(demo, compiled), ours))


@check
def a_vaes_weights_that_are_cast_as_they_are_used_run_fused(demo):
    import torch

    whole, late = _another(torch.bfloat16), _another()
    late.vae_dtype = torch.bfloat16
    for layer in late.first_stage_model.modules():
        if hasattr(layer, "comfy_cast_weights"):
            layer.comfy_cast_weights = True
    with fused_vae():
        frames = run("SanaVideoDecode", whole, _latents())
        assert same(run("SanaVideoDecode", late, _latents()), frames)
    close(frames, run("SanaVideoDecode", demo.vae, _latents()), 0.1)


@check
def what_changes_a_vaes_weights_reaches_fused_layers(demo):
    """A patch of the patcher's, and one that a layer applies when it is used; both at once."""
    before, changed = both_ways(demo, demo.vae), _another()
    weights = changed.first_stage_model.state_dict()
    names = "decoder.conv1.weight", "decoder.head.0.gamma", "encoder.middle.1.proj.weight"
    changed.patcher.add_patches({name: ("diff", (0.5 * weights[name],)) for name in names})
    layer = changed.first_stage_model.decoder.head[2]
    layer.comfy_cast_weights, layer.weight_function = True, [lambda weight: 0.5 * weight]
    for ours, theirs in zip(both_ways(demo, changed), before, strict=True):
        moved = (ours - theirs).abs().max() / theirs.abs().max()
        assert moved > 0.01, f"the change moved it only by {moved:.2g}"


@check
def a_vae_without_a_seam_keeps_its_plain_layers(demo):
    """As nodes for textures set it on every convolution."""
    import torch

    seamless = _another()
    for layer in seamless.first_stage_model.modules():
        if isinstance(layer, torch.nn.Conv2d):
            layer.padding_mode = "circular"
    plain = run("SanaVideoDecode", seamless, _latents())
    assert not same(plain, run("SanaVideoDecode", demo.vae, _latents()))
    with fused_vae():
        assert same(run("SanaVideoDecode", seamless, _latents()), plain)
