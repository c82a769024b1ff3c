"""Reading videos: at another rate, at another size, and files that aren't videos."""

import struct
from fractions import Fraction

import av
import numpy as np
import pytest
import torch
from comfyui_sana_video.sana_video_core.errors import FileError, InputError
from comfyui_sana_video.sana_video_core.files.video_reader import read_frames, read_metadata
from comfyui_sana_video.sana_video_core.files.video_writer import VideoWriter
from support.video_files import SIZE, numbers_in, write_numbers

# --- another rate, another size


@pytest.mark.parametrize(
    "fps, count", [(30, 60), (24, 48), (8, 10), (16, 33), (Fraction(30000, 1001), 59), (60, 1)]
)
def test_resampling_takes_the_nearest_frames(tmp_path, fps, count):
    write_numbers(tmp_path / "a.mp4", count, fps=fps)
    length = max(1, int(Fraction(count) / fps * 16 + Fraction(1, 2)))
    numbers = numbers_in(read_frames(tmp_path / "a.mp4", fps=16))
    assert len(numbers) == length
    for index, number in enumerate(numbers):
        distances = [abs(Fraction(k) / fps - Fraction(index, 16)) for k in range(count)]
        assert distances[number] - min(distances) <= Fraction(1, 5000), f"frame {index} is {number}"


def test_thirty_to_sixteen_by_hand(tmp_path):
    write_numbers(tmp_path / "a.mp4", 30, fps=30)
    expected = [0, 2, 4, 6, 7, 9, 11, 13, 15, 17, 19, 21, 22, 24, 26, 28]
    assert numbers_in(read_frames(tmp_path / "a.mp4")) == expected


def test_without_fps_every_frame_is_taken(tmp_path):
    write_numbers(tmp_path / "a.mp4", 30, fps=30)
    assert numbers_in(read_frames(tmp_path / "a.mp4", fps=None)) == list(range(30))


def test_uneven_times_are_respected(tmp_path):
    with av.open(str(tmp_path / "a.mkv"), "w") as container:
        stream = container.add_stream("libx264", rate=16, options={"crf": "1", "bf": "0"})
        stream.width, stream.height = 96, 64
        for number, milliseconds in enumerate([500, 562, 625, 1000, 1062]):
            frame = av.VideoFrame.from_ndarray(np.full((64, 96, 3), 4 * number + 10, np.uint8))
            frame.pts, frame.time_base = milliseconds, Fraction(1, 1000)
            stream.codec_context.time_base = Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    numbers = numbers_in(read_frames(tmp_path / "a.mkv", fps=16))
    assert numbers == [0, 1, 2, 2, 2, 2, 3, 3, 3, 4]


@pytest.mark.parametrize("last, expected", [(1, [39]), (5, [35, 36, 37, 38, 39]), (100, list(range(40)))])
def test_last_keeps_the_end(tmp_path, last, expected):
    write_numbers(tmp_path / "a.mp4", 40)
    assert numbers_in(read_frames(tmp_path / "a.mp4", last=last)) == expected


def test_last_counts_frames_of_the_new_rate(tmp_path):
    write_numbers(tmp_path / "a.mp4", 30, fps=30)
    assert numbers_in(read_frames(tmp_path / "a.mp4", last=3)) == [24, 26, 28]


def test_frames_fill_the_size_and_are_center_cropped(tmp_path):
    picture = torch.full((3, 2, 64, 192), -1.0)
    picture[0, ..., :64] = picture[1, ..., 64:128] = picture[2, ..., 128:] = 1  # red, green, blue squares
    with VideoWriter(tmp_path / "a.mp4") as writer:
        writer.write(picture)
    square = read_frames(tmp_path / "a.mp4", width=31, height=33)
    assert square.shape == (1, 3, 2, 33, 31)
    assert (square[0, 1, :, 4:-4, 4:-4] > 0.9).all(), "the green square is the middle"
    assert (square[0, [0, 2], :, 4:-4, 4:-4] < -0.9).all()
    # half the size, half the height cut off
    wide = read_frames(tmp_path / "a.mp4", width=96, height=16)[0, :, 0]
    assert wide[:, 8, 16].sign().tolist() == [1, -1, -1]
    assert wide[:, 8, 80].sign().tolist() == [-1, -1, 1]


