"""Checks of the Wan VAE against diffusers with the same random weights. Each takes a Pack and asserts."""

from __future__ import annotations

import json
from functools import cache
from unittest.mock import patch

import torch
from support.pack import DATA, Pack, assert_close
from support.tiny_files import SLIM, decode_slowly, tiny_weights

KEYMAP = json.loads((DATA / "wan_vae_keymap.json").read_text(encoding="utf-8"))


@cache
def theirs():
    """diffusers' class, narrow, with gammas away from 1."""
    from diffusers import AutoencoderKLWan

    with torch.random.fork_rng():
        torch.manual_seed(3)
        vae = AutoencoderKLWan(base_dim=8).eval().requires_grad_(False)
        for name, parameter in vae.named_parameters():
            if name.endswith("gamma"):
                parameter.mul_(1 + 0.3 * torch.randn_like(parameter))
    return vae


def ours(pack: Pack):
    wan_vae = pack.core("vae.wan_vae")
    network = wan_vae.WanVAE(wan_vae.VAEConfig(base_width=8))
    network.load_state_dict({KEYMAP[name]: tensor for name, tensor in theirs().state_dict().items()})
    return network.requires_grad_(False)


def decoding(pack: Pack) -> None:
    latents = 2 * torch.randn(1, 16, 4, 3, 4, generator=torch.Generator().manual_seed(0))
    assert_close(ours(pack).decode(latents), theirs().decode(latents).sample, 1e-4)


def encoding(pack: Pack) -> None:
    pixels = 2 * torch.rand(1, 3, 9, 24, 32, generator=torch.Generator().manual_seed(0)) - 1
    assert_close(ours(pack).encode(pixels), theirs().encode(pixels).latent_dist.mode(), 1e-4)


def spaces(pack: Pack) -> None:
    """Model space is diffusers' normalisation by its config, and the way back."""
    statistics, wan, config = pack.core("vae.statistics"), pack.core("config").WAN_2_1, theirs().config
    latents = torch.randn(1, 16, 2, 3, 4, generator=torch.Generator().manual_seed(0))
    means, deviations = (
        torch.tensor(values).view(16, 1, 1, 1) for values in (config.latents_mean, config.latents_std)
    )
    assert_close(statistics.to_model_space(latents, wan), (latents - means) / deviations, 1e-5)
    assert_close(statistics.to_vae_space(latents, wan), latents * deviations + means, 1e-5)


def fused(pack: Pack) -> None:
    """Decoder and encoder on the kernels' plain versions."""
    vae, cpu = ours(pack), torch.device("cpu")
    weights_of, network = (
        pack.core("vae.fused_weights").layer_weights,
        pack.core("vae.fused_network").FusedNetwork,
    )
    latents = 2 * torch.randn(1, 16, 4, 3, 4, generator=torch.Generator().manual_seed(0))
    pixels = 2 * torch.rand(1, 3, 9, 24, 32, generator=torch.Generator().manual_seed(0)) - 1
    run, cache, made = network(vae.decoder, weights_of, cpu, torch.float32), None, []
    for latent in vae.conv2(latents).split(1, dim=2):
        frames, cache = run(latent, cache)
        made.append(frames.clamp(-1, 1))
    assert_close(torch.cat(made, dim=2), theirs().decode(latents).sample, 1e-4)
    run, cache, made = network(vae.encoder, weights_of, cpu, torch.float32), None, []
    for piece in pixels.split((1, 4, 4), dim=2):
        moments, cache = run(piece, cache)
        made.append(vae.conv1(moments)[:, :16])
    assert_close(torch.cat(made, dim=2), theirs().encode(pixels).latent_dist.mode(), 1e-4)


def drafts(pack: Pack) -> None:
    """Both tiny decoders, narrow, against TAEHV's definition."""
    tiny, wan, weights = pack.core("vae.tiny_decoder"), pack.core("config").WAN_2_1, tiny_weights(widths=SLIM)
    latents = 2 * torch.randn(1, 16, 3, 3, 4, generator=torch.Generator().manual_seed(0))
    means, deviations = (torch.tensor(v).view(16, 1, 1, 1) for v in (wan.means, wan.deviations))
    for kind, read in (("taew2_1", (latents - means) / deviations), ("lighttaew2_1", latents)):
        with patch.object(tiny, "WIDTHS", SLIM):
            decoder = tiny.TinyDecoder(kind)
            decoder.load_state_dict({name: t for name, t in weights.items() if name.startswith("decoder.")})
            pixels = torch.cat(list(decoder.decode_stream(latents)), dim=2)[0].transpose(0, 1)
        assert_close((pixels + 1) / 2, decode_slowly(weights, read[0].transpose(0, 1)).clamp(0, 1), 1e-5)


VAE_CHECKS = (decoding, encoding, spaces, fused, drafts)
