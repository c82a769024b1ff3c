"""Load SANA-Video VAE gives ComfyUI's VAE, of every file that is one, and our nodes run on it."""

import logging

import comfy.sd
import pytest
import torch
from comfyui_sana_video.bridge.vaes import load_vae, vae_of
from comfyui_sana_video.demo.model_set import VAE_CONFIG, demo_set, seeded
from comfyui_sana_video.sana_video_core.errors import InputError, SanaVideoError
from comfyui_sana_video.sana_video_core.vae import wan_vae
from comfyui_sana_video.sana_video_core.vae.tiling import Tiling
from comfyui_sana_video.sana_video_core.vae.wan_vae import VAEConfig, WanVAE
from safetensors.torch import save_file
from support.artist import DEMO, picture, run
from support.pack import same


def test_the_socket_is_comfyuis(tmp_path):
    vae = run("VAELoader", DEMO)
    assert type(vae) is comfy.sd.VAE
    load, arguments = vae.patcher.cached_patcher_init
    again = load(*arguments, disable_dynamic=True)
    assert again.model is not vae.first_stage_model
    assert all(map(torch.equal, again.model.parameters(), vae.first_stage_model.parameters()))


def _file(folder, config=VAE_CONFIG, drop=(), **more):
    tensors = seeded(WanVAE(config), 0).state_dict() | more
    save_file({n: t for n, t in tensors.items() if n not in drop}, folder / "vae.safetensors")
    return folder / "vae.safetensors"


@pytest.mark.parametrize(
    "config", [VAEConfig(8, (1, 2, 2, 4)), VAEConfig(8, latent_channels=48), VAEConfig(8, blocks=1)]
)
def test_sizes_that_comfyui_cannot_build_are_refused(tmp_path, config, monkeypatch):
    monkeypatch.setattr(comfy.sd, "VAE", lambda **_: pytest.fail("too late"))
    with pytest.raises(
        SanaVideoError, match=r"“vae\.safetensors” .* ComfyUI can't build it\. Use wan_2\.1_vae"
    ):
        load_vae(_file(tmp_path, config))


def test_incomplete_files_are_refused_before_comfyui_sees_them(tmp_path, monkeypatch):
    """It would load what is there, and say so only in its log."""
    monkeypatch.setattr(comfy.sd, "VAE", lambda **_: pytest.fail("too late"))
    with pytest.raises(SanaVideoError, match=r"1 missing \(decoder\.head\.2\.bias\)"):
        load_vae(_file(tmp_path, drop=("decoder.head.2.bias",)))


def test_the_network_reads_the_layers_as_they_are_now():
    """ComfyUI exchanges a layer's parameters while it moves them; a copy would go on with the old ones."""
    vae = load_vae(demo_set().vae)
    ours, latents = vae_of(vae), torch.randn(1, 16, 2, 4, 4, generator=torch.Generator().manual_seed(0))
    before = ours.network.decode(latents)
    for module in vae.first_stage_model.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            setattr(module, name, torch.nn.Parameter(parameter.detach() * 0.9, requires_grad=False))
    after = ours.network.decode(latents)
    assert not torch.allclose(after, before, atol=1e-3)
    assert same(after, vae_of(vae).network.decode(latents))
    assert same(after, vae.first_stage_model.decode(latents))


def test_a_compiled_part_keeps_its_vae():
    """TorchCompileVAE and its kind put a module around the decoder, so its weights have other names."""

    class Compiled(torch.nn.Module):
        def __init__(self, module):
            super().__init__()
            self._orig_mod = module

        def __getattr__(self, name):
            return super().__getattr__(name) if name == "_orig_mod" else getattr(self._orig_mod, name)

    vae, latents = load_vae(demo_set().vae), torch.zeros(1, 16, 1, 4, 4)
    before = vae_of(vae).network.decode(latents)
    vae.first_stage_model.decoder = Compiled(vae.first_stage_model.decoder)
    assert same(vae_of(vae).network.decode(latents), before)


@torch.no_grad()
def _fused(monkeypatch, network):
    """Its results on the kernels' plain versions, as they would be on a GPU."""
    latents = torch.randn(1, 16, 3, 4, 6, generator=torch.Generator().manual_seed(0))
    plain = network.decode(latents)
    with monkeypatch.context() as patch:
        patch.setattr(wan_vae, "choose_for_frames", lambda *asked: wan_vae.Choice(True, ""))
        return network.decode(latents), plain


