"""Tiny decoders as VAEs: listed, loaded as ComfyUI's, decoded by our nodes, refused where one encodes."""

import logging

import comfy.latent_formats
import comfy.model_management as management
import comfy.sd
import pytest
import torch
from comfyui_sana_video.bridge.vaes import HostedDraft, load_vae, vae_of
from comfyui_sana_video.nodes import files
from comfyui_sana_video.sana_video_core.checkpoints.draft import load_draft
from comfyui_sana_video.sana_video_core.errors import InputError
from comfyui_sana_video.sana_video_core.files.video_reader import read_frames
from comfyui_sana_video.sana_video_core.shapes import LatentGrid
from comfyui_sana_video.sana_video_core.vae import tiny_decoder
from comfyui_sana_video.sana_video_core.vae.tiling import Tiling
from comfyui_sana_video.sana_video_core.vae.tiny_decoder import KINDS, LIGHTTAEW2_1, TAEW2_1, TinyDecoder
from safetensors.torch import save_file
from support.artist import demo, folders, node, picture, refused, run, start, two_chunks
from support.pack import same
from support.tiny_files import SLIM, tiny_weights

WEIGHTS = tiny_weights(widths=SLIM)
HALF = {name: tensor.half() for name, tensor in WEIGHTS.items()}
LATENTS = torch.randn(1, 16, 3, 3, 4, generator=torch.Generator().manual_seed(0))


@pytest.fixture(autouse=True)
def base(tmp_path, monkeypatch):
    monkeypatch.setattr(tiny_decoder, "WIDTHS", SLIM)
    with folders(tmp_path):
        yield tmp_path


def _put(base, name, weights=WEIGHTS, folder="vae_approx"):
    path = base / "models" / folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(weights, path)
    return path


@pytest.fixture
def draft(base):
    return load_vae(_put(base, "lighttaew2_1.safetensors"))


# --- the loader


def test_the_list_has_both_folders_and_each_name_once(base):
    _put(base, "taew2_1.safetensors")
    _put(base, "sub/lighttaew2_1.safetensors")
    _put(base, "lighttaew2_1.safetensors", folder="vae")
    _put(base, "both.safetensors", folder="vae")
    both = _put(base, "both.safetensors")
    names = files.choices(files.VAE)
    assert names == [
        "both.safetensors",
        "lighttaew2_1.safetensors",
        "sub/lighttaew2_1.safetensors",
        "taew2_1.safetensors",
        files.DEMO,
    ]
    assert files.path_of(files.VAE, "both.safetensors").parent.name == "vae"
    (base / "models" / "vae" / "both.safetensors").unlink()
    assert files.path_of(files.VAE, "both.safetensors") == both
    assert node("VAELoader").validate_inputs("taew2_1.safetensors") is True
    assert "models/vae or models/vae_approx" in node("VAELoader").validate_inputs("taew2_2.safetensors")


@pytest.mark.parametrize(
    "name, weights, kind, reads",
    [
        ("taew2_1.safetensors", HALF, TAEW2_1, comfy.latent_formats.Wan21),
        ("taew2_1_bf16.safetensors", WEIGHTS, TAEW2_1, comfy.latent_formats.Wan21),
        ("lighttaew2_1.safetensors", WEIGHTS, LIGHTTAEW2_1, None),
        ("lighttaew2_1_fp16.safetensors", HALF, LIGHTTAEW2_1, None),
    ],
)
def test_the_socket_is_comfyuis_and_reads_what_its_kind_reads(base, name, weights, kind, reads):
    path = _put(base, name, weights)
    vae = run("VAELoader", name)
    assert type(vae) is comfy.sd.VAE
    ours, network = vae_of(vae), vae.first_stage_model
    assert isinstance(ours, HostedDraft)
    assert ours.network.kind == kind
    assert network.latent_format is reads
    alone = load_draft(path, dtype=torch.float32)
    expected = torch.cat(list(alone.decode_stream(LATENTS)), dim=2)[0].permute(1, 2, 3, 0)
    images = run("Decode", vae, {"samples": LATENTS})
    assert images.shape == (9, 24, 32, 3)
    assert torch.allclose(images, (expected + 1) / 2, atol=1e-6)
    # ComfyUI's own nodes call the network so, and what they encode comes back so
    light = TinyDecoder(LIGHTTAEW2_1)
    light.load_state_dict(alone.state_dict())
    assert same(
        torch.cat(list(light.decode_stream(network.process_in(LATENTS))), dim=2)[0].permute(1, 2, 3, 0),
        expected,
    )
    assert torch.allclose(network.process_out(network.process_in(LATENTS)), LATENTS, atol=1e-5)
    load, arguments = vae.patcher.cached_patcher_init
    again = load(*arguments, disable_dynamic=True)
    assert again.model is not network
    assert again.model.latent_format is reads


@pytest.mark.parametrize("weights, kind", [(HALF, TAEW2_1), (WEIGHTS, LIGHTTAEW2_1)])
def test_cores_loaders_vae_does_as_well(weights, kind):
    """By the type, as ComfyUI itself decides, where nothing else is known."""
    assert vae_of(comfy.sd.VAE(sd=weights)).network.kind == kind


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("weights", [HALF, WEIGHTS])
def test_the_name_of_cores_file_says_more_than_its_type(kind, weights):
    vae = comfy.sd.VAE(sd=weights)
    vae.patcher.cached_patcher_init = (print, (f"models/vae/{kind}_x.safetensors", None, None))
    assert vae_of(vae).network.kind == kind
    vae.patcher.cached_patcher_init = (print, ("models/vae_approx/taehv.safetensors", None, None))
    with pytest.raises(InputError, match="tiny decoder of HunyuanVideo, and can't show Wan"):
        vae_of(vae)


