"""Pictures, or the end of a video, as the beginning of a stream."""

from dataclasses import replace

import pytest
import torch
from comfyui_sana_video.sana_video_core.config import WAN_2_1
from comfyui_sana_video.sana_video_core.vae.statistics import to_model_space
from support.pack import Pack, same

PACK = Pack()
priming, errors, image_file, video_writer, video_reader = (
    PACK.core(name)
    for name in (
        "streaming.priming",
        "errors",
        "files.image_file",
        "files.video_writer",
        "files.video_reader",
    )
)
LONGSANA = PACK.core("config").LONGSANA_480P


def pictures(count, height=20, width=30, channels=3):
    return torch.rand(count, height, width, channels, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("count, batch", [(1, 1), (1, 3), (3, 3)])
def test_rows_are_first_frames(count, batch):
    images = pictures(count)
    rows = priming.image_rows(images, batch, width=32, height=16)
    assert rows.shape == (count, 3, 1, 16, 32)
    for row, image in zip(rows, images, strict=True):
        assert same(row, image_file.fit_images(image[None], width=32, height=16)[0])
    assert rows.min() < -0.5
    assert rows.max() > 0.5


@pytest.mark.parametrize("count, batch", [(2, 1), (2, 3), (5, 4)])
def test_as_many_pictures_as_rows_or_one(count, batch):
    with pytest.raises(
        errors.InputError, match=f"{count} images were given for a batch of {batch}.*video input"
    ):
        priming.image_rows(pictures(count), batch, width=32, height=16)


def test_the_beginning_keeps_the_last_whole_frames():
    """Frames count up, so that a wrong end shows."""
    pixels = torch.arange(11.0).view(1, 1, 11, 1, 1).expand(1, 3, 11, 8, 8)
    encoded = []

    def vae(frames):
        encoded.append(frames)
        return torch.full((1, 16, 3, 1, 1), 2.0)

    latents = priming.encode_beginning(vae, pixels, LONGSANA)
    assert encoded[0][0, 0, :, 0, 0].tolist() == [2, 3, 4, 5, 6, 7, 8, 9, 10]
    assert same(latents, to_model_space(torch.full((1, 16, 3, 1, 1), 2.0), WAN_2_1))


def grey_video(path, frames, fps=16):
    """Grey that rises frame by frame."""
    with video_writer.VideoWriter(path, fps=fps) as writer:
        writer.write(torch.linspace(-1, 1, frames).view(1, frames, 1, 1).expand(3, -1, 32, 64))
    return path


def test_the_end_of_a_video_at_the_familys_rate_and_size(tmp_path):
    path = grey_video(tmp_path / "a.mp4", 24, fps=32)
    frames = priming.video_end(path, LONGSANA, width=48, height=32)
    assert frames.shape == (1, 3, 12, 32, 48)
    assert same(frames, video_reader.read_frames(path, fps=16, width=48, height=32))
    assert frames[0, 0, -1].mean() > 0.8


def test_no_more_frames_than_a_scene_has_room_for(tmp_path):
    small = replace(LONGSANA, chunks=replace(LONGSANA.chunks, limit=3))
    frames = priming.video_end(grey_video(tmp_path / "a.mp4", 24), small, width=64, height=32)
    assert frames.shape[2] == 9
    assert same(frames, video_reader.read_frames(tmp_path / "a.mp4", width=64, height=32)[:, :, -9:])


def test_a_missing_video_is_refused(tmp_path):
    with pytest.raises(errors.FileError, match="no video file"):
        priming.video_end(tmp_path / "gone.mp4", LONGSANA, width=64, height=32)
