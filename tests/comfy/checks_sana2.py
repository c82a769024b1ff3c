"""Checks inside ComfyUI's process: SANA-Video 2.0 as a genuine MODEL, on small random weights."""

from __future__ import annotations

import importlib
import tempfile
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

from checks_inside import check, close, core_node, image, pack, refused, run, same

FOUR, FIFTY = "sana_video2_720p_4step", "sana_video2_720p"
SIZE = (64, 96, 17, 1)  # width, height, frames, clips
GRID, FRAMES = (3, 2), 3


def weights() -> tuple:
    config = pack("sana_video_core.config")
    sizes = config.Sana2Config(
        channels=128, patch=1, width=56, depth=4, head_dim=14, softmax_head_dim=28, cross_head_dim=28,
        ffn_hidden=64, caption_channels=32, group=3,
    )  # fmt: skip
    network = pack("sana_video_core.transformer.model2").SanaVideo2(sizes, config.FAMILIES[FIFTY])
    return sizes, pack("demo.model_set").seeded(network, 0).state_dict()


@contextmanager
def loaded(family: str):
    """The MODEL of a file of ours, and the core's network of the same file."""
    checkpoint = pack("sana_video_core.checkpoints.checkpoint")
    sizes, tensors = weights()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "m.safetensors"
        checkpoint.save_transformer(file, tensors, sizes, family)
        yield pack("bridge.model").load_patcher(file, None), checkpoint.load_transformer(file)


def of_core(demo, network, **options):
    """A clip by the core alone."""
    one_shot, shapes = pack("sana_video_core.sampling.one_shot"), pack("sana_video_core.shapes")
    texts = [network.prepare_text(c[0][0], c[0][1]["attention_mask"]) for c in (demo.positive, demo.negative)]
    inputs = {name: options.pop(name) for name in ("noise", "image") if name in options}
    sampling = one_shot.ClipSampling(**options)
    second = texts[1] if sampling.cfg > 1 else None
    return one_shot.sample_clip(
        network, texts[0], second, shapes.LatentGrid(*GRID), FRAMES, sampling, **inputs
    )


def by_core_sampler(demo, model, solver, sigmas, latent, cfg: float, seed: int = 5):
    custom = importlib.import_module("comfy_extras.nodes_custom_sampler")
    noise = custom.RandomNoise.execute(seed).args[0]
    guider = custom.CFGGuider.execute(model, demo.positive, demo.negative, cfg).args[0]
    made = custom.SamplerCustomAdvanced.execute(noise, guider, solver, sigmas, latent).args[0]
    return made["samples"], noise.generate_noise(latent)


@check
def sana_video_2_is_a_model_of_its_own(demo):
    with loaded(FOUR) as (model, _), loaded(FIFTY) as (other, _):
        network, sampling = model.model.diffusion_model, model.get_model_object("model_sampling")
        assert type(network).__name__ == "SanaVideo2Module"
        assert (sampling.shift, other.get_model_object("model_sampling").shift) == (6.0, 12.0)
        assert model.model.latent_format.latent_channels == 128
        refused(lambda: run("SanaVideoStart", model, 96, 64, 1), "softmax layers see all frames")
        latent = run("SanaVideoEmptyLatent", other, *SIZE)
        assert demo.ksample(other, latent, steps=2).isfinite().all()


@check
def its_four_steps_are_exact_under_core_sampling(demo):
    """SIGMAS of shift 6, and ComfyUI's lcm: the clean estimate, and fresh noise."""
    import torch
    from comfy.k_diffusion.sampling import default_noise_sampler

    custom = importlib.import_module("comfy_extras.nodes_custom_sampler")
    sigmas = run("SanaVideoSigmas", 4, 6.0, 1.0, "dpm++")
    expected = (0.9998332262, 0.9471688271, 0.8568977118, 0.6663702130, 0)
    close(sigmas, torch.tensor(expected), 1e-7)
    solver = custom.KSamplerSelect.execute("lcm").args[0]
    with loaded(FOUR) as (model, network):
        latent = run("SanaVideoEmptyLatent", model, *SIZE)
        theirs, noise = by_core_sampler(demo, model, solver, sigmas, latent, 1.0)
        text = network.prepare_text(demo.positive[0][0], demo.positive[0][1]["attention_mask"])
        x, draw = sigmas[0] * noise, default_noise_sampler(noise, seed=5)
        for sigma, following in pairwise(sigmas):
            clean = x - sigma * network(x, 1000 * sigma[None], text)
            x = clean if following == 0 else following * draw(sigma, following) + (1 - following) * clean
        close(theirs, x, 1e-5 * x.std().item())