def test_a_video_from_a_phone_stands_upright(tmp_path):
    picture = torch.full((3, 1, 64, 96), -1.0)
    picture[0, ..., :48] = 1  # the left half is red
    with VideoWriter(tmp_path / "a.mp4") as writer:
        writer.write(picture)
    data = bytearray((tmp_path / "a.mp4").read_bytes())
    matrix = data.index(b"tkhd") + 4 + 40  # after version, times, track, duration, layer, volume
    turned = struct.pack(">9i", 0, 1 << 16, 0, -1 << 16, 0, 0, 0, 0, 1 << 30)  # by 90 degrees, clockwise
    data[matrix : matrix + 36] = turned
    (tmp_path / "a.mp4").write_bytes(data)
    pixels = read_frames(tmp_path / "a.mp4")
    assert pixels.shape == (1, 3, 1, 96, 64)
    assert pixels[0, 0, 0, 10, 32] > 0.9, "what was left is above"
    assert pixels[0, 0, 0, 85, 32] < -0.9


@pytest.mark.parametrize("options", [{"width": 32}, {"height": 32}, {"last": 0}, {"fps": 0}, {"fps": -1}])
def test_impossible_options_are_refused(tmp_path, options):
    write_numbers(tmp_path / "a.mp4", 1)
    with pytest.raises(InputError, match=next(iter(options))):
        read_frames(tmp_path / "a.mp4", **options)


# --- files that aren't videos


def test_missing_files_are_refused(tmp_path):
    for read in (read_frames, read_metadata):
        for path in (tmp_path / "no.mp4", tmp_path, "http://localhost:9/a.mp4"):
            with pytest.raises(FileError, match="no video file"):
                read(path)


@pytest.mark.parametrize("content", [b"", b"hello world\n" * 100, bytes(range(256)) * 100])
def test_other_files_are_refused(tmp_path, content):
    (tmp_path / "a.mp4").write_bytes(content)
    for read in (read_frames, read_metadata):
        with pytest.raises(FileError, match=r"a\.mp4.*cannot be read as a video.*export it again"):
            read(tmp_path / "a.mp4")


@pytest.mark.parametrize("keep", [0.02, 0.5, 0.9, 0.999])
def test_a_truncated_video_is_refused(tmp_path, keep):
    with VideoWriter(tmp_path / "a.mp4") as writer:
        writer.write(torch.rand(3, 40, *SIZE, generator=torch.Generator().manual_seed(0)))
    data = (tmp_path / "a.mp4").read_bytes()
    (tmp_path / "a.mp4").write_bytes(data[: int(keep * len(data))])
    with pytest.raises(FileError, match=r"a\.mp4.*cut off"):
        read_frames(tmp_path / "a.mp4")


def test_sound_alone_is_refused(tmp_path):
    with av.open(str(tmp_path / "a.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=44100)
        frame = av.AudioFrame.from_ndarray(np.zeros((2, 1024), np.float32), format="fltp", layout="stereo")
        frame.sample_rate = 44100
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    with pytest.raises(FileError, match="no pictures"):
        read_frames(tmp_path / "a.mp4")


def test_a_video_without_frames_is_refused(tmp_path):
    data = write_numbers(tmp_path / "a.mp4", 3).read_bytes()
    (tmp_path / "a.mp4").write_bytes(data[: data.index(b"mdat") + 4])
    for fps in (16, None):
        with pytest.raises(FileError, match="no frames"):
            read_frames(tmp_path / "a.mp4", fps=fps)
