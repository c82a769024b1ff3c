"""The LTX VAE's fused layers against those as they are written, on the kernels' plain versions: piece by
piece, to the ends of clips, and when they run at all.
"""

import copy
from dataclasses import replace
from functools import cache

import pytest
import torch
from comfyui_sana_video.kernels import dispatch
from comfyui_sana_video.sana_video_core.errors import InputError
from comfyui_sana_video.sana_video_core.shapes import LatentGrid
from comfyui_sana_video.sana_video_core.vae import ltx_fused_layers, ltx_vae
from comfyui_sana_video.sana_video_core.vae.ltx_config import BOTH, SPACE, TIME, LtxConfig
from comfyui_sana_video.sana_video_core.vae.ltx_fused import fused_stages
from comfyui_sana_video.sana_video_core.vae.ltx_stream import depth_first, with_end
from comfyui_sana_video.sana_video_core.vae.ops import Choice
from comfyui_sana_video.sana_video_core.vae.tiling import Tiling
from torch import nn

CPU = torch.device("cpu")
TWO = LtxConfig(
    latent_channels=4,
    encoder_widths=(4, 8, 16, 32, 64),
    encoder_blocks=(1, 2, 1, 1, 1),
    decoder_widths=(64, 32, 16, 8),
    decoder_blocks=(1, 1, 2, 1),
)
THREE = LtxConfig(
    latent_channels=4,
    encoder_widths=(4, 8, 16, 32, 32),
    encoder_blocks=(1, 2, 1, 1, 1),
    decoder_widths=(64, 32, 32, 16, 8),
    decoder_blocks=(1, 1, 1, 2, 1),
    ups=(BOTH, BOTH, TIME, SPACE),
)
CONFIGS = {"LTX-2": TWO, "LTX-2.3": THREE, "causal": replace(TWO, causal=True)}
SHORT = replace(TWO, decoder_widths=(16, 8, 8, 8), decoder_blocks=(1, 0, 0, 1))


