"""SANA-Video Sampler: whole clips by the core's sampling, and what it refuses before weights are loaded."""

import importlib
from contextlib import contextmanager
from dataclasses import replace
from types import SimpleNamespace

import comfy.model_management as management
import pytest
import server
import torch
from comfy import cli_args
from comfy_execution.utils import CurrentNodeContext
from comfyui_sana_video.bridge import clips
from comfyui_sana_video.bridge import model as bridge_model
from comfyui_sana_video.bridge.stream_model import HostedModel
from comfyui_sana_video.demo.model_set import seeded
from comfyui_sana_video.sana_video_core.checkpoints.checkpoint import (
    Checkpoint,
    load_transformer,
    save_transformer,
)
from comfyui_sana_video.sana_video_core.config import (
    CLIP_SAMPLERS,
    FAMILIES,
    SANA_VIDEO_480P,
    WAN_2_1,
    TransformerConfig,
)
from comfyui_sana_video.sana_video_core.sampling.noise import draw_noise
from comfyui_sana_video.sana_video_core.sampling.one_shot import ClipSampling, sample_clip
from comfyui_sana_video.sana_video_core.shapes import LatentGrid
from comfyui_sana_video.sana_video_core.transformer.model import SanaVideo
from comfyui_sana_video.sana_video_core.transformer.model2 import SanaVideo2
from comfyui_sana_video.sana_video_core.vae.statistics import to_model_space, to_vae_space
from safetensors.torch import save_file
from support.artist import demo, folders, picture, refused, run
from support.lora_files import random_tensor
from support.ltx_files import write_ltx
from support.pack import Pack, same
from support.sana2 import config2


def pack(module):
    return importlib.import_module(f"comfyui_sana_video.{module}")


GRID, FRAMES = LatentGrid(4, 6), 3


@pytest.fixture(autouse=True)
def base(tmp_path):
    with folders(tmp_path):
        yield tmp_path
    management.interrupt_current_processing(False)


def empty(batch=1, length=9, **options):
    return run("EmptyLatent", demo().bidirectional, 48, 32, length, batch, **options)


def clip(latent=None, *, model=None, positive=None, negative="other", whole=False, **options):
    """The sampler's latents, or all of its LATENT; without guidance where `negative` is None."""
    options = {"seed": 3, "steps": 3, "cfg": 0.0, "sampler": "auto", "shift": 0.0, **options}
    negative = getattr(demo(), negative) if isinstance(negative, str) else negative
    texts = {"positive": positive or demo().positive, "negative": negative}
    made = run("Sampler", model or demo().bidirectional, latent=latent or empty(), **texts, **options)
    return made if whole else made["samples"]


@pytest.fixture(scope="session")
def core(tmp_path_factory):
    """The model of `demo().bidirectional` in the core alone, with the prompts of `clip`."""
    path = tmp_path_factory.mktemp("core") / "m.safetensors"
    network = demo().bidirectional.model.diffusion_model
    save_transformer(path, network.state_dict(), network.config, "sana_video_480p")
    model = load_transformer(path)

    def sampled(*, image=None, batch=1, **options):
        options = {"seed": 3, "steps": 3, "cfg": 6.0, **options}
        with torch.inference_mode():
            texts = [
                model.prepare_text(text[0][0], text[0][1]["attention_mask"])
                for text in (demo().positive, demo().other)
            ]
            made = sample_clip(model, *texts, GRID, FRAMES, ClipSampling(**options), image=image, batch=batch)
        return to_vae_space(made, WAN_2_1)

    return sampled


# --- what it makes


@pytest.mark.parametrize("guidance", ["batched", "sequential"])
@pytest.mark.parametrize("sampler", ["auto", "dpm++", "euler"])
def test_a_clip_has_the_bits_of_the_core(core, sampler, guidance):
    """So the studio, `generate` and ComfyUI make one clip of one seed."""
    expected = core(sampler=sampler.replace("auto", "dpm++"), guidance=guidance)
    assert same(clip(sampler=sampler, guidance=guidance), expected)


