"""Checks inside ComfyUI's process: LoRAs as the core applies them; other nodes' changes are told."""

from __future__ import annotations

import tempfile
from pathlib import Path

from checks_inside import check, core_node, pack, same

PREFIX = "diffusion_model."
TABLE = "scale_shift_table"


def _kinds():
    """Module -> parts, of every kind that is read; the demo's width is 112."""
    import torch

    generator = torch.Generator().manual_seed(5)

    def random(*shape):
        return torch.randn(*shape, generator=generator) / 4

    def lora(rows, columns, *kernel):
        up = random(rows, 4, *[1] * len(kernel))
        return {"lora_A.weight": random(4, columns, *kernel), "lora_B.weight": up}

    def pair(name, rows, columns, rank):
        return {f"{name}_a": random(rows, rank), f"{name}_b": random(rank, columns)}

    def loha(rows, columns):
        return pair("hada_w1", rows, columns, 3) | pair("hada_w2", rows, columns, 3)

    def dora(*shape):
        return {"alpha": torch.tensor(3.0), "dora_scale": random(*shape).abs() + 1}

    def alpha(value):
        return {"alpha": torch.tensor(value)}

    core = {"lora_up.weight": random(112, 4, 1, 1), "lora_down.weight": random(4, 112, 1, 1)}
    tucker = {f"hada_w{n}_{end}": random(3, 112) for n in (1, 2) for end in "ab"}
    tucker |= {f"hada_t{n}": random(3, 3, 3, 1) for n in (1, 2)}
    return {
        "blocks.0.attn.q": lora(112, 112) | alpha(7.0),
        "blocks.0.attn.k": lora(112, 112) | dora(112),
        "blocks.0.attn.v": loha(112, 112) | alpha(5.0),
        "blocks.0.attn.qkv": {name: part.half() for name, part in lora(336, 112).items()},
        "blocks.0.attn.proj": lora(112, 112) | dora(1, 112),
        "blocks.0.attn.proj.bias": {"diff": random(112)},
        "blocks.0.cross_attn.q_linear": {"lokr_w1": random(8, 4), "lokr_w2": random(14, 28)} | dora(112),
        "blocks.0.cross_attn.kv_linear": pair("lokr_w1", 8, 4, 2) | pair("lokr_w2", 28, 28, 3) | alpha(5.0),
        "blocks.0.cross_attn.k": {"lokr_w1": random(8, 4)} | pair("lokr_w2", 14, 28, 2) | alpha(9.0),
        "blocks.0.cross_attn.v": loha(112, 112) | dora(112),
        "blocks.0.cross_attn.proj": {"set_weight": random(112, 112)},
        "blocks.0.mlp.t_conv": lora(112, 112, 3, 1) | alpha(1.5),
        f"blocks.0.{TABLE}": {"diff": random(6, 112)},
        "blocks.1.mlp.t_conv": core | {"lora_mid.weight": random(4, 4, 3, 1)} | alpha(2.0),
        "blocks.1.attn.proj": {"diff": random(112, 112).bfloat16()},
        "blocks.1.attn.qkv": loha(336, 112) | dora(1, 112),
        "blocks.1.cross_attn.proj": pair("lokr_w1", 8, 4, 2) | {"lokr_w2": random(14, 28)} | alpha(3.0),
        f"blocks.1.{TABLE}": lora(6, 112) | alpha(3.0),
        "final_layer.linear": lora(64, 112) | dora(64),
    }


def _kinds_file(folder: str) -> Path:
    from safetensors.torch import save_file

    path = Path(folder) / "kinds.safetensors"
    tensors = {f"{name}.{end}": part for name, parts in _kinds().items() for end, part in parts.items()}
    save_file(tensors, path)
    return path


def _split_file(folder: str) -> Path:
    from checks_loras import SPELLINGS, _file

    return _file(Path(folder), "split", *SPELLINGS["peft"])


def _bare(network, dtype):
    """The core's network with these weights."""
    bare = pack("sana_video_core.transformer.model").SanaVideo(network.config, network.family)
    bare.load_state_dict({name: tensor.clone() for name, tensor in network.state_dict().items()})
    bare.fingerprint = network.fingerprint
    return bare.to(dtype).requires_grad_(False)


def _cores(patcher, dtype):
    """What core makes of every weight that it patches, by name, and of the tables that we exchange."""
    import comfy.float
    import comfy.lora
    import comfy.model_management

    compute = comfy.model_management.lora_compute_dtype(patcher.load_device)
    changed = {}
    for key, patches in patcher.patches.items():
        weight = patcher.get_model_object(key).to(dtype).to(compute, copy=True)
        weight = comfy.lora.calculate_weight(patches, weight, key)
        changed[key] = comfy.float.stochastic_rounding(weight, dtype)
        if weight.dtype == dtype:
            assert same(changed[key], patcher.patch_weight_to_device(key, return_weight=True))
    if weight.dtype == dtype:  # they are rounded once a LoRA
        changed |= {key: value for key, value in patcher.object_patches.items() if key.startswith(PREFIX)}
    return {key.removeprefix(PREFIX): weight for key, weight in changed.items()}


