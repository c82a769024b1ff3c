"""Segments joined are the film of their frames, and the same frames always give the same segment."""

import json
import os
import re
import subprocess
import sys
from fractions import Fraction
from io import BytesIO
from itertools import pairwise
from pathlib import Path

import av
import pytest
import torch
from comfyui_sana_video.sana_video_core.errors import Cancelled, FileError, InputError
from comfyui_sana_video.sana_video_core.files import frame_encoder, growing_file
from comfyui_sana_video.sana_video_core.files.encoders import encoder_options
from comfyui_sana_video.sana_video_core.files.film_file import FilmFile
from comfyui_sana_video.sana_video_core.files.frame_encoder import THREADS
from comfyui_sana_video.sana_video_core.files.segments import (
    SegmentEncoder,
    encode_segment,
    encoder_version,
    opened_segment,
)
from comfyui_sana_video.sana_video_core.files.video_reader import read_frames, read_metadata
from comfyui_sana_video.sana_video_core.files.video_writer import VideoWriter
from comfyui_sana_video.sana_video_core.shapes import checked_fps
from support.video_files import boxes, grey, names, numbers_in

SIZE = (64, 96)  # height, width


def noisy(count, first=0, size=SIZE):
    """Frames [n, H, W, 3] of a moving texture, in which an encoder finds use for all it can."""
    height, width = size
    texture = torch.randint(256, (height + 128, width + 256, 3), generator=torch.Generator().manual_seed(0))
    places = range(first, first + count)
    return torch.stack([texture[n : n + height, 2 * n : 2 * n + width] for n in places]).byte()


def made(*counts, fps=16, size=SIZE):
    """Segments of so many frames each, which go on from one another."""
    places = [sum(counts[:index]) for index in range(len(counts))]
    return [
        encode_segment([noisy(count, place, size)], fps=fps)
        for place, count in zip(places, counts, strict=True)
    ]


def joined(path, parts, fps=16, **options):
    with FilmFile(path, fps=fps, **options) as film:
        for part in parts:
            film.append(part)
    return path


def shown(source):
    """Every frame as (time in seconds, its planes)."""
    with av.open(source if isinstance(source, BytesIO) else str(source)) as file:
        return [(frame.pts * frame.time_base, frame.to_ndarray().tobytes()) for frame in file.decode(video=0)]


def planes(*sources):
    return [picture for source in sources for _, picture in shown(source)]


# --- a segment


def test_a_segment_plays_by_itself_and_begins_with_a_key_frame():
    part = encode_segment([noisy(4), noisy(1, 4), noisy(36, 5)], fps=24)
    times, pictures = zip(*shown(BytesIO(part)), strict=True)
    assert times == tuple(Fraction(number, 24) for number in range(41))
    apart = torch.tensor(list(pictures[20]), dtype=torch.float32) - torch.tensor(list(pictures[21]))
    assert apart.abs().mean() > 10  # other pictures, not one repeated
    with av.open(BytesIO(part)) as file:
        context = file.streams.video[0].codec_context
        tags = (context.color_primaries, context.color_trc, context.colorspace, context.color_range)
        keys = [packet.is_keyframe for packet in file.demux(video=0) if packet.size]
    assert [int(tag) for tag in tags] == [1, 1, 1, 1]
    assert keys[0]
    assert sum(keys) >= 2  # a second apart, for seeking


def test_portions_and_forms_of_frames_make_no_difference():
    whole, encoder = encode_segment([noisy(9)], fps=16), SegmentEncoder(fps=16)
    for frame in noisy(9):
        encoder.write(frame[None])
    assert encoder.frames == 9
    assert encoder.finish() == whole
    pixels = noisy(9).movedim(3, 0)[None].double() / 127.5 - 1
    assert planes(BytesIO(encode_segment([pixels], fps=16))) == planes(BytesIO(whole))


