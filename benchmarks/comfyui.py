"""Our nodes in a real ComfyUI on one GPU at full size: bit-exact with the bare core? What do they cost?

    python -m comfyui_sana_video.benchmarks.comfyui COMFYUI_FOLDER [--dynamic] [--limit GIB]

Random weights in the published shapes. `--dynamic` turns on ComfyUI's dynamic VRAM (comfy-aimdo). `--limit`
simulates a smaller card, with a hard limit. The pack is loaded from its folder, as ComfyUI does it.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import json
import sys
import tempfile
import time
from pathlib import Path

import torch

from .text_encoder_file import write_text_encoder

ROOT = Path(__file__).resolve().parents[1]
CHUNKS, STEPS, HEIGHT, WIDTH = 3, 4, 480, 832
GIB = 2**30


def start_comfyui(folder: Path, dynamic: bool, limit: float | None) -> None:
    """ComfyUI's modules in this process, set up as its main.py does."""
    total = torch.cuda.mem_get_info()[1] / GIB
    sys.argv = [sys.argv[0]]
    if limit is not None:
        sys.argv += ["--reserve-vram", str(total - limit)]
        torch.cuda.set_per_process_memory_fraction(limit / total)
    sys.path.insert(0, str(folder))
    import comfy.options

    comfy.options.enable_args_parsing()
    import comfy_aimdo.control

    if dynamic:
        comfy_aimdo.control.init()
    import comfy.memory_management
    import comfy.model_management
    import comfy.model_patcher

    import nodes  # noqa: F401  in the order of main.py

    if dynamic:
        devices = [device.index for device in comfy.model_management.get_all_torch_devices()]
        assert comfy_aimdo.control.init_devices((index, 0) for index in devices), (
            "comfy-aimdo does not work here"
        )
        comfy.model_patcher.CoreModelPatcher = comfy.model_patcher.ModelPatcherDynamic
        comfy.memory_management.aimdo_enabled = True
    spec = importlib.util.spec_from_file_location(
        "sana_pack", ROOT / "__init__.py", submodule_search_locations=[str(ROOT)]
    )
    sys.modules["sana_pack"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules["sana_pack"])


def pack(module: str):
    return importlib.import_module(f"sana_pack.{module}")


def after_node() -> None:
    """What ComfyUI's executor does after each node with dynamic VRAM."""
    import comfy.memory_management
    import comfy.model_management

    if comfy.memory_management.aimdo_enabled:
        import comfy_aimdo.model_vbar

        comfy.model_management.reset_cast_buffers()
        comfy_aimdo.model_vbar.vbars_reset_watermark_limits()


