"""Checks inside ComfyUI's process: the bidirectional model under ComfyUI's own samplers."""

from __future__ import annotations

import importlib
import weakref

from checks_inside import check, close, core_node, image, pack, run, same


@check
def the_clean_estimate_is_x_minus_sigma_v(demo):
    import torch

    base, context = demo.clip_model.model, demo.positive[0][0]
    mask = demo.positive[0][1]["attention_mask"]
    x = torch.randn(1, 16, 3, 6, 8, generator=torch.Generator().manual_seed(1))
    sigma = torch.tensor([0.889])
    clean = base.apply_model(x, sigma, c_crossattn=context, attention_mask=mask)
    core = pack("sana_video_core.checkpoints.checkpoint").load_transformer(
        pack("demo.model_set").demo_set().transformer, family="sana_video_480p"
    )
    close(clean, x - sigma * core(x, torch.tensor([889.0]), context, mask), 1e-5)


@check
def a_loaded_model_lets_the_file_go(_):
    """A checkpoint of four gigabytes must not stay in memory beside the model."""
    import gc

    bridge_model, kept = pack("bridge.model"), []
    read = bridge_model.read_checkpoint

    def watched(path, **options):
        checkpoint = read(path, **options)
        kept.extend(weakref.ref(tensor) for tensor in checkpoint.tensors.values())
        return checkpoint

    bridge_model.read_checkpoint = watched
    try:
        patcher = bridge_model.load_patcher(pack("demo.model_set").demo_set().transformer, None)
    finally:
        bridge_model.read_checkpoint = read
    gc.collect()
    assert kept, "nothing was read"
    assert not [reference for reference in kept if reference() is not None]
    assert patcher.model.diffusion_model.fingerprint


@check
def a_sampling_chooses_its_blocks_once(demo):
    """Not in each of its passes, and not before ComfyUI has put weights and patches in place."""
    model = pack("sana_video_core.transformer.model")
    choose, calls = model.choose_runner, []

    def watched(*args):
        calls.append(args)
        return choose(*args)

    model.choose_runner = watched
    try:
        demo.ksample(demo.clip_model)
    finally:
        model.choose_runner = choose
    assert len(calls) == 1, len(calls)
    assert demo.clip_model.model.diffusion_model._held_runner is None


@check
def timesteps_are_truncated_inside_and_shift_nodes_cannot_undo_it(demo):
    import torch

    ModelSamplingSD3 = core_node("comfy_extras.nodes_model_advanced", "ModelSamplingSD3")
    shifted = ModelSamplingSD3().patch(demo.clip_model, 3.0)[0]
    seen = []
    for patcher in (demo.clip_model, shifted):
        module = patcher.model.diffusion_model
        embed = module.t_embedder.forward

        def watched(t, dtype, embed=embed):
            seen.append(t.flatten().tolist())
            return embed(t, dtype)

        module.t_embedder.forward = watched
        try:
            demo.ksample(patcher, steps=4, cfg=1.0)
        finally:
            del module.t_embedder.forward
    truncate = pack("sana_video_core.transformer.positions").truncate_timestep
    truncated = [truncate(torch.tensor(t[:1])).item() for t in seen]
    assert truncated == [1000, 960, 888, 727, 1000, 900, 750, 500], truncated
    assert truncate(torch.tensor([0.251, 0.253, 0.502]) * 1000).tolist() == [251, 253, 502]


@check
def ksampler_and_custom_advanced_give_the_same(demo):
    custom = importlib.import_module("comfy_extras.nodes_custom_sampler")
    latent = run("SanaVideoEmptyLatent", demo.clip_model, 64, 48, 9, 2)
    one = demo.ksample(latent=latent)
    guider = custom.CFGGuider.execute(demo.clip_model, demo.positive, demo.negative, 4.0).args[0]
    sigmas = custom.BasicScheduler.execute(demo.clip_model, "simple", 3, 1.0).args[0]
    sampler = custom.KSamplerSelect.execute("euler").args[0]
    noise = custom.RandomNoise.execute(5).args[0]
    other = custom.SamplerCustomAdvanced.execute(noise, guider, sampler, sigmas, latent).args[0]["samples"]
    assert same(one, other)
    assert one.shape == (2, 16, 3, 6, 8)


