"""Our nodes in a real ComfyUI on one GPU at the true size: the same bits as the bare core, the cost of the node, and memory.

Usage: python benchmarks/comfyui.py COMFYUI_FOLDER [--dynamic] [--limit GIB]. Random weights in the published shapes.
`--dynamic` switches on ComfyUI's dynamic VRAM (comfy-aimdo), `--limit` pretends a smaller card, with a hard wall.
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
    config, checkpoint = pack("sana_video_core.config"), pack("sana_video_core.checkpoint")
    rules = config.LONGSANA_480P
    with torch.device("cuda"):
        network = pack("sana_video_core.model").SanaVideo(rules.config, rules, dtype=torch.bfloat16)
        vae = pack("sana_video_core.wan_vae").WanVAE(
            pack("sana_video_core.wan_vae").VAEConfig(), dtype=torch.bfloat16
        )
    checkpoint.save_transformer(folder / "t.safetensors", randomised(network), rules.config, rules.name)
    tensors = randomised(vae)
    tensors["decoder.head.2.weight"] = tensors["decoder.head.2.weight"] * 0.5
    pack("sana_video_core.tensor_file").write_tensors(folder / "v.safetensors", tensors, {})
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
    """The core without a host: load on the GPU and extend."""
    stream, checkpoint = pack("sana_video_core.stream"), pack("sana_video_core.checkpoint")
    model = checkpoint.load_transformer(path, device="cuda", dtype=torch.bfloat16)
    ((embeddings, told),) = conditioning()
    prompt = stream.Prompt(embeddings=embeddings, mask=told["attention_mask"], digest="1")

    def run():
        state = stream.start(model, height=HEIGHT, width=WIDTH)
        for newer in stream.extend(model, state, prompt, stream.Sampling(seed=3, steps=STEPS), chunks=CHUNKS):
            state = newer
        return state

    run()
    results = [timed(run) for _ in range(2)]
    return results[-1][0], min(r[1] for r in results), results[-1][2]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("comfyui", type=Path)
    parser.add_argument("--dynamic", action="store_true")
    parser.add_argument("--limit", type=float)
    options = parser.parse_args()
    start_comfyui(options.comfyui.resolve(), options.dynamic, options.limit)
    told: dict[str, object] = {
        "gpu": torch.cuda.get_device_name(), "torch": torch.__version__, "dtype": "bfloat16", "size": f"{WIDTH}x{HEIGHT}",
        "dynamic": options.dynamic, "limit_gib": options.limit,
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as name, torch.inference_mode():
        transformer, vae_file = write_models(Path(name))
        expected = None
        if options.limit is None:
            expected, seconds, peak = bare_core(transformer)
            told |= {"bare_s_per_chunk": seconds / CHUNKS, "bare_peak_gib": peak}
            torch.cuda.empty_cache()
        patcher = pack("bridge.native").load_patcher(transformer, None)
        told["patcher"] = type(patcher).__name__
        told["memory_required_gib"] = patcher.memory_required([1, 16, 11, 60, 104]) / GIB
        start = node_run("SanaVideoStart", patcher, WIDTH, HEIGHT, 1)

        def sample():
            return node_run(
                "SanaVideoBlockSampler",
                patcher,
                conditioning(),
                start,
                CHUNKS,
                3,
                STEPS,
                "few_step",
                "recache",
            )

        sample()
        results = [timed(sample) for _ in range(2)]
        (_, state, _), _, peak = results[-1]
        told |= {"node_s_per_chunk": min(r[1] for r in results) / CHUNKS, "node_peak_gib": peak}
        told["weights_gib"] = torch.cuda.memory_allocated() / GIB
        if expected is not None:
            pairs = list(zip(expected.tensors(), state.tensors, strict=True))
            told["same_bits"] = all(torch.equal(a, b) for a, b in pairs)
            told["largest_difference"] = max((a.float() - b.float()).abs().max().item() for a, b in pairs)
        vae = pack("bridge.vaes").HostedVae.load(vae_file)
        told["vae_dtype"] = str(vae.vae.conv2.weight.dtype)
        one = pack("nodes.sockets").SocketState.of(state.state)
        latent = {"samples": pack("sana_video_core.wan_vae").to_vae_space(state.state.story[0].latents)}
        node_run("SanaVideoDecode", vae, latent)
        images, seconds, peak = timed(lambda: node_run("SanaVideoDecode", vae, latent))
        told |= {
            "decode_41_s": seconds,
            "decode_peak_gib": peak,
            "decode_finite": bool(images.isfinite().all()),
        }
        told["decode_bytes_per_latent_byte"] = round((peak - 0.24) * GIB / (60 * 104 * 2))
        _, seconds, peak = timed(
            lambda: node_run("SanaVideoDecode", vae, {"samples": torch.cat([latent["samples"]] * 2, 2)})
        )
        told |= {"decode_85_s": seconds, "decode_85_peak_gib": peak}
        _, seconds, peak = timed(sample)  # the transformer comes back after the VAE
        told |= {
            "again_s_per_chunk": seconds / CHUNKS,
            "again_peak_gib": peak,
            "state_chunks": len(one.state.story),
        }
    print(json.dumps(told, indent=1))


if __name__ == "__main__":
    main()
