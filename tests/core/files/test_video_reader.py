"""Reading videos: at another rate, at another size, and files that aren't videos."""

import re
from fractions import Fraction
from io import BytesIO

import av
import numpy as np
import pytest
import torch
from comfyui_sana_video.sana_video_core.errors import FileError, InputError
from comfyui_sana_video.sana_video_core.files import film as film_files
from comfyui_sana_video.sana_video_core.files import film_picture
from comfyui_sana_video.sana_video_core.files.film import Film
from comfyui_sana_video.sana_video_core.files.video_reader import nearest_frames, read_frames, read_metadata
from comfyui_sana_video.sana_video_core.files.video_writer import VideoWriter
from support.video_files import SIZE, film, numbers_in, with_matrix, write_numbers

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


@pytest.mark.parametrize("rate, count", [(30, 60), (Fraction(30000, 1001), 59), (12, 20), (60, 1)])
def test_pictures_in_memory_follow_the_same_law(tmp_path, rate, count):
    write_numbers(tmp_path / "a.mp4", count, fps=rate)
    assert nearest_frames(count, Fraction(rate), Fraction(16)) == numbers_in(read_frames(tmp_path / "a.mp4"))


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


# what a display matrix (a, b, c, d) makes of the corners of a picture: upper left, upper right, lower left,
# lower right; by hand, from x' = a·x + c·y, y' = b·x + d·y
CORNERS = {
    (1, 0, 0, 1): "1 2 3 4",
    (-1, 0, 0, 1): "2 1 4 3",  # a mirror
    (1, 0, 0, -1): "3 4 1 2",
    (-1, 0, 0, -1): "4 3 2 1",
    (0, 1, -1, 0): "3 1 4 2",  # a quarter clockwise
    (0, -1, 1, 0): "2 4 1 3",
    (0, 1, 1, 0): "1 3 2 4",
    (0, -1, -1, 0): "4 2 3 1",
}


@pytest.fixture
def corners(tmp_path):
    """A film of one frame with a different grey in each quarter."""
    picture = np.zeros((64, 96, 3), np.uint8)
    for number, (rows, columns) in enumerate(
        [(slice(32), slice(48)), (slice(32), slice(48, 96)), (slice(32, 64), slice(48))], 1
    ):
        picture[rows, columns] = 50 * number
    picture[32:, 48:] = 200
    return film(tmp_path / "a.mp4", [picture])


def seen(pixels):
    """The numbers in the corners of [1, 3, n, H, W]."""
    grey = (pixels[0, 1, 0] + 1) * 127.5
    places = [grey[row, column] for row in (8, -8) for column in (8, -8)]
    return " ".join(str(round(float(value) / 50)) for value in places)


@pytest.mark.parametrize("matrix", CORNERS)
def test_all_eight_ways_to_hold_a_camera_come_upright(corners, matrix):
    pixels = read_frames(with_matrix(corners, *matrix))
    assert tuple(pixels.shape[3:]) == ((96, 64) if matrix[0] == 0 else (64, 96))
    assert seen(pixels) == CORNERS[matrix]


@pytest.mark.parametrize("aspect, shape", [((4, 3), (64, 128)), ((1, 2), (128, 96)), ((0, 1), (64, 96))])
def test_pixels_that_are_not_square_are_drawn_out(tmp_path, aspect, shape):
    pictures = [np.full((64, 96, 3), 99, np.uint8)]
    film(tmp_path / "a.mkv", pictures, sample_aspect_ratio=Fraction(*aspect))
    assert tuple(read_frames(tmp_path / "a.mkv").shape[3:]) == shape


def test_pixels_are_drawn_out_before_the_film_is_turned(tmp_path):
    film(tmp_path / "a.mp4", [np.full((64, 96, 3), 99, np.uint8)], sample_aspect_ratio=Fraction(2))
    pixels = read_frames(with_matrix(tmp_path / "a.mp4", 0, 1, -1, 0))
    assert tuple(pixels.shape[3:]) == (192, 64)


# --- colours

# 8-bit Y, Cb, Cr of pure red, limited range: 16 + 219·Kr, 128 - 112·Kr/(1 - Kb), 240
RED = {"BT.601": (81, 90, 240), "BT.709": (63, 102, 240), "BT.2020": (74, 97, 240)}