def _clips(demo, grid, solver, noise, latent):
    """Six steps by ComfyUI and by us, in VAE space; ours also from noise times the first sigma."""
    custom = importlib.import_module("comfy_extras.nodes_custom_sampler")
    one_shot, statistics = pack("sana_video_core.sampling.one_shot"), pack("sana_video_core.vae.statistics")
    vae = pack("sana_video_core.config").WAN_2_1
    sigmas = run("SanaVideoSigmas", 6, 8.0, 1.0, grid)
    guider = custom.CFGGuider.execute(demo.clip_model, demo.positive, demo.negative, 4.0).args[0]
    theirs = custom.SamplerCustomAdvanced.execute(noise, guider, solver, sigmas, latent).args[0]["samples"]
    model = pack("sana_video_core.checkpoints.checkpoint").load_transformer(
        pack("demo.model_set").demo_set().transformer, family="sana_video_480p"
    )
    texts = [model.prepare_text(c[0][0], c[0][1]["attention_mask"]) for c in (demo.positive, demo.negative)]
    image = statistics.to_model_space(latent["samples"][:, :, :1], vae) if "noise_mask" in latent else None
    size = pack("sana_video_core.shapes").LatentGrid(6, 8)
    sampling = one_shot.ClipSampling(steps=6, cfg=4.0, sampler=grid)
    drawn = noise.generate_noise(latent)
    ours = [
        one_shot.sample_clip(model, *texts, size, 3, sampling, noise=drawn * scale, image=image)
        for scale in (1.0, sigmas[0])
    ]
    return theirs, *(statistics.to_vae_space(clip, vae) for clip in ours)


@check
def our_sigmas_under_core_sampling_are_the_originals_solver(demo):
    """SamplerDPMPP_2M_SDE (midpoint, eta 0) is our DPM-Solver++ but for the noise, which ComfyUI multiplies
    by the first sigma (0.99987). KSamplerSelect's dpmpp_2m takes log sigma for lambda, and isn't."""
    custom = importlib.import_module("comfy_extras.nodes_custom_sampler")
    latent = run("SanaVideoEmptyLatent", demo.clip_model, 64, 48, 9, 1)
    noise = custom.RandomNoise.execute(5).args[0]
    solver = custom.SamplerDPMPP_2M_SDE.execute("midpoint", 0.0, 1.0, "cpu").args[0]
    theirs, plain, scaled = _clips(demo, "dpm++", solver, noise, latent)
    close(theirs, scaled, 1e-5 * plain.std().item())
    close(theirs, plain, 1e-3 * plain.std().item())
    other = custom.KSamplerSelect.execute("dpmpp_2m").args[0]
    theirs = _clips(demo, "dpm++", other, noise, latent)[0]
    assert (theirs - plain).abs().max() > 1e-2 * plain.std()


@check
def a_clip_from_a_picture_is_the_originals_euler(demo):
    """Frame 0 clean at timestep 0, the others by Euler steps. Our noise on a CPU is RandomNoise's."""
    custom = importlib.import_module("comfy_extras.nodes_custom_sampler")
    latent = run("SanaVideoEmptyLatent", demo.clip_model, 64, 48, 9, 1, demo.vae, image())
    noise = run("SanaVideoNoise", 5, "cpu")
    assert same(noise.generate_noise(latent), custom.RandomNoise.execute(5).args[0].generate_noise(latent))
    solver = custom.KSamplerSelect.execute("euler").args[0]
    theirs, plain, _ = _clips(demo, "euler", solver, noise, latent)
    close(theirs, plain, 1e-5 * plain.std().item())
    given = run("SanaVideoNoise", 6, "cpu", {"samples": noise.generate_noise(latent)})
    assert same(_clips(demo, "euler", solver, given, latent)[0], theirs)


