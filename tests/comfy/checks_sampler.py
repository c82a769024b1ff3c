"""Checks inside ComfyUI's process: SANA-Video Sampler around a genuine MODEL."""

from __future__ import annotations

import tempfile
from pathlib import Path

from checks_inside import check, close, core_node, image, pack, refused, run, same

STEPS = 3


def _sampled(demo, latent=None, model=None, **options):
    latent = latent or run("SanaVideoEmptyLatent", demo.clip_model, 64, 48, 9, 1)
    values = {"seed": 3, "steps": STEPS, "cfg": 4.0, "sampler": "auto", "shift": 0.0, **options}
    texts = {"positive": demo.positive, "negative": demo.negative}
    made = run("SanaVideoSampler", model or demo.clip_model, latent=latent, **texts, **values)
    return made["samples"]


def _core(demo, sampler="dpm++", image=None, seed=3):
    """The same clip by the core alone."""
    one_shot, statistics = pack("sana_video_core.sampling.one_shot"), pack("sana_video_core.vae.statistics")
    vae, grid = pack("sana_video_core.config").WAN_2_1, pack("sana_video_core.shapes").LatentGrid(6, 8)
    model = pack("sana_video_core.checkpoints.checkpoint").load_transformer(
        pack("demo.model_set").demo_set().transformer, family="sana_video_480p"
    )
    texts = [model.prepare_text(c[0][0], c[0][1]["attention_mask"]) for c in (demo.positive, demo.negative)]
    sampling = one_shot.ClipSampling(seed=seed, steps=STEPS, cfg=4.0, sampler=sampler)
    image = None if image is None else statistics.to_model_space(image, vae)
    return statistics.to_vae_space(one_shot.sample_clip(model, *texts, grid, 3, sampling, image=image), vae)


@check
def a_clip_is_the_cores_own(demo):
    for sampler in ("dpm++", "euler"):
        assert same(_sampled(demo, sampler=sampler), _core(demo, sampler)), sampler


@check
def a_clip_keeps_its_picture(demo):
    latent = run("SanaVideoEmptyLatent", demo.clip_model, 64, 48, 9, 1, demo.vae, image())
    made, first = _sampled(demo, latent), latent["samples"][:, :, :1]
    assert same(made[:, :, :1], first)
    assert same(made[:, :, 1:], _core(demo, "euler", first)[:, :, 1:])


@check
def the_next_samplers_take_the_clip(demo):
    """Its LATENT is like any other: core decodes it, and another sampler begins with it."""
    import nodes as core_nodes

    latent = run("SanaVideoEmptyLatent", demo.clip_model, 64, 48, 9, 2)
    texts = {"positive": demo.positive, "negative": demo.negative}
    options = {"seed": 3, "steps": 2, "cfg": 4.0, "sampler": "auto", "shift": 0.0}
    made = run("SanaVideoSampler", demo.clip_model, latent=latent, **texts, **options)
    assert demo.ksample(latent=made, steps=1).shape == made["samples"].shape
    ours = run("SanaVideoDecode", demo.vae, made)
    assert core_nodes.VAEDecode().decode(demo.vae, made)[0].shape == ours.shape


@check
def core_noise_may_take_the_place_of_the_seeds(demo):
    noise = core_node("comfy_extras.nodes_custom_sampler", "RandomNoise").execute(5).args[0]
    first = _sampled(demo, noise=noise)
    assert not same(first, _sampled(demo))
    assert same(first, _sampled(demo, noise=noise, seed=9))


@check
def a_lora_and_a_wrapper_reach_the_clip(demo):
    import comfy.patcher_extension
    import torch
    from safetensors.torch import save_file

    plain, generator = _sampled(demo), torch.Generator().manual_seed(9)
    key = "transformer.transformer_blocks.0.attn1.to_v.lora_{}.weight"
    pair = {key.format("A"): torch.randn(4, 112, generator=generator)}
    pair[key.format("B")] = torch.randn(112, 4, generator=generator)
    with tempfile.TemporaryDirectory() as folder:
        save_file(pair, Path(folder) / "l.safetensors")
        changed = pack("bridge.lora").with_lora(demo.clip_model, Path(folder) / "l.safetensors", 1.0)
        other = _sampled(demo, model=changed)
    assert (other - plain).abs().max() > 1e-2
    assert same(_sampled(demo), plain)
    wrapped, calls = demo.clip_model.clone(), []

    def counted(executor, *args, **kwargs):
        calls.append(len(args[0]))
        return executor(*args, **kwargs)

    kinds = comfy.patcher_extension.WrappersMP
    for kind in (kinds.APPLY_MODEL, kinds.DIFFUSION_MODEL):
        wrapped.add_wrapper_with_key(kind, "count", counted)
    assert same(_sampled(demo, model=wrapped), plain)
    assert calls == [2] * 2 * STEPS, calls