def planes(values, size):
    """A frame whose planes hold these values."""
    frame = av.VideoFrame(*size, "yuv444p")
    for plane, value in zip(frame.planes, values, strict=True):
        plane.update(bytes([value]) * plane.buffer_size)
    return [frame]


@pytest.mark.parametrize(
    "size, matrix, tags",
    [
        ((704, 576), "BT.601", {}),
        ((1280, 720), "BT.709", {}),
        ((720, 1280), "BT.709", {}),  # a phone, upright
        ((960, 720), "BT.709", {}),
        ((1280, 544), "BT.709", {}),  # cinema
        ((1280, 720), "BT.601", {"colorspace": 6}),
        ((704, 576), "BT.709", {"colorspace": 1}),
        ((704, 576), "BT.2020", {"colorspace": 9}),
    ],
)
def test_colours_without_a_tag_are_taken_as_players_do(tmp_path, size, matrix, tags):
    film(tmp_path / "a.mp4", planes(RED[matrix], size), pix_fmt="yuv444p", **tags)
    red, green, blue = ((read_frames(tmp_path / "a.mp4")[0, :, 0, 99, 99] + 1) * 127.5).tolist()
    assert red > 250
    assert max(green, blue) < 6


@pytest.mark.parametrize("levels, black, white", [(1, 16, 235), (2, 0, 255)])
def test_the_range_of_levels_is_the_files(tmp_path, levels, black, white):
    frames = [planes((level, 128, 128), (96, 64))[0] for level in (black, white)]
    film(tmp_path / "a.mp4", frames, pix_fmt="yuv444p", color_range=levels)
    assert read_frames(tmp_path / "a.mp4", fps=None).mean((0, 1, 3, 4)).tolist() == pytest.approx(
        [-1, 1], abs=0.01
    )


def bright(path):
    """Greys of 0, a half and the whole signal, as a phone's HDR film (HLG, BT.2020, 10 bits)."""
    picture = np.zeros((64, 96, 3), np.uint8)
    picture[:, 32:64], picture[:, 64:] = 128, 255
    return film(path, [picture], pix_fmt="yuv420p10le", color_primaries=9, color_trc=18, colorspace=9)


@pytest.mark.skipif(av.library_versions["libavfilter"] < (11,), reason="needs FFmpeg 8 (PyAV 16)")
def test_an_hdr_film_is_tone_mapped(tmp_path):
    pixels = read_frames(bright(tmp_path / "a.mp4"))[0, :, 0, 32]
    black, grey, white = ((pixels[:, column].mean() + 1) * 127.5 for column in (16, 48, 80))
    assert black < 2
    assert white > 250
    # half an HLG signal is 51 of 1000 cd/m2: a quarter of SDR's white, 255·(51/203)^(1/2.4) = 143, less what
    # the highlights take
    assert 105 < grey < 125


