"""The draft decoder against TAEHV's definition, and against itself however a stream is cut."""

import pytest
import torch
from comfyui_sana_video.sana_video_core.config import WAN_2_1
from comfyui_sana_video.sana_video_core.errors import InputError, StateError
from comfyui_sana_video.sana_video_core.vae import tiny_decoder
from comfyui_sana_video.sana_video_core.vae.statistics import to_model_space
from comfyui_sana_video.sana_video_core.vae.tiling import Tiling
from comfyui_sana_video.sana_video_core.vae.tiny_decoder import KINDS, LIGHTTAEW2_1, TAEW2_1, TinyDecoder
from comfyui_sana_video.sana_video_core.vae.wan_vae import WanVAE
from support.tiny_files import SLIM, decode_slowly, tiny_weights
from support.wan_twins import decoded

WEIGHTS = tiny_weights(widths=SLIM)


def _decoder(kind=LIGHTTAEW2_1, dtype=torch.float32, weights=WEIGHTS) -> TinyDecoder:
    decoder = TinyDecoder(kind, dtype=dtype)
    decoder.load_state_dict({name: t for name, t in weights.items() if name.startswith("decoder.")})
    return decoder.requires_grad_(False)


@pytest.fixture
def slim(monkeypatch):
    monkeypatch.setattr(tiny_decoder, "WIDTHS", SLIM)


@pytest.fixture
def decoder(slim) -> TinyDecoder:
    return _decoder()


def _frames(stream) -> torch.Tensor:
    return decoded(stream)[0]


def _latents(frames: int = 5, rows: int = 3, columns: int = 4, batch: int = 1) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(batch, 16, frames, rows, columns, generator=generator) * 2


def test_the_published_sizes():
    """taew2_1.safetensors has 22,642,902 bytes in float16: 128 tensors, half of them the decoder's."""
    weights, latents = tiny_weights(), _latents(2, 2, 3)
    decoder = _decoder(weights=weights)
    assert sum(t.numel() for t in weights.values()) == 11_315_539
    assert sum(t.numel() for t in decoder.state_dict().values()) == 9_844_611
    assert len(weights) == 2 * len(decoder.state_dict()) == 128
    assert _apart(_frames(decoder.decode_stream(latents)), latents, weights) < 1e-5


def _apart(pixels, latents, weights=WEIGHTS) -> float:
    """The largest difference of pixels in [-1, 1] from the definition, which is in [0, 1]."""
    expected = torch.stack([decode_slowly(weights, video.transpose(0, 1)) for video in latents])
    assert expected.std() > 0.05  # or it would say nothing
    return ((pixels.transpose(1, 2) + 1) / 2 - expected.clamp(0, 1)).abs().max().item()


@pytest.mark.usefixtures("slim")
@pytest.mark.parametrize("kind", KINDS)
def test_parity_with_the_definition(kind):
    latents = _latents(batch=2)
    pixels = _frames(_decoder(kind).decode_stream(latents))
    assert pixels.shape == (2, 3, 17, 24, 32)
    assert pixels.dtype == torch.float32
    assert _apart(pixels, to_model_space(latents, WAN_2_1) if kind == TAEW2_1 else latents) < 1e-5


@pytest.mark.usefixtures("slim")
def test_the_statistics_are_the_published_ones():
    """Two channels by hand: a taew2_1 reads zero where the latent is its channel's mean."""
    means = torch.tensor(WAN_2_1.means).view(1, 16, 1, 1, 1).expand(1, 16, 2, 2, 2)
    assert means[0, 0, 0, 0, 0] == pytest.approx(-0.7571)
    assert _apart(_frames(_decoder(TAEW2_1).decode_stream(means)), torch.zeros(1, 16, 2, 2, 2)) < 1e-5