def test_all_segments_of_one_kind_have_the_same_headers():
    found = set()
    for part in (*made(41, 40, 1, 2), encode_segment([torch.zeros(40, *SIZE, 3, dtype=torch.uint8)], fps=16)):
        with opened_segment(part, Fraction(16), 0) as opened:
            found.add(opened.headers)
    assert len(found) == 1


ENCODES = """
import sys, json, hashlib, av, numpy as np
from fractions import Fraction
options, threads = json.loads(sys.argv[1]), int(sys.argv[2])
for width, height in ((32, 32), (96, 64), (160, 128)):
    context = av.CodecContext.create("libx264", "w")
    context.width, context.height, context.pix_fmt, context.options = width, height, "yuv420p", options
    context.time_base, context.thread_type, context.thread_count = Fraction(1, 16), "FRAME", threads
    texture = np.random.default_rng(0).integers(0, 255, (height, width, 3), dtype=np.uint8)
    made = b""
    for number in [*range(25), None]:
        frame = None
        if number is not None:
            rolled = np.roll(texture, (number, 2 * number), (0, 1)) // 2
            frame = av.VideoFrame.from_ndarray(rolled, format="rgb24").reformat(format="yuv420p")
            frame.pts = number
        made += b"".join(map(bytes, context.encode(frame)))
    print(hashlib.sha256(made).hexdigest())
"""


def test_the_same_frames_give_the_same_bytes_whatever_lay_in_memory_before():
    """x264's macroblock tree reads memory that nobody wrote; glibc fills it as this variable says."""
    options = json.dumps(encoder_options("libx264", 18) | {"g": "16"})
    running = [
        subprocess.Popen(
            [sys.executable, "-c", ENCODES, options, str(THREADS)],
            env=os.environ | {"MALLOC_PERTURB_": fill},
            stdout=subprocess.PIPE,
            text=True,
        )
        for fill in ("0", "85", "170")
    ]
    said = {process.communicate()[0] for process in running}
    assert len(said) == 1
    assert len(said.pop().split()) == 3


def test_what_cannot_be_a_segment_is_refused():
    with pytest.raises(InputError, match="without frames"):
        encode_segment([], fps=16)
    with pytest.raises(InputError, match="even sides"):
        encode_segment([noisy(1, size=(63, 96))], fps=16)
    with pytest.raises(InputError, match=r"32x32.*96x64"):
        encode_segment([noisy(2), noisy(1, size=(32, 32))], fps=16)
    for options in ({"fps": 0}, {"fps": 16, "crf": 52}, {"fps": 16, "codec": "vp9"}):
        with pytest.raises(InputError, match=r"fps is 0|crf is 52|“vp9”"):
            SegmentEncoder(**options)


def test_a_segment_that_is_given_up_is_closed_at_once():
    """PyAV 16 crashes the process where a container in memory is forgotten open."""
    encoder = SegmentEncoder(fps=16)
    encoder.write(noisy(3))
    file, container = encoder._file, encoder._container
    assert b"moov" not in file.getvalue()
    del encoder
    assert b"moov" in file.getvalue()
    del container


def test_an_encoder_that_fails_says_what_to_do(monkeypatch):
    def refuses(*_):
        raise av.FFmpegError(22, "Invalid argument")

    monkeypatch.setattr(frame_encoder.FrameEncoder, "begin", refuses)
    with pytest.raises(FileError, match=r"Encoding failed \(Invalid argument\)\. Choose"):
        encode_segment([noisy(1)], fps=16)


def test_the_encoder_s_version_names_what_decides_the_bytes():
    said = encoder_version()
    for word in (av.__version__, "x264 - core", "mbtree=0", "libavcodec", '"threads": 8', "faster"):
        assert word in said, word
    assert encoder_version() == said


# --- joined


