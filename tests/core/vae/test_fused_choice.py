"""When a VAE runs fused: with its own weights as they are now, and never in the place of a changed layer."""

import copy

import pytest
import torch
from comfyui_sana_video.sana_video_core.errors import InputError, StateError
from comfyui_sana_video.sana_video_core.shapes import LatentGrid
from comfyui_sana_video.sana_video_core.vae import wan_vae
from comfyui_sana_video.sana_video_core.vae.fused_network import FusedNetwork
from comfyui_sana_video.sana_video_core.vae.ops import Choice
from comfyui_sana_video.sana_video_core.vae.tiling import Tiling
from support import wan_twins
from torch import nn

CPU = torch.device("cpu")


@pytest.fixture
def vae() -> wan_vae.WanVAE:
    """A copy, so that it can be changed."""
    return copy.deepcopy(wan_twins.twins()[0])


@pytest.fixture
def fused(monkeypatch):
    """Fused networks in their plain operations; of each, the types of the caches that it was given."""
    made = []

    class Counted(FusedNetwork):
        def __init__(self, *arguments):
            made.append([])
            self.caches = made[-1]
            super().__init__(*arguments)

        def __call__(self, x, cache):
            self.caches.append(type(cache))
            return super().__call__(x, cache)

    monkeypatch.setattr(wan_vae, "choose_for_frames", lambda *_: Choice(True, ""))
    monkeypatch.setattr(wan_vae, "FusedNetwork", Counted)
    return made


def plain(monkeypatch):
    monkeypatch.setattr(wan_vae, "choose_for_frames", lambda *_: Choice(False, "asked"))


def latents(length=2):
    return wan_twins.random_latents(length, 1, 2)


def near(a, b) -> bool:
    return torch.allclose(a, b, rtol=1e-4, atol=2e-5 * float(b.abs().max()))


@torch.inference_mode()
@pytest.mark.parametrize("rows, columns, tiling", [(1, 1, None), (5, 1, None), (5, 6, Tiling(4, 1))])
def test_the_whole_vae(vae, fused, monkeypatch, rows, columns, tiling):
    given = wan_twins.random_latents(3, rows, columns, batch=2), wan_twins.random_pixels(5, rows, columns, 2)
    calls = vae.decode, vae.encode
    made = [call(x, tiling=tiling) for call, x in zip(calls, given, strict=True)]
    assert len(fused) == 2
    pieces = list(vae.decode_stream(given[0].split((1, 2), dim=2), tiling=tiling))
    assert torch.equal(torch.cat(pieces, dim=2), made[0])
    plain(monkeypatch)
    expected = [call(x, tiling=tiling) for call, x in zip(calls, given, strict=True)]
    assert all(map(near, made, expected))


@torch.inference_mode()
def test_caches_are_values_that_both_versions_take(vae, fused, monkeypatch):
    """In turns; nothing that was given is written to, and what is kept shares no memory."""
    cache, expected, held = None, vae.decode(latents(4)), []
    for number, latent in enumerate(latents(4).split(1, dim=2)):
        if number % 2:
            plain(monkeypatch)
        else:
            monkeypatch.setattr(wan_vae, "choose_for_frames", lambda *_: Choice(True, ""))
        held += [(tensor, tensor.clone()) for tensor in cache or ()]
        pixels, cache = vae.decode_frame(latent, cache)
        held.append((pixels, pixels.clone()))
        start = 4 * number - 3 if number else 0
        assert near(pixels.clamp(-1, 1), expected[:, :, start : start + pixels.shape[2]])
    assert len(fused) == 3
    assert all(torch.equal(tensor, before) for tensor, before in held)
    places = {tensor.untyped_storage().data_ptr() for tensor, _ in held}
    assert len(places) == len(held)
    assert all(map(_alone, cache))


def _alone(tensor) -> bool:
    """Whether it keeps no larger tensor alive."""
    return tensor.untyped_storage().nbytes() == tensor.nbytes


@torch.inference_mode()
def test_caches_of_the_encoder_are_values_too(vae, fused):
    """Two futures from one cache."""
    first, one = wan_twins.random_pixels(5, 1, 2).split((1, 4), dim=2)
    _, cache = vae.encode_frames(first, None)
    before = [tensor.clone() for tensor in cache]
    moments, newer = vae.encode_frames(one, cache)
    vae.encode_frames(-one, cache)
    again, _ = vae.encode_frames(one, cache)
    assert len(fused) == 4
    assert torch.equal(again, moments)
    assert all(map(torch.equal, cache, before))
    assert all(map(_alone, (*cache, *newer)))
    places = {tensor.untyped_storage().data_ptr() for tensor in (*cache, *newer, moments)}
    assert len(places) == 2 * len(cache) + 1