@check
def kept_frames_come_out_untouched(demo):
    """Under uni_pc the last step is no clean estimate, so ComfyUI alone would change frame 0 a little."""
    latent = run("SanaVideoEmptyLatent", demo.clip_model, 64, 48, 9, 1, demo.vae, image())
    for sampler in ("euler", "uni_pc", "dpmpp_2m"):
        samples = demo.ksample(latent=latent, sampler=sampler, steps=4)
        assert same(samples[:, :, :1], latent["samples"][:, :, :1]), sampler
        assert not same(samples[:, :, 1:], latent["samples"][:, :, 1:])


@check
def a_kept_frame_has_timestep_0_in_every_step(demo):
    latent = run("SanaVideoEmptyLatent", demo.clip_model, 64, 48, 9, 1, demo.vae, image())
    module, seen = demo.clip_model.model.diffusion_model, []
    embed, patches, frames = module.t_embedder.forward, module.x_embedder.forward, []
    module.t_embedder.forward = lambda t, dtype: (seen.append(t.clone()), embed(t, dtype))[1]
    module.x_embedder.forward = lambda x: (frames.append(x[:, :, :1].clone()), patches(x))[1]
    try:
        demo.ksample(latent=latent, steps=2)
    finally:
        del module.t_embedder.forward, module.x_embedder.forward
    to_model_space = pack("sana_video_core.vae.statistics").to_model_space
    clean = to_model_space(latent["samples"][:, :, :1], pack("sana_video_core.config").WAN_2_1)
    for frame in frames:  # clean in every step, not noised to its level
        close(frame, clean.expand_as(frame), 1e-5)
    assert seen, "the module was not called"
    for timesteps in seen:
        assert timesteps.shape == (2, 3), timesteps.shape  # negative and positive, three latent frames
        assert timesteps[:, 0].eq(0).all()
        assert timesteps[:, 1:].gt(0).all()


@check
def masks_of_other_shapes_keep_frames_too(demo):
    import torch

    samples = run("SanaVideoEmptyLatent", demo.clip_model, 64, 48, 9, 1, demo.vae, image())["samples"]
    whole = torch.ones(1, 1, 3, 6, 8)
    whole[:, :, 0] = 0
    results = [
        demo.ksample(latent={"samples": samples, "noise_mask": mask}, steps=2)
        for mask in (whole, whole[..., :1, :1], whole[0].movedim(0, 1))
    ]
    assert all(same(results[0], other) for other in results[1:])


@check
def a_mask_shorter_than_the_text_is_no_error(demo):
    import nodes as core_nodes

    joined = core_nodes.ConditioningConcat().concat(demo.positive, demo.negative)[0]
    assert joined[0][0].shape[1] == 600
    assert joined[0][1]["attention_mask"].shape[1] == 300
    clip = demo.ksample(positive=joined, steps=1)
    assert clip.isfinite().all()
    assert not same(clip, demo.ksample(steps=1))
    latent, _, _ = demo.sample(positive=joined)
    assert latent["samples"].isfinite().all()


@check
def texts_of_different_length_are_not_repeated(demo):
    """By default ComfyUI repeats the shorter text until both are equally long, past its mask."""
    short = [[demo.negative[0][0][:, :17], {"attention_mask": demo.negative[0][1]["attention_mask"][:, :17]}]]
    padded = [[demo.negative[0][0], {"attention_mask": demo.negative[0][1]["attention_mask"].clone()}]]
    padded[0][1]["attention_mask"][:, 17:] = 0
    close(demo.ksample(negative=short, steps=1), demo.ksample(negative=padded, steps=1), 1e-4)
