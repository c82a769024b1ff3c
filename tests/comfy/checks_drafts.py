"""Checks inside ComfyUI's process: its tiny video decoder and ours, on random weights of both files."""

from __future__ import annotations

import tempfile
from pathlib import Path

from checks_inside import check, close, image, pack, refused, run, same

KINDS = ("taew2_1", "lighttaew2_1")


def _files(folder: str) -> dict:
    """A file of each kind as it is published: float16 and float32."""
    import torch
    from safetensors.torch import save_file
    from tiny_files import tiny_weights

    weights, paths = tiny_weights(), {}
    for name, dtype in zip(KINDS, (torch.float16, torch.float32), strict=True):
        paths[name] = Path(folder) / f"{name}.safetensors"
        save_file({key: tensor.to(dtype) for key, tensor in weights.items()}, paths[name])
    return paths


def _latents(frames: int = 5):
    import torch

    return torch.randn(1, 16, frames, 4, 6, generator=torch.Generator().manual_seed(2)) * 2


def _cores(path: Path):
    """As core's Load VAE does it."""
    import comfy.sd
    import comfy.utils

    weights, metadata = comfy.utils.load_torch_file(str(path), return_metadata=True)
    vae = comfy.sd.VAE(sd=weights, metadata=metadata)
    vae.patcher.cached_patcher_init = (comfy.sd.load_vae_patcher, (str(path), metadata, None))
    return vae


@check
def our_tiny_decoder_is_cores_class(demo):
    """Our stream against ComfyUI's network, which gets what each kind was made to read."""
    import comfy.latent_formats
    import torch
    from comfy.taesd.taehv import TAEHV

    formats = {"taew2_1": comfy.latent_formats.Wan21, "lighttaew2_1": None}
    with tempfile.TemporaryDirectory() as folder:
        for name, path in _files(folder).items():
            ours = pack("sana_video_core.checkpoints.draft").load_draft(path, dtype=torch.float32)
            for parallel in (False, True):
                theirs = TAEHV(16, parallel=parallel, latent_format=formats[name])
                theirs.load_state_dict(ours.state_dict(), strict=False)
                expected = theirs.requires_grad_(False).decode(_latents())
                assert expected.shape == (1, 3, 17, 32, 48)
                assert expected.std() > 0.1
                pixels = torch.cat(list(ours.decode_stream(_latents())), dim=2)
                close((pixels + 1) / 2, expected.clamp(0, 1), 1e-5)


@check
def cores_vae_decode_reads_our_draft(demo):
    """Both kinds from our loader look alike in core's VAE Decode and ours; what it encodes comes back."""
    import comfy.sd
    import folder_paths

    import nodes as core_nodes

    with tempfile.TemporaryDirectory() as folder:
        folder_paths.add_model_folder_path("vae_approx", folder)
        for path in _files(folder).values():
            assert path.name in pack("nodes.files").choices(pack("nodes.files").VAE)
            vae = run("SanaVideoVAELoader", path.name)
            assert type(vae) is comfy.sd.VAE
            ours = run("SanaVideoDecode", vae, {"samples": _latents()})
            theirs = core_nodes.VAEDecode().decode(vae, {"samples": _latents()})[0]
            assert ours.shape == theirs.shape == (17, 32, 48, 3)
            close(ours, theirs.clamp(0, 1), 1e-4)
            encoded = core_nodes.VAEEncode().encode(vae, ours)[0]["samples"]
            assert encoded.shape[1:3] == (16, 5)
            again = vae.patcher.cached_patcher_init[0](*vae.patcher.cached_patcher_init[1])
            assert again.model is not vae.first_stage_model
            assert same(again.model.process_in(_latents()), vae.first_stage_model.process_in(_latents()))


@check
def a_draft_that_core_loaded_decodes_alike(demo):
    with tempfile.TemporaryDirectory() as folder:
        for name, path in _files(folder).items():
            core, ours = _cores(path), pack("bridge.vaes").load_vae(path)
            assert pack("bridge.vaes").vae_of(core).network.kind == name
            latents = {"samples": _latents()}
            assert same(run("SanaVideoDecode", core, latents), run("SanaVideoDecode", ours, latents))
            _, state, _ = demo.sample()
            for vae in (core, ours):
                assert run("SanaVideoDecodeStream", vae, state, 0, 16.0, "h264", 0).get_dimensions() == (
                    64,
                    48,
                )
                refused(
                    lambda vae=vae: run(
                        "SanaVideoPrime", demo.causal, vae, demo.positive, demo.start(), image=image()
                    ),
                    f"draft decoder {name}",
                    "can't encode",
                )


@check
def drafts_cast_as_they_are_used_decode_alike(demo):
    """As ComfyUI leaves weights when memory is short."""
    import comfy.sd
    import torch
    from safetensors.torch import load_file

    with tempfile.TemporaryDirectory() as folder:
        weights = load_file(_files(folder)["lighttaew2_1"])
    whole, late = comfy.sd.VAE(sd=dict(weights), dtype=torch.bfloat16), comfy.sd.VAE(sd=dict(weights))
    late.vae_dtype = torch.bfloat16
    for layer in late.first_stage_model.modules():
        if hasattr(layer, "comfy_cast_weights"):
            layer.comfy_cast_weights = True
    ours = run("SanaVideoDecode", whole, {"samples": _latents(2)})
    assert same(run("SanaVideoDecode", late, {"samples": _latents(2)}), ours)


@check
def core_lists_and_takes_what_we_refuse_to_show(demo):
    """Tiny decoders of other models, as core's loader makes them of real sizes."""
    import comfy.sd
    from tiny_files import tiny_weights

    vae = comfy.sd.VAE(sd=tiny_weights(channels=48, colours=12))
    for call in (
        lambda: run("SanaVideoDecode", vae, {"samples": _latents()}),
        lambda: run("SanaVideoPrime", demo.causal, vae, demo.positive, demo.start(), image=image()),
    ):
        refused(call, "tiny decoder of Wan 2.2 5B", "Use taew2_1.safetensors")
