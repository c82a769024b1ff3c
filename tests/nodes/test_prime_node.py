"""Prime: a stream begins with an image, or with the end of a video."""

import io
from fractions import Fraction
from pathlib import Path

import pytest
import torch
from comfy_api.latest import InputImpl, Types
from comfyui_sana_video.bridge.vaes import HostedVae, vae_of
from comfyui_sana_video.sana_video_core.files.image_file import fit_images
from comfyui_sana_video.sana_video_core.files.video_reader import read_frames
from comfyui_sana_video.sana_video_core.files.video_writer import VideoWriter
from support.artist import demo, folders, latents, one_chunk, picture, refused, run, same_state, sample, start
from support.pack import same


@pytest.fixture(autouse=True)
def base(tmp_path):
    with folders(tmp_path):
        yield tmp_path


def prime(state=None, *, model=None, **inputs):
    state = start() if state is None else state
    return run("Prime", model or demo().model, demo().vae, demo().positive, state, **inputs)


@pytest.fixture
def film(tmp_path):
    """A video of 11 frames at 16 fps, wider than the stream."""
    path = tmp_path / "film.mp4"
    frames = torch.rand(3, 11, 4, 8, generator=torch.Generator().manual_seed(1)) * 2 - 1
    with VideoWriter(path) as writer:
        writer.write(frames.repeat_interleave(16, 2).repeat_interleave(16, 3))
    return path


def test_an_image_is_a_chunk_of_one_latent_frame_and_ten_follow():
    images = picture(100, 40)  # tall: filled and cropped
    before = images.clone()
    state = prime(image=images)
    (chunk,) = state.state.history
    assert (chunk.length, chunk.primed, chunk.seed, chunk.prompt) == (1, True, None, "a red ball rolls")
    pixels = fit_images(images, width=48, height=32)
    assert torch.allclose(latents(chunk), vae_of(demo().vae).encode(pixels), atol=1e-5)
    assert same(images, before)
    latent, after, frames = sample(state)
    assert (latent["samples"].shape[2], frames, after.state.plan) == (10, 41, ((1, 10),))
    assert type(state).__name__ == "SocketState"


def test_the_sampler_continues_from_what_was_primed():
    made = [sample(prime(image=image))[0]["samples"] for image in (torch.zeros(1, 32, 48, 3), picture())]
    assert not torch.allclose(made[0], made[1], atol=1e-3)


def test_a_video_gives_its_last_whole_frames(film):
    state = prime(video=InputImpl.VideoFromFile(str(film)))
    (chunk,) = state.state.history
    assert (chunk.length, chunk.primed, state.state.frames) == (3, True, 9)
    pixels = read_frames(film, last=9, width=48, height=32)
    assert torch.allclose(latents(chunk), vae_of(demo().vae).encode(pixels), atol=1e-5)
    assert sample(state)[2] == 9 + 40


def test_a_video_is_read_at_sixteen_frames_a_second(film, tmp_path):
    slow = tmp_path / "slow.mp4"
    with VideoWriter(slow, fps=8) as writer:
        writer.write(read_frames(film, fps=None)[:, :, :5])
    assert prime(video=InputImpl.VideoFromFile(str(slow))).state.frames == 9  # of ten


class Elsewhere(InputImpl.VideoFromFile):
    """A video in memory, or a part of one."""

    def __init__(self, file: Path, source, trim=(0.0, 0.0)) -> None:
        super().__init__(str(file))
        self.source, self.trim = source, trim

    def get_stream_source(self):
        return self.source

    def get_active_trim_window(self):
        return self.trim

    def save_to(self, path, **_):
        raise AssertionError("a copy has lost its colour tags")


def test_a_video_in_memory_is_the_same(film):
    bytes_of_it = Elsewhere(film, io.BytesIO(film.read_bytes()))
    assert same_state(prime(video=bytes_of_it), prime(video=InputImpl.VideoFromFile(str(film))))


def test_of_a_trimmed_video_its_part_is_used(film):
    (chunk,) = prime(video=Elsewhere(film, str(film), trim=(0.125, 0.3125))).state.history
    pixels = read_frames(film)[:, :, 2:7]
    pixels = fit_images(((pixels[0].movedim(0, -1) + 1) / 2), width=48, height=32)
    assert torch.allclose(latents(chunk), vae_of(demo().vae).encode(pixels), atol=1e-5)


def test_pictures_with_a_rate_are_a_video_without_a_file():
    images = torch.rand(20, 40, 60, 3, generator=torch.Generator().manual_seed(3))
    components = Types.VideoComponents(images=images, frame_rate=Fraction(32), audio=None)
    (chunk,) = prime(video=InputImpl.VideoFromComponents(components)).state.history
    expected = fit_images(images[[2, 4, 6, 8, 10, 12, 14, 16, 18]], width=48, height=32)
    assert torch.allclose(latents(chunk), vae_of(demo().vae).encode(expected), atol=1e-5)


def test_one_picture_for_a_batch_or_one_for_each():
    batch = start(batch=2)
    pictures = picture(count=2)
    one = prime(batch, image=pictures[:1])
    each = prime(batch, image=pictures)
    rows = one.state.history[0].latents
    assert rows.shape == (2, 16, 1, 4, 6)
    assert same(rows[0], rows[1])
    assert torch.allclose(each.state.history[0].latents[0], rows[0], atol=1e-4)
    assert not torch.allclose(each.state.history[0].latents[1], rows[1], atol=1e-2)
    with refused("3 images", "batch of 2", "video input"):
        prime(batch, image=picture(count=3))


def test_both_or_none_are_refused(film):
    for inputs in ({}, {"image": picture(), "video": InputImpl.VideoFromFile(str(film))}):
        with refused("Connect either an image or a video"):
            prime(**inputs)


def test_refusals_come_before_anything_is_encoded(monkeypatch):
    def encode(self, pixels):
        raise AssertionError("something was encoded")

    monkeypatch.setattr(HostedVae, "encode", encode)
    with refused("already holds 41 frames", "Start node"):
        prime(one_chunk()[1], image=picture())
    with refused("bidirectional", "Load SANA-Video Model"):
        prime(model=demo().bidirectional, image=picture())


def test_other_inputs_than_pictures_and_videos_are_refused():
    with refused("[1, 32, 48, 2]"):
        prime(image=picture()[..., :2])
    with refused("no video file"):
        prime(video=InputImpl.VideoFromFile("gone.mp4"))