def test_every_number_reaches_the_core(core):
    made = clip(seed=8, steps=4, cfg=2.5, sampler="euler", shift=3.0)
    assert same(made, core(seed=8, steps=4, cfg=2.5, sampler="euler", shift=3.0))
    for change in ({"seed": 9}, {"steps": 5}, {"cfg": 3.0}, {"sampler": "dpm++"}, {"shift": 4.0}):
        values = {"seed": 8, "steps": 4, "cfg": 2.5, "sampler": "euler", "shift": 3.0, **change}
        assert not torch.allclose(made, clip(**values), atol=1e-4), change


def test_zeros_are_the_familys_own():
    zeros = {"seed": 1, "steps": 0, "cfg": 0.0, "sampler": "auto", "shift": 0.0, "guidance": "batched"}
    for family in FAMILIES.values():
        if family.causal:
            continue
        own = clips.sampling_of(family, False, **zeros)
        assert (own.steps, own.cfg, own.sampler, own.shift) == (
            family.steps,
            family.cfg,
            family.sampler,
            family.shift,
        )
        if family.sampler == "dpm++":
            assert clips.sampling_of(family, True, **zeros).sampler == "euler"
    changed = replace(SANA_VIDEO_480P, steps=7, cfg=2.0, shift=12.0, sampler="euler")
    own = clips.sampling_of(changed, False, **zeros)
    assert (own.steps, own.cfg, own.shift, own.sampler) == (7, 2.0, 12.0, "euler")
    assert clips.sampling_of(changed, True, **(zeros | {"sampler": "dpm++"})).sampler == "dpm++"


def test_each_row_of_a_batch_has_a_seed_of_its_own(core):
    made = clip(empty(batch=2), seed=5)
    assert made.shape == (2, 16, 3, 4, 6)
    assert same(made, core(seed=5, batch=2))
    for row in range(2):
        assert torch.allclose(made[row], clip(seed=5 + row)[0], atol=1e-3)


def test_a_picture_stays_frame_0(core):
    latent = empty(vae=demo().vae, image=picture())
    kept = {name: latent[name].clone() for name in ("samples", "noise_mask")}
    made = clip(latent)
    image = to_model_space(latent["samples"][:, :, :1], WAN_2_1)
    expected = core(image=image, sampler="euler")
    assert same(made[:, :, :1], latent["samples"][:, :, :1])
    assert same(made[:, :, 1:], expected[:, :, 1:])
    assert all(same(latent[name], kept[name]) for name in kept)
    assert not torch.allclose(made[:, :, 1:], core(sampler="euler")[:, :, 1:], atol=1e-2)


def test_masks_as_nodes_write_them():
    latent = empty(vae=demo().vae, image=picture())
    mask, first = latent["noise_mask"], clip(latent)
    for other in (mask[..., :1, :1], mask[0].movedim(0, 1), mask[0, 0]):
        assert same(clip({**latent, "noise_mask": other}), first)
    nothing = clip({**empty(), "noise_mask": torch.ones(1, 1, 32, 48)})
    assert same(nothing, clip())


def test_noise_of_ones_own(core):
    noise = draw_noise(11, 0, FRAMES, 0, batch=1, channels=16, grid=GRID).contiguous()
    given = run("Noise", 0, "cpu", {"samples": noise})
    assert same(clip(noise=given), core(seed=11))
    with refused("The noise", "has to be"):
        clip(noise=run("Noise", 0, "cpu", {"samples": noise[:, :, :2]}))


def test_without_guidance_no_negative_is_needed(core):
    assert same(clip(negative=None, cfg=1.0), core(cfg=1.0))
    assert same(clip(cfg=1.0), core(cfg=1.0))