@check
def its_fifty_steps_are_the_originals_solver_under_core_sampling(demo):
    custom = importlib.import_module("comfy_extras.nodes_custom_sampler")
    solver = custom.SamplerDPMPP_2M_SDE.execute("midpoint", 0.0, 1.0, "cpu").args[0]
    sigmas = run("SanaVideoSigmas", 6, 12.0, 1.0, "dpm++")
    with loaded(FIFTY) as (model, network):
        latent = run("SanaVideoEmptyLatent", model, *SIZE)
        theirs, noise = by_core_sampler(demo, model, solver, sigmas, latent, 8.0)
        how = {"steps": 6, "cfg": 8.0, "shift": 12.0, "sampler": "dpm++"}
        plain = of_core(demo, network, noise=sigmas[0] * noise, **how)
        close(theirs, plain, 1e-4 * plain.std().item())


@check
def its_clips_from_a_picture_are_the_originals_euler(demo):
    from ltx_files import write_ltx

    custom = importlib.import_module("comfy_extras.nodes_custom_sampler")
    solver, sigmas = (
        custom.KSamplerSelect.execute("euler").args[0],
        run("SanaVideoSigmas", 5, 12.0, 1.0, "euler"),
    )
    with loaded(FIFTY) as (model, network), tempfile.TemporaryDirectory() as folder:
        vae = pack("bridge.vaes").load_vae(write_ltx(Path(folder) / "v.safetensors", "LTX-2.3", pack))
        latent = run("SanaVideoEmptyLatent", model, *SIZE, vae, image(120, 200))
        theirs, noise = by_core_sampler(demo, model, solver, sigmas, latent, 8.0)
        first, how = latent["samples"][:, :, :1], {"steps": 5, "cfg": 8.0, "shift": 12.0, "sampler": "euler"}
        plain = of_core(demo, network, noise=noise, image=first, **how)
        assert same(theirs[:, :, :1], first)
        close(theirs, plain, 1e-4 * plain.std().item())
        ours = run(
            "SanaVideoSampler", model, demo.positive, latent=latent, negative=demo.negative, seed=5, steps=5,
            cfg=8.0, sampler="auto", shift=0.0,
        )["samples"]  # fmt: skip
        assert same(ours, of_core(demo, network, image=first, seed=5, **how))
        wrong = pack("bridge.vaes").load_vae(write_ltx(Path(folder) / "w.safetensors", "LTX-2", pack))
        refused(lambda: run("SanaVideoEmptyLatent", model, *SIZE, wrong, image()), "LTX-2.3 VAE")


@check
def loras_and_step_caches_work_with_sana_video_2(demo):
    """A LoRA under the original's names; EasyCache skips steps of the 50-step model."""
    import torch
    from safetensors.torch import save_file

    easy = core_node("comfy_extras.nodes_easycache", "EasyCacheNode")
    with loaded(FIFTY) as (model, _), tempfile.TemporaryDirectory() as folder:
        generator = torch.Generator().manual_seed(1)
        change = {
            f"{layer}.lora_{part}.weight": torch.randn(*shape, generator=generator)
            for layer, out, into in (("blocks.1.attn.qkv", 168, 56), ("blocks.3.mlp.up_proj", 64, 56))
            for part, shape in (("A", (2, into)), ("B", (out, 2)))
        }
        save_file(change, Path(folder) / "lora.safetensors")
        latent = run("SanaVideoEmptyLatent", model, *SIZE)
        plain = demo.ksample(model, latent, steps=2)
        changed = pack("bridge.lora").with_lora(model, Path(folder) / "lora.safetensors", 0.5)
        assert not same(demo.ksample(changed, latent, steps=2), plain)
        assert same(demo.ksample(model, latent, steps=2), plain)
        calls, network = [], model.model.diffusion_model
        run_blocks, network._run = network._run, lambda *given: (calls.append(1), run_blocks(*given))[1]
        try:
            cached = easy.execute(model, 1e6, 0.0, 1.0, False).args[0]
            demo.ksample(cached, latent, steps=6, cfg=1.0)
        finally:
            del network._run
        assert 0 < len(calls) < 6, len(calls)


@check
def weights_that_stay_behind_change_nothing(demo):
    """Partial loading: most layers are cast and fetched as they are used."""
    import comfy.model_management as management

    with loaded(FIFTY) as (model, _):
        latent = run("SanaVideoEmptyLatent", model, *SIZE)
        whole = demo.ksample(model, latent, steps=2)
        management.unload_all_models()
        model.partially_load(model.load_device, 1)
        assert same(demo.ksample(model, latent, steps=2), whole)
