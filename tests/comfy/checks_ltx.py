"""Checks inside ComfyUI's process: its LTX video VAE and ours, on random weights of both versions."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

from checks_inside import check, close, pack, refused, run, same

NAMES = ("LTX-2", "LTX-2.3")


def _files(folder: str) -> dict:
    from ltx_files import write_ltx

    return {name: write_ltx(Path(folder) / f"{name}.safetensors", name, pack) for name in NAMES}


def _cores(path: Path):
    """As core's Load VAE does it; it needs the sizes in the file's metadata."""
    import comfy.sd
    import comfy.utils

    weights, _ = comfy.utils.load_torch_file(str(path), return_metadata=True)
    config = pack("sana_video_core.vae.ltx_config").LtxConfig.from_state_dict(weights)
    said = {"config": json.dumps({"vae": pack("bridge.vae_networks").described(config)})}
    return comfy.sd.VAE(sd=weights, metadata=said)


def _latents(frames: int):
    import torch

    return torch.randn(1, 128, frames, 3, 4, generator=torch.Generator().manual_seed(2))


@check
def cores_ltx_vae_and_ours_agree(demo):
    """Loaded by either, decoded and encoded by either."""
    vaes = pack("bridge.vaes")
    with tempfile.TemporaryDirectory() as folder:
        for name, path in _files(folder).items():
            mine, theirs = vaes.load_vae(path), _cores(path)
            assert type(mine.first_stage_model) is type(theirs.first_stage_model)
            for frames in (1, 3, 6):
                latents = _latents(frames)
                expected = theirs.decode(latents)[0]
                assert same(mine.decode(latents)[0], expected)
                assert expected.shape == (8 * frames - 7, 96, 128, 3)
                assert expected.std() > 0.1
                for vae in (mine, theirs):
                    assert vaes.vae_of(vae).spec.name == name
                    close(run("SanaVideoDecode", vae, {"samples": latents}), expected, 1e-5)
                pixels = (expected * 2 - 1).permute(3, 0, 1, 2)[None]
                close(vaes.encoder_of(theirs).encode(pixels), theirs.encode(expected), 2e-5)


@check
def a_causal_ltx_decoder_stays_causal(demo):
    from ltx_files import write_ltx
    from safetensors.torch import load_file, save_file

    with tempfile.TemporaryDirectory() as folder:
        path = write_ltx(Path(folder) / "symmetric.safetensors", "LTX-2", pack)
        plain, weights = pack("bridge.vaes").load_vae(path), load_file(path)
        config = pack("sana_video_core.vae.ltx_config").LtxConfig.from_state_dict(weights, causal=True)
        said = {"config": json.dumps({"vae": pack("bridge.vae_networks").described(config)})}
        save_file(weights, path.with_name("causal.safetensors"), said)
        causal = pack("bridge.vaes").load_vae(path.with_name("causal.safetensors"))
        latents = _latents(3)
        expected = causal.decode(latents)[0]
        assert not same(expected, plain.decode(latents)[0])
        close(run("SanaVideoDecode", causal, {"samples": latents}), expected, 1e-5)


@check
def an_ltx_vae_of_other_sizes_is_refused(demo):
    from ltx_files import write_ltx

    with tempfile.TemporaryDirectory() as folder:
        path = write_ltx(Path(folder) / "small.safetensors", "LTX-2", pack, latent_channels=4)
        refused(lambda: pack("bridge.vaes").load_vae(path), "ComfyUI can't build it")