def test_the_rest_of_a_latent_goes_through():
    latent = {**empty(), "batch_index": [0]}
    made = clip(latent, whole=True)
    assert made["batch_index"] == [0]
    assert made["samples"].dtype == torch.float32
    assert run("Decode", demo().vae, made).shape == (9, 32, 48, 3)


def test_a_lora_changes_the_clip(base):
    before, width = clip(), demo().model.model.diffusion_model.config.width
    folder = base / "models" / "loras"
    folder.mkdir(parents=True)
    pair = {"lora_A": random_tensor(2, width), "lora_B": random_tensor(width, 2, seed=1) * 4}
    names = {f"transformer.transformer_blocks.0.attn1.to_v.{end}.weight": t for end, t in pair.items()}
    save_file(names, folder / "l.safetensors")
    with_lora = run("LoraLoader", demo().bidirectional, "l.safetensors", 1.0)
    assert not torch.allclose(clip(model=with_lora), before, atol=1e-3)
    assert same(clip(), before)


def test_wrappers_run_around_every_call():
    patcher, calls = demo().bidirectional.clone(), []

    def counted(executor, *args, **kwargs):
        calls.append(len(args[0]))
        return executor(*args, **kwargs)

    for kind in ("apply_model", "diffusion_model"):
        patcher.add_wrapper_with_key(kind, "count", counted)
    assert same(clip(model=patcher), clip())
    assert calls == [2] * 6  # both branches at once, three steps, two kinds
    calls.clear()
    clip(model=patcher, guidance="sequential")
    assert calls == [1] * 12


def test_branches_come_one_by_one_where_memory_is_short(monkeypatch, core):
    room = HostedModel(demo().bidirectional).memory_for(2, GRID, FRAMES)
    monkeypatch.setattr(management, "get_free_memory", lambda *_: 1.4 * room)
    assert same(clip(), core(guidance="sequential"))
    monkeypatch.setattr(management, "get_free_memory", lambda *_: 1.6 * room)
    assert same(clip(), core())


# --- while it runs


@contextmanager
def calls(stop_at=None):
    network, made = demo().bidirectional.model.diffusion_model, []
    inner = network._forward

    def counted(*arguments, **options):
        made.append(None)
        if len(made) == stop_at:
            management.interrupt_current_processing()
        return inner(*arguments, **options)

    network._forward = counted
    try:
        yield made
    finally:
        del network._forward


def test_a_stop_ends_it_at_the_next_step():
    with calls(stop_at=3) as made, pytest.raises(management.InterruptProcessingException):
        clip(steps=8)
    assert len(made) == 3


def test_progress_words_and_pictures(monkeypatch):
    sent, texts = [], []
    page = SimpleNamespace(
        client_id="me",
        sockets_metadata={"me": {"supports_preview_metadata": True}},
        send_sync=lambda *message: sent.append(message),
        send_progress_text=lambda text, *_: texts.append(text),
    )
    monkeypatch.setattr(server.PromptServer, "instance", page)
    monkeypatch.setattr(cli_args.args, "preview_method", cli_args.LatentPreviewMethod.Auto)
    with CurrentNodeContext("a prompt", "7"):
        clip(steps=4)
    assert [text.split(" · ")[0] for text in texts] == [f"step {n} of 4" for n in (1, 2, 3)] + ["4 steps"]
    assert "left" in texts[1]
    assert "took" in texts[-1]
    assert {data[1]["node_id"] for _, data, _ in sent} == {"7"}
    assert {data[0][1].size for _, data, _ in sent} == {(6, 4)}


# --- what is refused


@pytest.fixture
def nothing_loaded(monkeypatch):
    monkeypatch.setattr(management, "load_models_gpu", lambda *_, **__: pytest.fail("too late"))