@check
def our_own_application_is_cores_bit_for_bit(demo):
    """Every kind, alone, weaker, and over each other; in float32, and in bfloat16 as core has it on a CPU."""
    import comfy.model_management
    import torch

    apply_loras = pack("sana_video_core.checkpoints.lora_apply").apply_loras
    comfy.model_management.unload_all_models()
    with tempfile.TemporaryDirectory() as folder:
        kinds, split = _kinds_file(folder), _split_file(folder)
        for choices in ([(kinds, 1.0)], [(kinds, 0.7)], [(kinds, -0.3), (split, 1.5), (kinds, 1.0)]):
            hosted = demo.causal
            for path, strength in choices:
                hosted = pack("bridge.lora").with_lora(hosted, path, strength)
            for dtype in (torch.float32, torch.bfloat16):
                ours = _bare(demo.causal.model.diffusion_model, dtype)
                before = ours.state_dict()
                apply_loras(ours, choices)
                changed = {n: t for n, t in ours.state_dict().items() if not same(t, before[n])}
                for name, expected in _cores(hosted, dtype).items():
                    assert same(changed.pop(name), expected), (name, choices, dtype)
                assert all(dtype == torch.bfloat16 and name.endswith(TABLE) for name in changed), (
                    changed.keys()
                )


@check
def a_stream_with_loras_is_the_cores_own(demo):
    import torch

    with tempfile.TemporaryDirectory() as folder:
        choices = [(_kinds_file(folder), 0.3), (_split_file(folder), 0.5)]
        hosted, core = demo.causal, _bare(demo.causal.model.diffusion_model, torch.float32)
        for path, strength in choices:
            hosted = pack("bridge.lora").with_lora(hosted, path, strength)
        applied = pack("sana_video_core.checkpoints.lora_apply").apply_loras(core, choices)
        _, state, _ = demo.sample(hosted, chunks=2)
    named = pack("bridge.stream_model").HostedModel(hosted)
    assert named.maker.loras == tuple(applied)
    assert named.maker.labels == ("kinds 0.3", "split 0.5")
    assert named.unnamed_changes is None
    stream = pack("sana_video_core.streaming.stream")
    sampling = stream.Sampling(seed=3, steps=2, sampler="few_step", on_prompt_change="recache")
    prompt = pack("bridge.text_encoders").prompt_of(demo.positive)
    begun = stream.start(core, height=48, width=64)
    *_, last = stream.extend(core, begun, prompt, sampling, chunks=2)
    for ours, theirs in zip(last.history, state.state.history, strict=True):
        assert same(ours.latents, theirs.latents)


@check
def what_other_nodes_change_is_told(demo):
    import comfy.sd
    from safetensors.torch import load_file

    model = pack("bridge.stream_model").HostedModel
    advanced = "comfy_extras.nodes_model_advanced"
    shifted = core_node(advanced, "ModelSamplingSD3")().patch(demo.causal, 3.0)[0]
    plain, _, _ = demo.sample()
    assert same(demo.sample(shifted)[0]["samples"], plain["samples"]), "a stream reads its model_sampling now"
    assert model(shifted).unnamed_changes is None
    cached = core_node("comfy_extras.nodes_easycache", "EasyCacheNode").execute(
        demo.causal, 0.2, 0.15, 0.95, False
    )
    assert model(cached.args[0]).unnamed_changes is None
    compiled = core_node("comfy_extras.nodes_torch_compile", "TorchCompileModel").execute(
        demo.causal, "eager"
    )
    assert model(compiled.args[0]).unnamed_changes == "TorchCompileModel"
    with tempfile.TemporaryDirectory() as folder:
        from checks_loras import SPELLINGS, _file

        path = _file(Path(folder), "comfyui", *SPELLINGS["comfyui"])
        ours = pack("bridge.lora").with_lora(demo.causal, path, 1.0)
        both, _ = comfy.sd.load_lora_for_models(ours, None, load_file(path), 0.8, 0)
        again = pack("bridge.lora").with_lora(both, path, 1.0)
        bypassed, _ = comfy.sd.load_bypass_lora_for_models(ours, None, load_file(path), 0.8, 0)
    assert model(ours).unnamed_changes is None
    assert model(shifted.clone()).maker.labels == ()
    for changed in (both, again, both.clone()):
        assert "a LoRA of another loader" in model(changed).unnamed_changes
        assert "unnamed" in model(changed).maker.labels
    assert model(bypassed).unnamed_changes == "a LoRA in bypass mode"
    merged = demo.causal.clone()
    merged.add_patches(demo.clip_model.get_key_patches("diffusion_model."), 0.5, 0.5)
    assert "a merge" in model(merged).unnamed_changes
    narrow = ours.clone()
    narrow.set_model_compute_dtype(None)
    assert model(narrow).unnamed_changes == "a dtype of another node"
    assert model(narrow).maker.labels == ("comfyui 1",)
    assert model(demo.causal).unnamed_changes is None