def test_an_hdr_film_that_cannot_be_tone_mapped_is_told_once(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(film_picture, "_to_bt709", lambda frame, tags: "out_transfer=unknown")
    for _ in range(2):
        caplog.clear()
        assert read_frames(bright(tmp_path / "a.mp4"), fps=None).shape[2] == 1
        (record,) = caplog.records
        assert "a.mp4” is an HDR film" in record.getMessage()
        assert "Install PyAV 16" in record.getMessage()


@pytest.mark.parametrize("pix_fmt", ["yuv420p10le", "yuv444p10le"])
def test_more_than_eight_bits_are_read(tmp_path, pix_fmt):
    picture = np.linspace(0, 255, 96).astype(np.uint8)[None, :, None].repeat(64, 0).repeat(3, 2)
    film(tmp_path / "a.mp4", [picture], pix_fmt=pix_fmt)
    grey = ((read_frames(tmp_path / "a.mp4")[0, 1, 0, 32] + 1) * 127.5).numpy()
    assert abs(grey - picture[32, :, 0]).max() <= 3


# --- the end of a long film


@pytest.fixture(scope="module")
def long_film(tmp_path_factory):
    """30 seconds, with a key frame every two."""
    pictures = [np.full((32, 32, 3), 40 + number % 7 * 30, np.uint8) for number in range(720)]
    path = tmp_path_factory.mktemp("film") / "a.mp4"
    return film(path, pictures, rate=24, options={"g": "48", "preset": "ultrafast"})


@pytest.mark.parametrize("fps, last", [(16, 30), (None, 21), (24, 50)])
def test_the_end_is_found_by_seeking_and_is_the_same(long_film, monkeypatch, fps, last):
    everything = read_frames(long_film, fps=fps)
    moments, decoded = Film.moments, []
    monkeypatch.setattr(Film, "moments", lambda *a: (decoded.append(1) or m for m in moments(*a)))
    assert torch.equal(read_frames(long_film, fps=fps, last=last), everything[:, :, -last:])
    assert len(decoded) < 200, "of 720"


def test_the_end_of_a_film_with_uneven_times_and_a_late_start_is_the_same(tmp_path):
    times = np.cumsum(np.random.default_rng(0).integers(1, 6, 400)).tolist()
    pictures = [np.full((32, 32, 3), 40 + number % 7 * 30, np.uint8) for number in range(400)]
    path = film(tmp_path / "a.mkv", pictures, rate=24, times=[t + 100 for t in times], options={"g": "30"})
    everything = read_frames(path)
    for last in (20, 33, 40, 47, 60):
        assert torch.equal(read_frames(path, last=last), everything[:, :, -last:])


def test_a_part_of_a_film_is_read_by_itself(tmp_path):
    path = write_numbers(tmp_path / "a.mp4", 48)
    assert numbers_in(read_frames(path, start=0.5, duration=0.25)) == [8, 9, 10, 11]
    assert numbers_in(read_frames(path, start=2.5)) == list(range(40, 48))
    assert numbers_in(read_frames(path, duration=2, last=3)) == [29, 30, 31]
    assert numbers_in(read_frames(BytesIO(path.read_bytes()), start=2.5, last=3)) == [45, 46, 47]
    with pytest.raises(FileError, match=r"no frames after 9\.0 s"):
        read_frames(path, start=9, last=3)


def test_a_late_frame_is_refused_at_once(tmp_path):
    times = [*range(7), 2_000_000]
    film(tmp_path / "a.mp4", [np.zeros((64, 96, 3), np.uint8)] * 8, times=times)
    for last in (None, 161):
        with pytest.raises(FileError, match=r"one picture from 0\.4 to 125000\.0 s.*damaged"):
            read_frames(tmp_path / "a.mp4", last=last)


def test_a_long_still_is_read_at_once(tmp_path):
    film(tmp_path / "a.mkv", [np.full((64, 96, 3), v, np.uint8) for v in (0, 200)], times=[0, 8000])
    pixels = read_frames(tmp_path / "a.mkv", last=161, width=16, height=16)
    assert pixels.shape[2] == 161
    assert pixels.min() > 0


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


def test_a_file_that_may_not_be_read_is_a_sentence(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise av.error.PermissionError(13, "Permission denied")

    (tmp_path / "a.mp4").touch()
    monkeypatch.setattr(av, "open", refuse)  # as root, everything may be read
    for read in (read_frames, read_metadata):
        with pytest.raises(FileError, match=r"a\.mp4” may not be read"):
            read(tmp_path / "a.mp4")


def test_pictures_that_are_too_large_are_refused_before_one_is_decoded(tmp_path, monkeypatch):
    path = film(tmp_path / "a.mp4", [np.zeros((64, 96, 3), np.uint8)])
    monkeypatch.setattr(film_files, "LARGEST", 64 * 96 * 3 - 1)
    with pytest.raises(FileError, match=r"too large.*96x64"):
        read_frames(path)


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


def test_a_film_that_ends_early_is_read_as_far_as_it_goes_with_a_word(tmp_path, caplog):
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 96, 3), dtype=np.uint8)
    data = film(tmp_path / "a.mkv", list(noise)).read_bytes()
    whole = read_frames(tmp_path / "a.mkv", last=99)
    assert not caplog.records
    (tmp_path / "b.mkv").write_bytes(data[: len(data) // 2])
    pixels = read_frames(tmp_path / "b.mkv", last=99)
    assert 20 < pixels.shape[2] < 44
    assert torch.equal(pixels[:, :, :20], whole[:, :, :20])
    (record,) = caplog.records
    assert re.search(r"b\.mkv” ends early: its header says 4\.0 s, but only [12]\.\d s", record.getMessage())


def test_a_film_after_its_sound_in_the_file_is_read_to_its_end(tmp_path):
    """As some phones and Matroska write it. The decoder holds the last frames until it is emptied."""
    path = write_numbers(tmp_path / "a.mp4", 20)
    with av.open(str(path)) as film, av.open(str(tmp_path / "b.mkv"), "w") as container:
        sound = container.add_stream("pcm_s16le", rate=8000)
        video = container.add_stream_from_template(film.streams.video[0], opaque=True)
        samples = av.AudioFrame.from_ndarray(np.zeros((1, 16000), np.int16), format="s16", layout="stereo")
        samples.sample_rate, samples.pts = 8000, 0
        container.mux(sound.encode(samples))
        for packet in film.demux(video=0):
            if packet.size:
                packet.stream = video
                container.mux(packet)
    assert numbers_in(read_frames(tmp_path / "b.mkv")) == list(range(20))


def test_sound_that_lasts_longer_is_no_early_end(tmp_path, caplog):
    with av.open(str(tmp_path / "a.mkv"), "w") as container:
        video, sound = container.add_stream("libx264", rate=16), container.add_stream("pcm_s16le", rate=8000)
        video.width, video.height = 96, 64
        container.mux(video.encode(av.VideoFrame.from_ndarray(np.zeros((64, 96, 3), np.uint8))))
        container.mux(video.encode(None))
        for second in range(3):
            samples = av.AudioFrame.from_ndarray(
                np.zeros((1, 16000), np.int16), format="s16", layout="stereo"
            )
            samples.sample_rate, samples.pts = 8000, second * 8000
            container.mux(sound.encode(samples))
    assert read_frames(tmp_path / "a.mkv").shape[2] == 1
    assert not caplog.records


@pytest.mark.skipif(
    not hasattr(av.container.OutputContainer, "add_mux_stream"), reason="an older PyAV can't write them"
)
def test_subtitles_that_last_longer_are_no_early_end(tmp_path, caplog):
    with av.open(str(tmp_path / "a.mkv"), "w") as container:
        video, text = container.add_stream("libx264", rate=16), container.add_mux_stream("subrip", rate=0)
        video.width, video.height = 96, 64
        container.mux(video.encode(av.VideoFrame.from_ndarray(np.zeros((64, 96, 3), np.uint8))))
        container.mux(video.encode(None))
        packet = av.Packet(b"The end")
        packet.stream, packet.time_base = text, Fraction(1, 1000)
        packet.pts, packet.dts, packet.duration = 1000, 1000, 5000
        container.mux(packet)
    assert Film(tmp_path / "a.mkv").stated == 6
    assert read_frames(tmp_path / "a.mkv").shape[2] == 1
    assert not caplog.records


def test_an_avi_with_reordered_frames_is_read_in_order(tmp_path):
    pictures = [np.full((64, 96, 3), 4 * number + 10, np.uint8) for number in range(40)]
    film(tmp_path / "a.avi", pictures, max_b_frames=2)
    for options in ({}, {"fps": None}):
        assert numbers_in(read_frames(tmp_path / "a.avi", **options)) == list(range(40))
        assert numbers_in(read_frames(tmp_path / "a.avi", last=5, **options)) == list(range(35, 40))


def test_a_recording_that_never_got_its_index_says_so(tmp_path):
    data = film(tmp_path / "a.mp4", [np.zeros((64, 96, 3), np.uint8)] * 8).read_bytes()
    (tmp_path / "a.mp4").write_bytes(data[: data.index(b"moov") - 4])
    for read in (read_frames, read_metadata):
        with pytest.raises(FileError, match=r"a\.mp4” ends early: the index"):
            read(tmp_path / "a.mp4")


def test_of_several_films_in_a_file_the_first_is_read_and_cover_art_is_none(tmp_path):
    with av.open(str(tmp_path / "a.mp4"), "w") as container:
        streams = [container.add_stream(codec, rate=16) for codec in ("mjpeg", "libx264", "libx264")]
        for stream in streams:
            stream.width, stream.height = 96, 64
            stream.pix_fmt = "yuvj420p" if stream is streams[0] else "yuv420p"
        streams[0].disposition = av.stream.Disposition.attached_pic.value
        for stream, grey in zip(streams, (200, 0, 100), strict=True):
            frame = av.VideoFrame.from_ndarray(np.full((64, 96, 3), grey, np.uint8))
            container.mux(stream.encode(frame.reformat(format=stream.pix_fmt)))
            container.mux(stream.encode(None))
    assert read_frames(tmp_path / "a.mp4").max() < -0.9


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