@pytest.mark.parametrize("fps", [16, 24, Fraction(24000, 1001), 29.97])
@pytest.mark.parametrize("counts", [(41, 40), (1, 40, 1, 1, 2), (1,)])
def test_joined_segments_are_their_frames_one_after_the_other(tmp_path, fps, counts):
    parts, count = made(*counts, fps=fps), sum(counts)
    path = joined(tmp_path / "a.mp4", parts, fps)
    assert planes(path) == planes(*map(BytesIO, parts))
    with av.open(str(path)) as file:
        stream = file.streams.video[0]
        assert (stream.frames, stream.start_time, stream.average_rate) == (count, 0, checked_fps(fps))
        assert float(stream.duration * stream.time_base) == pytest.approx(count / fps, abs=1e-3)
        times = [packet.dts for packet in file.demux(stream) if packet.size]
    assert all(earlier < later for earlier, later in pairwise(times))
    step = stream.time_base / 2
    for number, (moment, _) in enumerate(shown(path)):
        assert abs(moment - number / checked_fps(fps)) <= step
    assert boxes(path)[:2] == ["ftyp", "moov"]
    assert "moof" not in boxes(path)
    assert names(tmp_path) == ["a.mp4"]


def test_the_film_of_segments_shows_what_a_writer_s_does(tmp_path):
    """Lossless, so that only the pictures count: a writer places its key frames elsewhere."""
    parts = [encode_segment([noisy(count, first)], fps=16, crf=0) for count, first in ((41, 0), (40, 41))]
    with VideoWriter(tmp_path / "whole.mp4", crf=0) as writer:
        writer.write(noisy(81))
    assert planes(joined(tmp_path / "a.mp4", parts)) == planes(tmp_path / "whole.mp4")


def test_the_hidden_file_grows_by_whole_segments_that_play(tmp_path):
    parts = made(1, 40, 7)
    with FilmFile(tmp_path / "a.mp4", fps=16) as film:
        for number, part in enumerate(parts, 1):
            film.append(part)
            assert planes(film._partial) == planes(*map(BytesIO, parts[:number]))
            assert [16 * moment for moment, _ in shown(film._partial)] == list(range(film.frames))
            data = film._partial.read_bytes()
            numbers = [data[found.end() + 4 : found.end() + 8] for found in re.finditer(b"mfhd", data)]
            assert [int.from_bytes(found, "big") for found in numbers] == list(range(1, number + 1))
        assert film.frames == 48
        assert not (tmp_path / "a.mp4").exists()


def test_every_moment_can_be_sought(tmp_path):
    path = joined(tmp_path / "a.mp4", made(41, 40, 40))
    pictures = planes(path)
    with av.open(str(path)) as file:
        stream = file.streams.video[0]
        for number in (0, 15, 40, 41, 42, 80, 81, 120):
            file.seek(round(number / 16 / stream.time_base), stream=stream)
            decoded = list(file.decode(stream))
            first = round(decoded[0].pts * stream.time_base * 16)
            assert number - 16 < first <= number
            assert [frame.to_ndarray().tobytes() for frame in decoded] == pictures[first:]


def test_metadata_and_an_older_file(tmp_path):
    path = joined(tmp_path / "a.mp4", made(1), metadata={"seed": 7})
    with FilmFile(path, fps=16, metadata={"seed": 8}) as film:
        film.append(made(2)[0])
        assert read_metadata(path) == {"seed": 7}
        film.describe({"seed": 9})
    assert read_metadata(path) == {"seed": 9}
    with FilmFile(path, fps=16):
        pass
    assert read_metadata(path) == {"seed": 9}


# --- refused, stopped, killed


