"""The laws of the streaming VAE: the cache is a value, every split is bit-identical, time runs one way."""

import pytest
import torch
from comfyui_sana_video.sana_video_core.errors import Cancelled, InputError, StateError
from comfyui_sana_video.sana_video_core.vae.wan_vae import WanVAE
from support import wan_twins
from support.wan_twins import decoded

ROWS, COLUMNS = 3, 2  # latents: unequal, so that swapped axes are noticed
LONG = 21  # latent frames


@pytest.fixture(autouse=True, scope="module")
def _no_gradients():
    with torch.inference_mode():
        yield


@pytest.fixture(scope="module")
def vae() -> WanVAE:
    return wan_twins.twins()[0]


@pytest.fixture(scope="module")
def long_clip(vae) -> tuple[torch.Tensor, torch.Tensor]:
    """Latents of 21 latent frames and their 81 frames."""
    latents = random_latents(LONG)
    return latents, vae.decode(latents)


def random_pixels(frames: int) -> torch.Tensor:
    return wan_twins.random_pixels(frames, ROWS, COLUMNS)


def random_latents(length: int, columns: int = COLUMNS, batch: int = 1) -> torch.Tensor:
    return wan_twins.random_latents(length, ROWS, columns, batch)


def cache_after(vae: WanVAE, latents: torch.Tensor):
    return decoded(vae.decode_stream([latents]))[1]


# --- frames


@pytest.mark.parametrize("frames, length", [(1, 1), (2, 1), (4, 1), (5, 2), (8, 2), (9, 3)])
def test_surplus_frames_are_dropped(vae, frames, length):
    pixels = random_pixels(frames)
    latents = vae.encode(pixels)
    assert latents.shape == (1, 16, length, ROWS, COLUMNS)
    assert torch.equal(latents, vae.encode(pixels[:, :, : 4 * length - 3]))


def test_one_latent_frame_is_one_frame(vae):
    assert vae.decode(random_latents(1)).shape == (1, 3, 1, 8 * ROWS, 8 * COLUMNS)


def test_later_latents_do_not_change_earlier_pixels(vae, long_clip):
    latents, pixels = long_clip
    for changed in (1, 2, 5):
        other = latents[:, :, :8].clone()
        other[:, :, changed:] += 1
        result = vae.decode(other)
        known = 4 * changed - 3
        assert torch.equal(result[:, :, :known], pixels[:, :, :known])
        assert not torch.equal(result[:, :, known], pixels[:, :, known])


def test_later_frames_do_not_change_earlier_latents(vae):
    pixels = random_pixels(13)
    other = pixels.clone()
    other[:, :, 5:] *= -1
    one, two = vae.encode(pixels), vae.encode(other)
    assert torch.equal(one[:, :, :2], two[:, :, :2])
    assert not torch.equal(one[:, :, 2], two[:, :, 2])


# --- streaming


@pytest.mark.parametrize("cut", range(1, LONG))
def test_every_split_in_two_is_bit_identical(vae, long_clip, cut):
    latents, pixels = long_clip
    assert torch.equal(decoded(vae.decode_stream(latents.split((cut, LONG - cut), dim=2)))[0], pixels)


def test_one_tensor_is_one_piece(vae):
    latents = random_latents(3, 2, 2)
    assert torch.equal(torch.cat(list(vae.decode_stream(latents)), dim=2), vae.decode(latents))


@pytest.mark.parametrize(
    "cuts", [(1,) * 21, (11, 10), (1, 2) * 7, (3,) * 7, (1, 1, 10, 9), (5, 1, 1, 14), (21,)]
)
def test_calls_that_pass_the_cache_on_are_bit_identical(vae, long_clip, cuts):
    latents, pixels = long_clip
    cache, shown = None, []
    for piece in latents.split(cuts, dim=2):
        # copied, so that a piece's place in a longer tensor cannot matter
        frames, cache = decoded(vae.decode_stream([piece.clone()], cache=cache))
        shown.append(frames)
    assert torch.equal(torch.cat(shown, dim=2), pixels)


def test_frames_come_as_soon_as_they_are_known(vae):
    asked = []

    def pieces():
        for length in (2, 1):
            asked.append(length)
            yield random_latents(length)

    stream = vae.decode_stream(pieces())
    assert [(next(stream).shape[2], tuple(asked)) for _ in range(3)] == [(1, (2,)), (4, (2,)), (4, (2, 1))]


def test_an_empty_stream_returns_the_cache_it_got(vae):
    cache = cache_after(vae, random_latents(1))
    stream = vae.decode_stream([], cache=cache)
    with pytest.raises(StopIteration) as end:
        next(stream)
    assert end.value.value is cache


def test_memory_layout_does_not_matter(vae):
    latents, pixels = random_latents(3), random_pixels(5)
    scattered = latents.permute(0, 2, 3, 4, 1).contiguous().permute(0, 4, 1, 2, 3)
    assert torch.equal(vae.decode(scattered), vae.decode(latents))
    scattered = pixels.to(memory_format=torch.channels_last_3d)
    assert torch.equal(vae.encode(scattered), vae.encode(pixels))