@cache
def made(name) -> ltx_vae.LtxVAE:
    """With random weights that keep activations' size, and biases that count."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        vae = ltx_vae.LtxVAE(CONFIGS.get(name, SHORT)).requires_grad_(False)
        for part in vae.modules():
            if isinstance(part, nn.Conv3d):
                part.weight.normal_(std=part.weight[0].numel() ** -0.5)
                part.bias.normal_(std=0.3)
        statistics = vae.per_channel_statistics
        statistics.get_buffer("std-of-means").uniform_(0.5, 2)
        statistics.get_buffer("mean-of-means").normal_()
    vae.decoder.conv_out.conv.weight.mul_(0.2)  # most pixels are not clamped
    return vae


@pytest.fixture(params=CONFIGS)
def vae(request) -> ltx_vae.LtxVAE:
    return made(request.param)


@pytest.fixture
def own() -> ltx_vae.LtxVAE:
    """A copy, so that it can be changed."""
    return copy.deepcopy(made("LTX-2"))


@pytest.fixture
def fused(monkeypatch):
    """Fused layers in their plain operations; the networks that ran so."""
    networks = []

    def counted(network, *others):
        networks.append(network)
        return fused_stages(network, *others)

    monkeypatch.setattr(ltx_vae, "choose_for_frames", lambda *_: Choice(True, ""))
    monkeypatch.setattr(ltx_vae, "fused_stages", counted)
    return networks


def plain(monkeypatch):
    monkeypatch.setattr(ltx_vae, "choose_for_frames", lambda *_: Choice(False, "asked"))


def latents(length=3, rows=2, columns=3, batch=1):
    return torch.randn(batch, 4, length, rows, columns, generator=torch.Generator().manual_seed(length))


def pixels(frames=9, rows=2, columns=2, batch=1):
    generator = torch.Generator().manual_seed(frames)
    return 2 * torch.rand(batch, 3, frames, 32 * rows, 32 * columns, generator=generator) - 1


def near(a, b) -> bool:
    return torch.allclose(a, b, rtol=1e-4, atol=2e-5 * float(b.abs().max()))


@torch.inference_mode()
@pytest.mark.parametrize("stacked, paired", [(0, 0), (16, 0), (128, 0), (0, 16), (128, 256)])
def test_decoder(vae, fused, monkeypatch, stacked, paired):
    """As videos, as pictures, in pairs, and mixed; a batch; one frame, too few to see anything, and more."""
    monkeypatch.setattr(ltx_fused_layers, "WIDEST_STACKED", stacked)
    monkeypatch.setattr(ltx_fused_layers, "WIDEST_PAIRED", paired)
    for length, batch in ((1, 1), (2, 1), (4, 2)):
        given = latents(length, batch=batch)
        out = vae.decode(given)
        assert fused.pop() is vae.decoder
        plain(monkeypatch)
        expected = vae.decode(given)
        assert not fused
        assert expected.abs().lt(1).double().mean() > 0.5
        assert near(out, expected)
        monkeypatch.setattr(ltx_vae, "choose_for_frames", lambda *_: Choice(True, ""))


@torch.inference_mode()
def test_decoder_in_triton(monkeypatch):
    """All of it, as it runs on a GPU."""
    if not pytest.importorskip("triton").knobs.runtime.interpret:
        pytest.skip("this machine has a GPU: the decoder is tested on it, in test_gpu.py")
    vae, given = made("short"), latents(2, 2, 2)
    expected = vae.decode(given)
    monkeypatch.setattr(dispatch, "INTERPRETED", True)
    monkeypatch.setattr(ltx_vae, "choose_for_frames", lambda *_: Choice(True, ""))
    assert near(vae.decode(given), expected)


@torch.inference_mode()
def test_encoder(vae, fused, monkeypatch):
    given = pixels(17, batch=2)
    out = vae.encode(given), vae.encode(given[:, :, :1])
    assert len(fused) == 2
    plain(monkeypatch)
    assert near(out[0], vae.encode(given))
    assert near(out[1], vae.encode(given[:, :, :1]))


@torch.inference_mode()
def test_pieces_are_the_whole(vae, fused):
    """Of the same latent frames, bit for bit; tiles side by side are tiles one after the other."""
    given = latents(5)
    whole = vae.decode(given)
    for sizes in ((1, 1, 1, 1, 1), (2, 3)):
        assert torch.equal(torch.cat(list(vae.decode_stream(given.split(sizes, dim=2))), dim=2), whole)
    large, tiling = latents(2, 5, 6), Tiling(tile=4, overlap=1)
    pieces = list(vae.decode_stream(large, tiling=tiling))
    assert torch.equal(torch.cat(pieces, dim=2), vae.decode(large, tiling=tiling))


@torch.inference_mode()
def test_a_causal_decoder_waits_for_nothing(fused):
    """While one that looks ahead takes latent frames together, for which nobody waits longer."""
    taken, shown = [], [0, 0, 0]
    given = (taken.append(latent) or latent for latent in latents(3).split(1, dim=2))
    for frames in made("causal").decode_stream(given):
        shown[len(taken) - 1] += frames.shape[2]
    assert shown == [1, 8, 8]


@torch.inference_mode()
def test_a_long_clip_in_larger_pieces(fused):
    """Layers that get many frames at once, and an end that brings more than go on at once."""
    vae = made("LTX-2")
    stages = fused_stages(vae.decoder, vae.weights_of, CPU, torch.float32)
    given = latents(7)
    out = [
        torch.cat(list(depth_first(run, with_end(given.split(size, dim=2)))), dim=2)
        for size, run in ((1, stages), (3, stages), (7, stages), (7, list(vae.decoder.stages())))
    ]
    assert all(near(one, out[-1]) for one in out)


@torch.inference_mode()
def test_a_clip_encoded_at_once(fused):
    """The first frame of many goes in twice."""
    vae, given = made("LTX-2"), pixels(17)
    stages = fused_stages(vae.encoder, vae.weights_of, CPU, torch.float32)
    whole, expected = (
        list(depth_first([stage._replace(frames=99) for stage in run], [(given, False)]))
        for run in (stages, list(vae.encoder.stages()))
    )
    assert len(whole) == len(expected) == 1
    assert near(whole[0], expected[0])


@torch.inference_mode()
def test_what_is_kept_is_a_value(vae):
    """Nothing that a layer kept is written to, holds a larger tensor, or shares its memory with others."""
    for network, pieces in (
        (vae.decoder, latents(6).split(1, dim=2)),
        (vae.encoder, pixels(17).split((1, 8, 8), dim=2)),
    ):
        stages = fused_stages(network, vae.weights_of, CPU, torch.float32)
        held, last = [], {}
        list(depth_first([_watched(stage, held, last) for stage in stages], with_end(pieces)))
        assert all(torch.equal(tensor, before) for tensor, before in held)
        last = list(tensors(list(last.values())))
        assert all(tensor.untyped_storage().nbytes() == tensor.nbytes for tensor in last)
        assert len({tensor.untyped_storage().data_ptr() for tensor in last}) == len(last)


def _watched(stage, held, last):
    """Notes what the layer keeps, and copies of it."""

    def run(x, past, end):
        out, last[stage] = stage.run(x, past, end)
        held.extend((tensor, tensor.clone()) for tensor in tensors(last[stage]))
        return out, last[stage]

    return stage._replace(run=run)


def tensors(kept):
    if isinstance(kept, torch.Tensor):
        yield kept
    elif isinstance(kept, (tuple, list)):
        for part in kept:
            yield from tensors(part)


@torch.inference_mode()
def test_weights_that_changed_count_at_once(own, fused, monkeypatch):
    """And a run has copies: a host may lend them in buffers that it fills again."""
    before = own.decode(latents())
    stream = own.decode_stream(latents())
    frames = [next(stream)]
    own.decoder.conv_out.conv.weight.mul_(0.5)
    after = own.decode(latents())
    assert not near(after, before)
    assert torch.equal(torch.cat([*frames, *stream], dim=2), before)
    plain(monkeypatch)
    assert near(after, own.decode(latents()))


def _hook(vae):
    vae.decoder.up_blocks[0].res_blocks[0].register_forward_hook(lambda layer, given, out: out)


def _forward(vae):
    layer = vae.decoder.conv_out
    own = layer.forward
    layer.forward = lambda *given: own(*given)


def _border(vae):
    vae.decoder.up_blocks[1].conv.conv.padding_mode = "circular"


def _foreign_layer(vae):
    class Louder(nn.Conv3d):
        pass

    vae.decoder.conv_in.conv.__class__ = Louder


@torch.no_grad()
@pytest.mark.parametrize("change", [_hook, _forward, _border, _foreign_layer])
def test_a_changed_layer_is_obeyed(own, fused, monkeypatch, change):
    needed = own.memory_for(1, LatentGrid(2, 2), CPU)
    change(own)
    out = own.decode(latents())
    assert not fused
    assert own.memory_for(1, LatentGrid(2, 2), CPU) > needed
    plain(monkeypatch)
    assert torch.equal(own.decode(latents()), out)
    assert not fused


@torch.no_grad()
def test_a_border_that_is_another_networks(own, fused):
    """The decoder reflects, the encoder doesn't: each is fused with its own border alone."""
    own.encode(pixels(1))
    assert fused.pop() is own.encoder
    own.encoder.conv_in.conv.padding_mode = "reflect"
    own.encode(pixels(1))
    own.decoder.conv_in.conv.padding_mode = "zeros"
    own.decode(latents(1))
    assert not fused


@pytest.mark.parametrize("part", ["latents", "decoder.conv_in"])
def test_gradients_flow(own, fused, part):
    """Kernels have none: to what is decoded, or to a part that learns."""
    given = latents(1).requires_grad_(part == "latents")
    learns = [given] if part == "latents" else list(own.get_submodule(part).requires_grad_(True).parameters())
    own.decode(given).sum().backward()
    assert not fused
    assert all(tensor.grad is not None for tensor in learns)
    with torch.no_grad():
        own.decode(given)
    assert fused


@torch.inference_mode()
def test_autocast_takes_the_plain_layers(own, fused):
    with torch.autocast("cpu", torch.bfloat16):
        assert own.decode(latents(1)).isfinite().all()
        own.encode(pixels(1))
    assert not fused


@torch.inference_mode()
def test_what_was_asked_for_and_cannot_run_is_said(own, monkeypatch):
    monkeypatch.setenv("SANA_VIDEO_KERNELS", "triton")
    given = latents(1)
    for call in (lambda: own.decode(given), lambda: own.memory_for(1, LatentGrid(2, 2), CPU)):
        with pytest.raises(InputError, match=r"the VAE computes on cpu.*Change or remove the environment"):
            call()