def test_the_fused_layers_take_the_weights_of_a_socket(monkeypatch):
    """Those that are there at that moment, also after they were exchanged."""
    vae = load_vae(demo_set().vae)
    network = vae_of(vae).network
    before, plain = _fused(monkeypatch, network)
    assert torch.allclose(before, plain, atol=1e-4)
    assert not torch.equal(before, plain), "it ran the plain layers"
    with torch.no_grad():
        vae.first_stage_model.decoder.head[2].weight.mul_(0.5)
        vae.first_stage_model.decoder.upsamples[0].residual[0].gamma.mul_(2)
    after, plain = _fused(monkeypatch, network)
    assert torch.allclose(after, plain, atol=1e-4)
    assert not torch.allclose(after, before, atol=1e-2)


def test_a_layer_that_was_changed_runs_as_it_is(monkeypatch):
    """A hook, another border (pictures without a seam) or a replaced forward: its weights don't say all."""
    network = vae_of(load_vae(demo_set().vae)).network
    conv = network.decoder.upsamples[3].resample[1]
    conv.register_forward_hook(lambda layer, given, out: out + 1)
    fused, plain = _fused(monkeypatch, network)
    assert same(fused, plain)


def test_the_weights_of_a_socket_are_left_alone():
    vae = load_vae(demo_set().vae)
    tensors = [(p, p.requires_grad, p.clone()) for p in vae.first_stage_model.parameters()]
    vae_of(vae).encode(picture(16, 16).movedim(-1, 0)[None])
    for now, (before, asks, values) in zip(vae.first_stage_model.parameters(), tensors, strict=True):
        assert now is before
        assert now.requires_grad == asks
        assert torch.equal(now, values)


def _with_alpha():
    """Qwen-Image-Layered's kind: all as Wan 2.1, but a fourth colour."""
    network = WanVAE(VAE_CONFIG)
    head = network.decoder.head[2]
    head.weight = torch.nn.Parameter(torch.cat((head.weight, head.weight[:1])), requires_grad=False)
    head.bias = torch.nn.Parameter(torch.cat((head.bias, head.bias[:1])), requires_grad=False)
    return network


def _one_layer_less():
    network = WanVAE(VAEConfig(8, blocks=1))
    del network.encoder.downsamples[0]
    return network


@pytest.mark.parametrize("network", [torch.nn.Identity(), _one_layer_less(), _with_alpha()])
def test_other_networks_are_refused(network):
    vae = load_vae(demo_set().vae)
    vae.first_stage_model = network
    words = rf"{type(network).__name__} .* Connect the one that belongs to your model: the Wan 2\.1 VAE"
    with pytest.raises(InputError, match=words):
        vae_of(vae)


def test_the_vae_of_a_checkpoint_without_one_is_refused():
    vae = load_vae(demo_set().vae)
    vae.first_stage_model = None
    with pytest.raises(InputError, match=r"This VAE is empty.*Load SANA-Video VAE"):
        vae_of(vae)


def test_why_a_vae_runs_in_plain_pytorch_is_in_the_log(monkeypatch, caplog):
    """Or is the reason of a refusal, where kernels were asked for."""
    vae = run("VAELoader", DEMO)
    with caplog.at_level(logging.INFO, logger="sana_video"):
        vae_of(vae)
    assert "The VAE runs in plain PyTorch: the VAE computes on cpu" in caplog.text
    monkeypatch.setenv("SANA_VIDEO_KERNELS", "triton")
    with pytest.raises(InputError, match="Triton kernels cannot run here: the VAE computes on cpu"):
        vae_of(vae)


def test_short_memory_encodes_in_tiles(monkeypatch, caplog):
    vae = vae_of(load_vae(demo_set().vae))
    pixels = torch.rand(1, 3, 5, 320, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    tiled, step = vae.network.encode(pixels, tiling=Tiling()), WanVAE.encode_frames

    def short(self, frames, cache, run=None):
        if frames.shape[-2] == 320:
            raise torch.OutOfMemoryError("no room")
        return step(self, frames, cache, run)

    monkeypatch.setattr(WanVAE, "encode_frames", short)
    with caplog.at_level(logging.WARNING):
        assert torch.equal(vae.encode(pixels), tiled)
    assert "encoding in tiles" in caplog.text