@torch.inference_mode()
def test_a_list_is_emptied_and_refused_when_it_comes_again(vae, fused):
    one, two = latents().split(1, dim=2)
    _, cache = vae.decode_frame(one, None)
    given = list(cache)
    vae.decode_frame(two, given)
    assert (len(given), len(cache)) == (0, 32)
    with pytest.raises(StateError, match="it is empty, as a list is after its step"):
        vae.decode_frame(two, given)


@torch.inference_mode()
def test_a_clip_never_has_two_caches(vae, fused):
    """Between its own steps, a network gets the only reference, as a list that it empties."""
    vae.decode(latents(3))
    vae.encode(wan_twins.random_pixels(9, 1, 1))
    list(vae.decode_stream(latents(3)))
    assert fused == [[type(None), list, list]] * 3


@torch.inference_mode()
def test_weights_that_changed_count_at_once(vae, fused, monkeypatch):
    before = vae.decode(latents())
    vae.decoder.head[2].weight.mul_(0.5)
    after = vae.decode(latents())
    assert not near(after, before)
    plain(monkeypatch)
    assert near(after, vae.decode(latents()))


class Louder(nn.Conv3d):
    """A layer of somebody else's, with a forward of its own."""

    def forward(self, x):
        return 2 * super().forward(x)


def _hook(vae):
    vae.decoder.middle[0].residual[2].register_forward_hook(lambda layer, given, out: 2 * out)


def _pre_hook(vae):
    vae.decoder.middle[1].register_forward_pre_hook(lambda layer, given: (2 * given[0], given[1]))


def _forward(vae):
    layer = vae.decoder.head[2]
    own = layer.forward
    layer.forward = lambda x: 2 * own(x)


def _convolution(vae):
    """As nodes for seamless pictures replace it."""
    layer = vae.decoder.conv1
    own = layer._conv_forward
    layer._conv_forward = lambda *given: 2 * own(*given)


def _border(vae):
    vae.decoder.upsamples[3].resample[1].padding_mode = "circular"


def _foreign_layer(vae):
    vae.decoder.conv1.__class__ = Louder


def _foreign_block(vae):
    class Block(wan_vae.ResidualBlock):
        pass

    vae.decoder.middle[0].__class__ = Block


def _compiled_block(vae):
    vae.decoder.middle[0] = torch.compile(vae.decoder.middle[0], backend="eager")


def _compiled_decoder(vae):
    vae.decoder = torch.compile(vae.decoder, backend="eager")


CHANGES = (
    _hook,
    _pre_hook,
    _forward,
    _convolution,
    _border,
    _foreign_layer,
    _foreign_block,
    _compiled_block,
    _compiled_decoder,
)


@torch.no_grad()
@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_layer_is_obeyed(vae, fused, monkeypatch, change):
    needed = vae.memory_for(1, LatentGrid(1, 2), CPU)
    change(vae)
    out = vae.decode(latents())
    assert not fused
    assert torch.equal(torch.cat(list(vae.decode_stream(latents())), dim=2), out)
    assert vae.memory_for(1, LatentGrid(1, 2), CPU) > needed
    plain(monkeypatch)
    assert torch.equal(vae.decode(latents()), out)


@pytest.mark.parametrize("part", ["latents", "decoder.middle"])
def test_gradients_flow(vae, fused, part):
    """Kernels have none: to what is decoded, or to a part that learns."""
    given = latents().requires_grad_(part == "latents")
    learns = [given] if part == "latents" else list(vae.get_submodule(part).requires_grad_(True).parameters())
    vae.decode(given).sum().backward()
    assert not fused
    assert all(tensor.grad is not None for tensor in learns)
    with torch.no_grad():
        vae.decode(given)
    assert fused


@torch.inference_mode()
def test_autocast_takes_the_plain_layers(vae, fused):
    with torch.autocast("cpu", torch.bfloat16):
        assert vae.decode(latents()).isfinite().all()
        vae.encode(wan_twins.random_pixels(5, 1, 1))
    assert not fused


@torch.inference_mode()
def test_what_was_asked_for_and_cannot_run_is_said_of_the_vae(vae, monkeypatch):
    monkeypatch.setenv("SANA_VIDEO_KERNELS", "triton")
    with pytest.raises(InputError, match=r"the VAE computes on cpu.*Change or remove the environment"):
        vae.decode(latents())
    with pytest.raises(InputError, match="the VAE computes on cpu"):
        vae.memory_for(1, LatentGrid(1, 1), CPU)
    monkeypatch.setenv("SANA_VIDEO_KERNELS", "reference")
    vae.decode(latents())
    vae.kernels = "fast"
    with pytest.raises(InputError, match="“fast” is no choice of kernels; choose one of: auto, triton"):
        vae.encode(wan_twins.random_pixels(1, 1, 1))