@check
def what_a_clip_does_not_heed_is_said(demo):
    import logging

    shifted = core_node("comfy_extras.nodes_model_advanced", "ModelSamplingSD3")().patch(
        demo.clip_model, 3.0
    )[0]
    cached = core_node("comfy_extras.nodes_easycache", "EasyCacheNode").execute(
        shifted, 0.2, 0.15, 0.95, False
    )
    rescaled = core_node("comfy_extras.nodes_model_advanced", "RescaleCFG")().patch(cached.args[0], 0.7)[0]
    heard = []
    handler = logging.Handler()
    handler.emit = lambda record: heard.append(record.getMessage())
    logging.getLogger("sana_video").addHandler(handler)
    try:
        assert same(_sampled(demo, model=rescaled), _sampled(demo))
    finally:
        logging.getLogger("sana_video").removeHandler(handler)
    (words,) = heard
    assert all(word in words for word in ("EasyCache", "RescaleCFG", "ModelSamplingSD3")), words


@check
def a_clip_stops_at_the_next_step(demo):
    from comfy import model_management as management

    module, calls = demo.clip_model.model.diffusion_model, []
    inner = module._forward

    def stopping(*arguments, **options):
        calls.append(None)
        if len(calls) == 2:
            management.interrupt_current_processing()
        return inner(*arguments, **options)

    module._forward = stopping
    try:
        _sampled(demo, steps=9)
    except management.InterruptProcessingException:
        assert len(calls) == 2, calls
    else:
        raise AssertionError("the interrupt was not seen")
    finally:
        del module._forward
        management.interrupt_current_processing(False)


@check
def a_clip_is_seen_while_it_is_made(demo):
    """By the artist's setting, on the node that runs."""
    import sys
    from types import SimpleNamespace

    import comfy.cli_args
    import latent_preview
    from comfy_execution.progress import ProgressRegistry  # noqa: F401  what picture_sender asks for
    from comfy_execution.utils import CurrentNodeContext

    sent, page = [], pack("bridge.page")
    server = SimpleNamespace(
        client_id="me",
        sockets_metadata={"me": {"feature_flags": {"supports_preview_metadata": True}}},
        send_sync=lambda *message: sent.append(message),
        send_progress_text=lambda *message: None,
    )
    instance, graph = page.open_page, page._graph
    page.open_page, page._graph = lambda: server, lambda: None
    method = comfy.cli_args.args.preview_method
    comfy.cli_args.args.preview_method = latent_preview.LatentPreviewMethod.Latent2RGB
    try:
        with CurrentNodeContext("a prompt", "7"):
            _sampled(demo)
    finally:
        page.open_page, page._graph = instance, graph
        comfy.cli_args.args.preview_method = method
    assert sent, "no picture"
    ((kind, picture, _), about), client = sent[-1][1], sent[-1][2]
    assert (kind, picture.size, about["node_id"], client) == ("JPEG", (8, 6), "7", "me")
    assert "sana-video player" not in {thread.name for thread in sys.modules["threading"].enumerate()}


@check
def a_clip_of_720p_begins_with_its_picture(demo):
    """Tiny weights in the real formats: Empty Latent, our sampler and KSampler, our Decode and core's."""
    from ltx_files import write_ltx

    import nodes as core_nodes

    config, rules = pack("sana_video_core.config"), pack("sana_video_core.config").SANA_VIDEO_720P
    width = {"width": 56, "head_dim": 28, "cross_head_dim": 28, "ffn_hidden": 56}
    sizes = config.TransformerConfig(channels=128, patch=1, depth=2, caption_channels=32, **width)
    network = pack("sana_video_core.transformer.model").SanaVideo(sizes, rules)
    weights = pack("demo.model_set").seeded(network, 0).state_dict()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "m.safetensors"
        pack("sana_video_core.checkpoints.checkpoint").save_transformer(file, weights, sizes, rules.name)
        model = pack("bridge.model").load_patcher(file, None)
        vae = pack("bridge.vaes").load_vae(write_ltx(Path(folder) / "v.safetensors", "LTX-2", pack))
        latent = run("SanaVideoEmptyLatent", model, 96, 64, 17, 1, vae, image(200, 90))
        made = _sampled(demo, latent, model)
        assert made.shape == (1, 128, 3, 2, 3)
        assert same(made[:, :, :1], latent["samples"][:, :, :1])
        assert not same(made, _sampled(demo, latent, model, seed=4))
        frames = run("SanaVideoDecode", vae, {"samples": made})
        assert frames.shape == (17, 64, 96, 3)
        close(frames, core_nodes.VAEDecode().decode(vae, {"samples": made})[0], 1e-4)
        theirs = demo.ksample(model, latent)
        assert same(theirs[:, :, :1], latent["samples"][:, :, :1])
        refused(lambda: run("SanaVideoDecode", demo.vae, {"samples": made}), "128", "Wan 2.1 VAE")