class _Other(torch.nn.Module):
    def __init__(self, **changes):
        super().__init__()
        self.weights = tiny_weights(widths=SLIM, **changes)

    def state_dict(self):
        return self.weights


@pytest.mark.parametrize(
    "changes, named",
    [
        ({"channels": 48, "colours": 12}, r"Wan 2\.2 5B"),
        ({"channels": 128, "colours": 48}, "LTX-2"),
        ({"colours": 4}, "another model"),
    ],
)
def test_tiny_decoders_of_other_models_are_refused(draft, changes, named):
    draft.first_stage_model = _Other(**changes)
    with pytest.raises(InputError, match=rf"This VAE is a tiny decoder of {named}.*Use taew2_1"):
        vae_of(draft)


# --- decoding


def test_a_stream_is_decoded_chunk_by_chunk_as_at_once(draft):
    latent, state, _ = two_chunks()
    whole = run("Decode", draft, latent)
    assert whole.shape == (81, 32, 48, 3)
    assert same(run("Decode", draft, {"samples": latent["samples"][:, :, 11:]}, state), whole[41:])
    video = run("DecodeStream", draft, state, 1, 16.0, "h264", 0)
    shown = read_frames(video.get_stream_source(), width=48, height=32)
    assert shown.shape == (1, 3, 40, 32, 48)
    both = torch.stack((shown[0].permute(1, 2, 3, 0).flatten(), whole[41:].flatten()))
    assert torch.corrcoef(both)[0, 1] > 0.8  # random weights show noise, which H.264 loses much of


def test_the_log_says_that_it_is_a_draft(draft, caplog):
    with caplog.at_level(logging.INFO):
        vae_of(draft)
    assert "A draft: lighttaew2_1 decodes in the place of the Wan 2.1 VAE." in caplog.text


def test_the_network_reads_the_layers_as_they_are_now(draft):
    ours = vae_of(draft)
    before = torch.cat(list(ours.decode_stream(LATENTS)), dim=2)
    kept = {name: tensor.clone() for name, tensor in draft.first_stage_model.state_dict().items()}
    for module in draft.first_stage_model.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            setattr(module, name, torch.nn.Parameter(parameter.detach() * 0.9, requires_grad=False))
    after = torch.cat(list(ours.decode_stream(LATENTS)), dim=2)
    assert not torch.allclose(after, before, atol=1e-3)
    assert all(torch.equal(t, kept[n] * 0.9) for n, t in draft.first_stage_model.state_dict().items())


def test_a_compiled_part_keeps_its_draft(draft):
    class Compiled(torch.nn.Module):
        def __init__(self, module):
            super().__init__()
            self._orig_mod = module

        def __getattr__(self, name):
            return super().__getattr__(name) if name == "_orig_mod" else getattr(self._orig_mod, name)

    before = torch.cat(list(vae_of(draft).decode_stream(LATENTS)), dim=2)
    draft.first_stage_model.decoder = Compiled(draft.first_stage_model.decoder)
    assert same(torch.cat(list(vae_of(draft).decode_stream(LATENTS)), dim=2), before)


def test_short_memory_decodes_on_in_tiles(draft, monkeypatch, caplog):
    ours, latents = vae_of(draft), torch.randn(1, 16, 3, 2, 40, generator=torch.Generator().manual_seed(0))
    tiled = torch.cat(list(ours.network.decode_stream(latents, tiling=Tiling())), dim=2)
    step, calls = TinyDecoder.step, []

    def short(self, latent, memory):
        calls.append(latent.shape[-1])
        if latent.shape[-1] == 40 and len(calls) > 1:
            raise torch.OutOfMemoryError("no room")
        return step(self, latent, memory)

    monkeypatch.setattr(TinyDecoder, "step", short)
    with caplog.at_level(logging.WARNING):
        frames = torch.cat(list(ours.decode_stream(latents)), dim=2)
    assert "decoding continues in tiles" in caplog.text
    assert same(frames[:, :, 1:], tiled[:, :, 1:])


def test_a_draft_asks_for_less_memory(draft, monkeypatch):
    asked = []
    monkeypatch.setattr(
        management, "load_models_gpu", lambda models, memory_required: asked.append(memory_required)
    )
    for vae in (draft, demo().vae):
        vae_of(vae).load_for(1, LatentGrid(60, 104))
    assert 0 < asked[0] < asked[1] / 4


# --- where a whole VAE is needed


def test_what_encodes_refuses_a_draft_before_anything_is_loaded(draft, monkeypatch):
    monkeypatch.setattr(management, "load_models_gpu", lambda *_, **__: pytest.fail("too late"))
    words = ("draft decoder lighttaew2_1", "can't encode", "Connect the whole Wan 2.1 VAE")
    with refused(*words):
        run("Prime", demo().model, draft, demo().positive, start(), image=picture())
    with refused(*words):
        run("EmptyLatent", demo().bidirectional, 64, 48, 9, 1, draft, picture())
    assert "samples" in run("EmptyLatent", demo().bidirectional, 64, 48, 9, 1, draft, None)