@pytest.mark.usefixtures("nothing_loaded")
def test_refusals_come_before_weights_are_loaded():
    zeros, text = torch.zeros(1, 16, 3, 4, 6), demo().positive[0]
    image = torch.full((1, 16, 1, 4, 6), torch.nan)
    kept = torch.ones(1, 1, 3, 4, 6)
    kept[:, :, 0] = 0
    frame_1 = kept.roll(1, dims=2)
    for options, words in (
        ({"model": demo().model}, ("demo", "chunk by chunk", "Block Sampler", "family")),
        ({"model": object()}, ("not SANA-Video",)),
        ({"negative": None}, ("cfg is 6", "negative", "set cfg to 1")),
        ({"cfg": 0.5}, ("cfg is 0.5",)),
        ({"sampler": "heun"}, ("heun", CLIP_SAMPLERS[0])),
        ({"steps": 1001}, ("1001 steps",)),
        ({"latent": {"samples": torch.zeros(1, 128, 3, 4, 6)}}, ("[1, 128, 3, 4, 6]", "16", "Empty SANA")),
        ({"latent": {"samples": torch.zeros(1, 16, 4, 6)}}, ("[1, 16, 4, 6]", "Empty SANA-Video Latent")),
        ({"latent": {"samples": zeros[:, :, :0]}}, ("[1, 16, 0, 4, 6]",)),
        ({"latent": {"samples": torch.zeros(1, 16, 3, 5, 6)}}, ("5 x 6", "patches")),
        ({"latent": {"samples": torch.zeros(1, 16, 1025, 2, 2)}}, ("1025",)),
        ({"latent": {"samples": zeros, "noise_mask": frame_1}}, ("first frame", "KSampler")),
        ({"latent": {"samples": zeros, "noise_mask": kept / 2}}, ("mask", "KSampler")),
        ({"latent": {"samples": zeros, "noise_mask": torch.zeros(1, 1, 4, 6)}}, ("mask", "KSampler")),
        ({"latent": {"samples": zeros[:, :, :1], "noise_mask": kept[:, :, :1]}}, ("more than 1 frame",)),
        (
            {"latent": {"samples": zeros, "noise_mask": kept}, "sampler": "few_step", "cfg": 1.0},
            ("few_step", "text alone"),
        ),
        (
            {"latent": {"samples": torch.cat([image, zeros], dim=2)[:, :, :3], "noise_mask": kept}},
            ("The frame that the mask keeps", "NaN"),
        ),
        ({"positive": [text, text]}, ("2 entries", "one prompt at a time")),
        ({"positive": [[text[0][..., :5], {}]]}, ("Text embeddings", "Gemma")),
        ({"negative": [[text[0][..., :5], {}]]}, ("Text embeddings", "Gemma")),
        ({"positive": [[text[0].expand(3, -1, -1), {}]]}, ("3 prompts", "batch of 1")),
    ):
        with refused(*words):
            clip(**options)


def test_what_does_nothing_is_said(caplog, monkeypatch):
    monkeypatch.setattr(demo().bidirectional.model, "model_sampling", object(), raising=False)
    patcher = demo().bidirectional.clone()
    patcher.model_options["sampler_post_cfg_function"] = [lambda args: args]
    patcher.model_options["transformer_options"]["easycache"] = object()
    patcher.add_object_patch("model_sampling", object())
    made = clip(model=patcher)
    assert same(made, clip())
    said = "\n".join(record.message for record in caplog.records)
    for word in ("RescaleCFG", "EasyCache", "ModelSamplingSD3", "SamplerCustomAdvanced"):
        assert word in said
    caplog.clear()
    clip({"samples": torch.ones(1, 16, 3, 4, 6)})
    assert "isn't read" in caplog.text
    caplog.clear()
    clip(empty(vae=demo().vae, image=picture()))
    assert not caplog.records


# --- families of 720p