@pytest.mark.parametrize("cuts", [(1, 3), (2, 2), (1, 1, 1, 1)])
@pytest.mark.parametrize("tiling", [None, Tiling(2, 1)])
def test_any_cut_gives_the_same_bits(decoder, cuts, tiling):
    latents = _latents(4)
    whole = _frames(decoder.decode_stream(latents, tiling=tiling))
    assert torch.equal(_frames(decoder.decode_stream(latents.split(cuts, dim=2), tiling=tiling)), whole)
    cache, shown = None, []
    for piece in latents.split(cuts, dim=2):
        pixels, cache = decoded(decoder.decode_stream(piece, cache=cache, tiling=tiling))
        shown.append(pixels)
    assert torch.equal(torch.cat(shown, dim=2), whole)


def test_tiles_are_equal_to_the_whole_inside(decoder):
    """Where a tile sees as far as the network looks."""
    latents = _latents(2, 3, 64)
    whole = _frames(decoder.decode_stream(latents))
    tiled = _frames(decoder.decode_stream(latents, tiling=Tiling(60, 30)))
    assert tiled.shape == whole.shape
    assert not torch.equal(tiled, whole)
    assert torch.equal(tiled[..., : 8 * 28], whole[..., : 8 * 28])


def test_the_memory_is_a_value(decoder):
    """Two futures from one memory don't touch each other, nor the memory, nor the latents."""
    first, one, other = _latents(3).split(1, dim=2)
    given = [first.clone(), one.clone(), other.clone()]
    pixels, memory = decoder.step(first, None)
    assert pixels.shape == (1, 3, 1, 24, 32)
    assert len(memory) == 9
    before = [tensor.clone() for tensor in memory]
    expected, _ = decoder.step(one, memory)
    decoder.step(other, memory)
    again, newer = decoder.step(one, memory)
    assert again.shape == (1, 3, 4, 24, 32)
    assert torch.equal(again, expected)
    assert all(map(torch.equal, memory, before))
    assert all(map(torch.equal, (first, one, other), given))
    assert all(tensor.untyped_storage().nbytes() == tensor.nbytes for tensor in newer)
    assert not {t.untyped_storage().data_ptr() for t in memory} & {
        t.untyped_storage().data_ptr() for t in newer
    }


def test_pixels_stay_within_their_range(decoder):
    pixels = _frames(decoder.decode_stream(_latents() * 40))
    assert pixels.min() == -1
    assert pixels.max() == 1


def test_half_types_are_near_float32(decoder):
    latents = _latents(2)
    whole = _frames(decoder.decode_stream(latents))
    half = _decoder(dtype=torch.bfloat16)
    assert half.dtype == torch.bfloat16
    assert (_frames(half.decode_stream(latents)) - whole).abs().mean() < 0.02


@pytest.mark.parametrize("size", [(1, 48, 1, 2, 2), (16, 1, 2, 2), (1, 16, 0, 2, 2)])
def test_other_latents_are_refused(decoder, size):
    with pytest.raises(InputError, match=r"\[batch, 16, latent frames, rows, columns\]"):
        list(decoder.decode_stream(torch.zeros(size)))


def test_a_memory_of_another_clip_is_refused(decoder):
    _, memory = decoder.step(_latents(1), None)
    _, tiles = decoded(decoder.decode_stream(_latents(1), tiling=Tiling(2, 0)))
    wan = (torch.zeros(1, 16, 2, 3, 4),)
    for latent, past in (
        (_latents(1, 4, 4), memory),
        (_latents(1, batch=2), memory),
        (_latents(1), memory[:8]),
        (_latents(1), tiles),
        (_latents(1), wan),
        (_latents(1), ()),
    ):
        with pytest.raises(StateError, match="begin a clip without"):
            decoder.step(latent, past)


def test_the_protocol_is_the_vaes():
    """What decodes a history takes either."""
    for name in ("decode_stream", "dtype", "spec"):
        assert hasattr(WanVAE, name)
        assert hasattr(TinyDecoder, name)
