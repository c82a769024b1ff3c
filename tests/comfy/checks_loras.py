"""Checks inside ComfyUI's process: LoRAs of every spelling, through our loader and core's."""

from __future__ import annotations

import tempfile
from pathlib import Path

from checks_inside import check, close, pack, same

RANK = 4


def _lora(split: bool):
    """One LoRA twice: on the fused names, and on the split ones that diffusers and PEFT use."""
    import torch

    generator = torch.Generator().manual_seed(9)
    fused, parts = {}, {}
    down = torch.randn(RANK, 112, generator=generator)
    up = torch.randn(3 * 112, RANK, generator=generator) * 0.1
    fused["blocks.1.attn.qkv"] = (down, up)
    for i, name in enumerate("qkv"):
        parts[f"transformer_blocks.1.attn1.to_{name}"] = (down, up[112 * i : 112 * (i + 1)])
    down, up = torch.randn(RANK, 112, generator=generator), torch.randn(112, RANK, generator=generator) * 0.1
    fused["blocks.0.cross_attn.q_linear"] = parts["transformer_blocks.0.attn2.to_q"] = (down, up)
    return parts if split else fused


def _file(folder: Path, name: str, split: bool, prefix: str, a: str, b: str) -> Path:
    from safetensors.torch import save_file

    tensors = {}
    for module, (down, up) in _lora(split).items():
        key = prefix + (module.replace(".", "_") if prefix.endswith("_") else module)
        tensors |= {f"{key}.{a}.weight": down.clone(), f"{key}.{b}.weight": up.clone()}
    save_file(tensors, folder / f"{name}.safetensors")
    return folder / f"{name}.safetensors"


SPELLINGS = {
    "original": (False, "", "lora_A", "lora_B"),
    "comfyui": (False, "diffusion_model.", "lora_down", "lora_up"),
    "kohya": (False, "lora_unet_", "lora_down", "lora_up"),
    "diffusers": (True, "transformer.", "lora_A", "lora_B"),
    "peft": (True, "base_model.model.", "lora_A", "lora_B"),
}


@check
def loras_of_every_spelling_reach_the_stream_and_go_again(demo):
    with_lora = pack("bridge.lora").with_lora
    plain, _, _ = demo.sample()
    with tempfile.TemporaryDirectory() as folder:
        results = {}
        for name, spelling in SPELLINGS.items():
            changed = with_lora(demo.causal, _file(Path(folder), name, *spelling), 0.8)
            latent, state, _ = demo.sample(changed)
            results[name] = latent["samples"]
            assert state.state.history[-1].loras == (f"{name} 0.8",)
            again, _, _ = demo.sample()
            assert same(again["samples"], plain["samples"]), f"{name} stayed in the shared module"
    first = results["original"]
    assert not same(first, plain["samples"])
    for other in results.values():
        close(other, first, 1e-5 * first.abs().max().item())


@check
def pefts_alpha_is_the_strength_that_core_applies(demo):
    """Alpha 8 of rank 4 at strength 0.4 is alpha 4, the rank, at 0.8."""
    with_lora = pack("bridge.lora").with_lora
    with tempfile.TemporaryDirectory() as folder:
        peft, alone = Path(folder) / "snow", Path(folder) / "alone"
        peft.mkdir(), alone.mkdir()
        (peft / "adapter_config.json").write_text('{"peft_type": "LORA", "r": 4, "lora_alpha": 8}')
        one, state, _ = demo.sample(
            with_lora(demo.causal, _file(peft, "adapter_model", *SPELLINGS["peft"]), 0.4)
        )
        other, _, _ = demo.sample(with_lora(demo.causal, _file(alone, "a", *SPELLINGS["peft"]), 0.8))
    assert state.state.history[-1].loras == ("snow 0.4",)
    close(one["samples"], other["samples"], 1e-5 * other["samples"].abs().max().item())


@check
def cores_own_loader_reaches_the_stream(demo):
    import comfy.sd
    from safetensors.torch import load_file

    with tempfile.TemporaryDirectory() as folder:
        path = _file(Path(folder), "comfyui", *SPELLINGS["comfyui"])
        core, _ = comfy.sd.load_lora_for_models(demo.causal, None, load_file(path), 0.8, 0)
        ours = pack("bridge.lora").with_lora(demo.causal, path, 0.8)
        one, state, _ = demo.sample(core)
        other, _, _ = demo.sample(ours)
    assert same(one["samples"], other["samples"])
    assert state.state.history[-1].loras == ("unnamed",)


@check
def loras_change_clips_under_ksampler(demo):
    plain = demo.ksample()
    with tempfile.TemporaryDirectory() as folder:
        path = _file(Path(folder), "peft", *SPELLINGS["peft"])
        changed = demo.ksample(pack("bridge.lora").with_lora(demo.clip_model, path, 1.0))
    assert not same(changed, plain)
    assert same(demo.ksample(), plain)


@check
def a_table_that_core_skips_is_changed_and_comes_back(demo):
    import comfy.sd
    import torch
    from safetensors.torch import load_file, save_file

    key = "blocks.0.scale_shift_table"
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "table.safetensors"
        save_file({f"diffusion_model.{key}.diff": torch.full((6, 112), 0.25)}, path)
        plain, _, _ = demo.sample()
        changed = pack("bridge.lora").with_lora(demo.causal, path, 2.0)
        latent, _, _ = demo.sample(changed)
        twice, _, _ = demo.sample(pack("bridge.lora").with_lora(changed, path, -2.0))
        again, _, _ = demo.sample()
        core, _ = comfy.sd.load_lora_for_models(demo.causal, None, load_file(path), 2.0, 0)
        silent, _, _ = demo.sample(core)
    assert not same(latent["samples"], plain["samples"])
    assert same(again["samples"], plain["samples"])
    close(twice["samples"], plain["samples"], 1e-4)
    assert same(silent["samples"], plain["samples"]), "core applies it now, so our own exchange can go"