@pytest.mark.parametrize(
    "other, words",
    [
        (lambda: made(2, size=(32, 32))[0], r"32x32.*96x64.*one size"),
        (lambda: made(2, fps=24)[0], r"not 16 frames a second"),
        (lambda: (whole := made(5)[0])[: len(whole) // 2], r"cannot be read|damaged"),
        (lambda: b"", r"cannot be read"),
        (lambda: b"not an mp4" * 99, r"cannot be read"),
    ],
)
def test_a_part_that_does_not_fit_is_refused_and_nothing_is_lost(tmp_path, other, words):
    first, last = made(3, 2)
    with FilmFile(tmp_path / "a.mp4", fps=16) as film:
        film.append(first)
        with pytest.raises(FileError, match=words):
            film.append(other())
        assert film.frames == 3
        film.append(last)
    assert planes(tmp_path / "a.mp4") == planes(BytesIO(first), BytesIO(last))


def test_a_part_of_another_encoding_is_refused(tmp_path, monkeypatch):
    options = encoder_options("libx264", 18) | {"refs": "4"}
    first = made(3)[0]
    monkeypatch.setattr(
        "comfyui_sana_video.sana_video_core.files.frame_encoder.encoder_options", lambda *a: options
    )
    other = made(3)[0]
    with FilmFile(tmp_path / "a.mp4", fps=16) as film:
        film.append(first)
        with pytest.raises(FileError, match="encoded in another way"):
            film.append(other)


def test_a_closed_film_takes_nothing_more(tmp_path):
    film = FilmFile(tmp_path / "a.mp4", fps=16)
    film.append(made(1)[0])
    film.close()
    film.close()
    with pytest.raises(InputError, match="already closed"):
        film.append(made(1)[0])


@pytest.mark.parametrize("error", [KeyboardInterrupt, Cancelled, RuntimeError])
def test_an_exception_keeps_what_was_appended(tmp_path, error):
    parts = made(3, 2)
    with pytest.raises(error), FilmFile(tmp_path / "a.mp4", fps=16) as film:  # noqa: PT012
        for part in parts:
            film.append(part)
        raise error
    assert planes(tmp_path / "a.mp4") == planes(*map(BytesIO, parts))
    assert names(tmp_path) == ["a.mp4"]


class Full:
    """A file on a disk that has room for so many bytes more."""

    def __init__(self, file, room):
        self.file, self.room = file, room

    def write(self, data):
        if not self.room:
            raise OSError(28, "No space left on device")
        count, self.room = self.file.write(data[: self.room]), 0
        return count

    def __getattr__(self, name):
        return getattr(self.file, name)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.file.close()


@pytest.mark.parametrize("room", [0, 1, 100])
def test_a_write_that_fails_leaves_whole_segments_and_may_be_tried_again(tmp_path, monkeypatch, room):
    parts = made(3, 2)
    with FilmFile(tmp_path / "a.mp4", fps=16) as film:
        film.append(parts[0])
        size, opened = film._partial.stat().st_size, Path.open
        with monkeypatch.context() as patch:
            patch.setattr(Path, "open", lambda *a, **o: Full(opened(*a, **o), room))
            with pytest.raises(FileError, match=r"3 frames: No space.*kept"):
                film.append(parts[1])
        assert (film.frames, film._partial.stat().st_size) == (3, size)
        film.append(parts[1])
    assert planes(tmp_path / "a.mp4") == planes(*map(BytesIO, parts))


def test_segments_that_an_interrupt_left_uncounted_are_replaced(tmp_path):
    parts = made(3, 2, 7)
    with FilmFile(tmp_path / "a.mp4", fps=16) as film:
        film.append(parts[0])
        counted = vars(film).copy()
        film.append(parts[1])
        film.append(parts[2])
        vars(film).update(counted)
        film.append(parts[1])
    assert planes(tmp_path / "a.mp4") == planes(*map(BytesIO, parts[:2]))


def test_without_room_for_the_copy_the_fragments_take_the_name(tmp_path, monkeypatch):
    monkeypatch.setattr(growing_file, "_copy_as_ordinary_mp4", lambda *_: 0)
    parts = made(3, 2)
    path = joined(tmp_path / "a.mp4", parts, metadata={"seed": 7})
    assert "moof" in boxes(path)
    assert planes(path) == planes(*map(BytesIO, parts))
    assert read_metadata(path) == {"seed": 7}


def test_frames_of_a_joined_film_are_those_that_went_in(tmp_path):
    parts = [encode_segment([grey(*numbers)], fps=16) for numbers in (range(5), range(5, 6), range(6, 20))]
    assert numbers_in(read_frames(joined(tmp_path / "a.mp4", parts))) == list(range(20))