def test_the_network_sees_one_memory_layout(vae):
    """Equality above may be luck on this machine: other backends choose their kernels by layout."""
    strides: list[tuple[int, ...]] = []
    hooks = [
        module.register_forward_pre_hook(lambda _, inputs: strides.append(inputs[0].stride()))
        for module in (vae.conv2, vae.encoder)
    ]
    latents, pixels = random_latents(3), random_pixels(1)
    for scattered in (latents, latents[:, :, :1].clone(), latents.to(memory_format=torch.channels_last_3d)):
        vae.decode(scattered)
    for scattered in (pixels, random_pixels(5)[:, :, :1], pixels.to(memory_format=torch.channels_last_3d)):
        vae.encode(scattered)
    for hook in hooks:
        hook.remove()
    assert len(strides) == 10
    assert len(set(strides)) == 2


def test_inputs_are_cast_and_untouched(vae):
    latents, pixels = random_latents(2), random_pixels(5)
    copies = latents.clone(), pixels.clone()
    assert torch.equal(vae.decode(latents.double()), vae.decode(latents))
    assert torch.equal(vae.encode(pixels.double()), vae.encode(pixels))
    assert torch.equal(latents, copies[0])
    assert torch.equal(pixels, copies[1])


# --- the cache is a value


def fingerprint(cache) -> list[tuple[int, torch.Tensor]]:
    return [(tensor.data_ptr(), tensor.clone()) for tensor in cache]


def same(one, other) -> bool:
    return all(a[0] == b[0] and torch.equal(a[1], b[1]) for a, b in zip(one, other, strict=True))


def test_a_step_leaves_its_cache_alone(vae):
    latents, pixels = random_latents(3), random_pixels(9)
    cache = cache_after(vae, latents)
    before = fingerprint(cache)
    _, after = vae.decode_frame(latents[:, :, :1], cache)
    assert same(fingerprint(cache), before)
    assert {t.untyped_storage().data_ptr() for t in cache}.isdisjoint(
        t.untyped_storage().data_ptr() for t in after
    )

    _, cache = vae.encode_frames(pixels[:, :, :1], None)
    before = fingerprint(cache)
    vae.encode_frames(pixels[:, :, 1:5], cache)
    assert same(fingerprint(cache), before)


def test_two_branches_never_touch_each_other(vae):
    cache = cache_after(vae, random_latents(2))
    one, two = random_latents(3), random_latents(4)

    def branch(latents):
        return decoded(vae.decode_stream([latents], cache=cache))[0]

    first = branch(one), branch(two)
    second = branch(two), branch(one)
    assert torch.equal(first[0], second[1])
    assert torch.equal(first[1], second[0])


def test_the_cache_owns_its_memory_and_never_grows(vae):
    cache, sizes = None, set()
    for latent in random_latents(30).split(1, dim=2):
        _, cache = vae.decode_frame(latent, cache)
        for tensor in cache:
            assert tensor.untyped_storage().nbytes() == tensor.numel() * tensor.element_size()
        assert len({tensor.data_ptr() for tensor in cache}) == len(cache)
        sizes.add(sum(tensor.untyped_storage().nbytes() for tensor in cache))
    assert len(sizes) == 1

    _, cache = vae.encode_frames(random_pixels(1), None)
    _, cache = vae.encode_frames(random_pixels(4), cache)
    assert all(t.untyped_storage().nbytes() == t.numel() * t.element_size() for t in cache)


def test_nothing_is_kept_on_the_modules(vae):
    def attributes():
        return [{name: id(value) for name, value in vars(module).items()} for module in vae.modules()]

    before = attributes()
    vae.decode(random_latents(2))
    vae.encode(random_pixels(5))
    assert attributes() == before
    assert not list(vae.buffers())


# --- progress, cancelling, refusals


def test_progress_counts_latent_frames(vae):
    seen = []
    vae.decode(random_latents(3), on_step=lambda done, total: seen.append((done, total)))
    assert seen == [(1, 3), (2, 3), (3, 3)]
    seen.clear()
    vae.encode(random_pixels(8), on_step=lambda done, total: seen.append((done, total)))
    assert seen == [(1, 2), (2, 2)]


def test_cancelling_leaves_nothing_behind(vae, long_clip):
    latents, pixels = (tensor[:, :, :n] for tensor, n in zip(long_clip, (3, 9), strict=True))
    encoded = vae.encode(pixels)

    def cancel(done: int, total: int) -> None:
        if done == 2:
            raise Cancelled("stopped by the user")

    with pytest.raises(Cancelled):
        vae.decode(latents, on_step=cancel)
    with pytest.raises(Cancelled):
        vae.encode(pixels, on_step=cancel)
    assert torch.equal(vae.decode(latents), pixels)
    assert torch.equal(vae.encode(pixels), encoded)


def test_a_step_accepts_exactly_its_frames(vae):
    with pytest.raises(InputError, match=r"\[batch, 16, 1, "):
        vae.decode_frame(random_latents(2), None)
    with pytest.raises(InputError, match=r"\[batch, 3, 1, "):
        vae.encode_frames(random_pixels(4), None)
    _, cache = vae.encode_frames(random_pixels(1), None)
    with pytest.raises(InputError, match=r"\[batch, 3, 4, "):
        vae.encode_frames(random_pixels(1), cache)


def test_a_cache_of_another_clip_is_refused(vae):
    latent = random_latents(1)
    cache = cache_after(vae, latent)
    other_clips = (random_latents(1, columns=COLUMNS + 1), random_latents(1, batch=2))
    for other in other_clips:
        with pytest.raises(StateError, match="does not belong"):
            next(vae.decode_stream([other], cache=cache))
    with pytest.raises(StateError, match="does not belong"):
        vae.decode_frame(latent, cache[:-1])
    with pytest.raises(StateError, match="float64"):
        vae.decode_frame(latent, tuple(tensor.double() for tensor in cache))