@pytest.fixture(scope="session")
def large(tmp_path_factory):
    rules, base = FAMILIES["sana_video_720p"], tmp_path_factory.mktemp("large")
    sizes = {"channels": 128, "patch": 1, "width": 56, "head_dim": 28, "cross_head_dim": 28}
    config = TransformerConfig(**sizes, depth=1, ffn_hidden=56, caption_channels=32)
    path = base / "models" / "diffusion_models" / "m.safetensors"
    path.parent.mkdir(parents=True)
    save_transformer(path, seeded(SanaVideo(config, rules), 0).state_dict(), config, rules.name)
    with folders(base):
        return run("ModelLoader", path.name, "auto")


def test_a_clip_of_720p_from_a_picture_to_frames(large, base):
    folder = base / "models" / "vae"
    folder.mkdir(parents=True)
    vaes = {
        name: run("VAELoader", write_ltx(folder / f"{name}.safetensors", name, pack).name)
        for name in ("LTX-2", "LTX-2.3")
    }
    latent = run("EmptyLatent", large, 96, 64, 17, 1, vaes["LTX-2"], picture(200, 90))
    made = clip(latent, model=large, steps=2, whole=True)
    assert made["samples"].shape == (1, 128, 3, 2, 3)
    assert same(made["samples"][:, :, :1], latent["samples"][:, :, :1])
    assert run("Decode", vaes["LTX-2"], made).shape == (17, 64, 96, 3)
    for vae, name in ((vaes["LTX-2.3"], "LTX-2.3 VAE is"), (demo().vae, "Wan 2.1 VAE is")):
        with refused(name, "720p", "the LTX-2 VAE", "LTX2_video_vae_bf16.safetensors"):
            run("Decode", vae, made)


def sana_video_2(monkeypatch, base, name):
    """A MODEL with small random weights, and the core's network of the same."""
    config = replace(config2(Pack()), channels=128, caption_channels=32)
    rules = replace(FAMILIES[name], config=config)
    core = seeded(SanaVideo2(config, rules), 0).eval().requires_grad_(False)
    read = Checkpoint(
        tensors=core.state_dict(), config=config, family=rules, system_prompt=None, source="a test"
    )
    monkeypatch.setattr(bridge_model, "read_checkpoint", lambda *_, **__: read)
    return bridge_model.load_patcher(base / "m.safetensors", None), core


@pytest.mark.parametrize("name", ["sana_video2_720p", "sana_video2_720p_4step"])
def test_a_clip_of_sana_video_2_has_the_bits_of_the_core(base, name, monkeypatch):
    """Four steps have fresh noise in each and no negative; what is connected there isn't read."""
    model, core = sana_video_2(monkeypatch, base, name)
    rules = core.family
    four = name.endswith("4step")
    made = clip(run("EmptyLatent", model, 96, 64, 17, 1), model=model, steps=0 if four else 3)
    with torch.inference_mode():
        texts = [
            core.prepare_text(text[0][0], text[0][1]["attention_mask"])
            for text in (demo().positive, demo().other)
        ]
        options = {"steps": 4, "cfg": 1.0} if four else {"steps": 3, "cfg": 8.0}
        sampling = ClipSampling(seed=3, sampler=rules.sampler, shift=rules.shift, **options)
        expected = sample_clip(core, texts[0], None if four else texts[1], LatentGrid(2, 3), 3, sampling)
    assert same(made, expected)


def test_sana_video_2_never_computes_in_float16(base, monkeypatch):
    """ComfyUI's --fp16-unet asks for it whatever a model supports."""
    monkeypatch.setattr(management, "unet_dtype", lambda *_, **__: torch.float16)
    monkeypatch.setattr(management, "unet_manual_cast", lambda *_: None)  # as where the GPU has it
    model, _ = sana_video_2(monkeypatch, base, "sana_video2_720p")
    network = model.model.diffusion_model
    assert (network.dtype, network.compute_dtype) == (torch.bfloat16, torch.bfloat16)
    assert clip(run("EmptyLatent", model, 96, 64, 17, 1), model=model, steps=1).isfinite().all()