def randomised(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    """The tensors of a module on the GPU, drawn at a scale that keeps activations near 1."""
    torch.manual_seed(0)
    for name, parameter in module.named_parameters():
        if "norm" in name or name.endswith("gamma"):
            torch.nn.init.ones_(parameter)
        elif parameter.ndim == 1 or name.endswith("table"):
            torch.nn.init.normal_(parameter, std=0.02)
        else:
            torch.nn.init.normal_(parameter, std=parameter[0].numel() ** -0.5)
    return {name: tensor.cpu() for name, tensor in module.state_dict().items()}


def write_models(folder: Path) -> tuple[Path, Path]:
    config, checkpoint = pack("sana_video_core.config"), pack("sana_video_core.checkpoints.checkpoint")
    rules = config.LONGSANA_480P
    with torch.device("cuda"):
        network = pack("sana_video_core.transformer.model").SanaVideo(
            rules.config, rules, dtype=torch.bfloat16
        )
        vae = pack("sana_video_core.vae.wan_vae").WanVAE(
            pack("sana_video_core.vae.wan_vae").VAEConfig(), dtype=torch.bfloat16
        )
    checkpoint.save_transformer(folder / "t.safetensors", randomised(network), rules.config, rules.name)
    tensors = randomised(vae)
    tensors["decoder.head.2.weight"] = tensors["decoder.head.2.weight"] * 0.5
    pack("sana_video_core.files.tensor_file").write_tensors(folder / "v.safetensors", tensors, {})
    del network, vae
    torch.cuda.empty_cache()
    return folder / "t.safetensors", folder / "v.safetensors"


def conditioning(seed: int = 1):
    generator = torch.Generator().manual_seed(seed)
    mask = (torch.arange(300)[None] < 120).long()
    return [
        [torch.randn(1, 300, 2304, generator=generator), {"attention_mask": mask, "sana_digest": str(seed)}]
    ]


def timed(call):
    """(result, seconds, peak GiB)."""
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    began = time.perf_counter()
    result = call()
    torch.cuda.synchronize()
    return result, time.perf_counter() - began, torch.cuda.max_memory_allocated() / GIB


def node_run(name: str, *arguments):
    node = next(node for node in pack("nodes").NODES if node.__name__ == name)
    values = node.execute(*arguments).args
    after_node()
    return values[0] if len(values) == 1 else values


def bare_core(path: Path):
    """The core without a host: loads the model on the GPU, and returns what extends a stream."""
    stream, checkpoint = (
        pack("sana_video_core.streaming.stream"),
        pack("sana_video_core.checkpoints.checkpoint"),
    )
    model = checkpoint.load_transformer(path, device="cuda", dtype=torch.bfloat16)
    ((embeddings, options),) = conditioning()
    prompt = stream.Prompt(embeddings=embeddings, mask=options["attention_mask"], digest="1")

    def run():
        state = stream.start(model, height=HEIGHT, width=WIDTH)
        for newer in stream.extend(model, state, prompt, stream.Sampling(seed=3, steps=STEPS), chunks=CHUNKS):
            state = newer
        return state

    return run


def write_lora(folder: Path) -> Path:
    """A LoRA of rank 16 on the attention of every block, with PEFT's names and q, k, v apart."""
    generator, tensors = torch.Generator().manual_seed(2), {}
    for block in range(20):
        for name in "qkv":
            key = f"base_model.model.transformer_blocks.{block}.attn1.to_{name}"
            tensors[f"{key}.lora_A.weight"] = torch.randn(16, 2240, generator=generator) / 47
            tensors[f"{key}.lora_B.weight"] = torch.randn(2240, 16, generator=generator) / 20
    pack("sana_video_core.files.tensor_file").write_tensors(folder / "peft.safetensors", tensors, {})
    return folder / "peft.safetensors"


def measure(folder: Path, results: dict[str, object], limit: float | None) -> None:
    transformer, vae_file = write_models(folder)
    patcher = pack("bridge.model").load_patcher(transformer, None)
    results["patcher"] = type(patcher).__name__
    results["memory_required_gib"] = patcher.memory_required([1, 16, 11, 60, 104]) / GIB
    start = node_run("SanaVideoStart", patcher, WIDTH, HEIGHT, 1)

    def sample(model=patcher):
        return node_run(
            "SanaVideoBlockSampler", model, conditioning(), start, CHUNKS, 3, STEPS, "few_step", "recache"
        )

    plain = sample()[1]
    nodes, bare = [], []
    run = bare_core(transformer) if limit is None else None
    for _ in range(4 if run else 2):  # alternating, so that a card that heats up favours neither
        if run:
            expected, seconds, results["bare_peak_gib"] = timed(run)
            bare.append(seconds / CHUNKS)
        (_, state, _), seconds, results["node_peak_gib"] = timed(sample)
        nodes.append(seconds / CHUNKS)
    results["node_s_per_chunk"] = nodes
    if run:
        results |= {"bare_s_per_chunk": bare, "same_bits": same(expected.tensors(), state.tensors)}
    del run
    changed = pack("bridge.lora").with_lora(patcher, write_lora(folder), 1.0)
    with_lora, seconds, _ = timed(lambda: sample(changed)[1])
    results |= {
        "lora_s_per_chunk": seconds / CHUNKS,
        "lora_changes": not same(with_lora.tensors, plain.tensors),
    }
    # the same in every mode
    results["lora_chunk_0_mean"] = with_lora.state.history[0].latents.double().mean().item()
    results["without_again_same_bits"] = same(sample()[1].tensors, plain.tensors)
    if limit is None or limit >= 6:
        measure_others(folder, vae_file, state, results)
    _, seconds, results["again_peak_gib"] = timed(sample)  # the transformer is loaded again after the others
    results["again_s_per_chunk"] = seconds / CHUNKS


def same(a, b) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def measure_others(folder: Path, vae_file: Path, state, results: dict[str, object]) -> None:
    """Decoding 41 frames, and one prompt with the full-size text encoder."""
    vae = pack("bridge.vaes").load_vae(vae_file)
    statistics, config = pack("sana_video_core.vae.statistics"), pack("sana_video_core.config")
    clean = statistics.to_vae_space(state.state.history[0].latents, config.WAN_2_1)
    latent = {"samples": clean}
    node_run("SanaVideoDecode", vae, latent)
    images, seconds, peak = timed(lambda: node_run("SanaVideoDecode", vae, latent))
    results |= {
        "decode_41_s": seconds,
        "decode_peak_gib": peak,
        "decode_finite": bool(images.isfinite().all()),
    }
    encoder = pack("bridge.text_encoders").HostedTextEncoder.load(
        write_text_encoder(folder / "gemma.safetensors")
    )
    torch.cuda.empty_cache()
    embeddings, seconds, peak = timed(
        lambda: node_run("SanaVideoTextEncode", encoder, "a red ball rolls", 10, True)
    )
    results |= {
        "text_s": seconds,
        "text_peak_gib": peak,
        "text_finite": bool(embeddings[0][0].isfinite().all()),
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("comfyui", type=Path)
    parser.add_argument("--dynamic", action="store_true")
    parser.add_argument("--limit", type=float)
    options = parser.parse_args()
    start_comfyui(options.comfyui.resolve(), options.dynamic, options.limit)
    results: dict[str, object] = {
        "gpu": torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "dtype": "bfloat16",
        "size": f"{WIDTH}x{HEIGHT}",
        "dynamic": options.dynamic,
        "limit_gib": options.limit,
    }
    with tempfile.TemporaryDirectory() as name, torch.inference_mode():
        measure(Path(name), results, options.limit)
    print(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
