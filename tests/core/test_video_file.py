"""Video files: what goes in comes out, and whatever interrupts a writing, a playable file or none is left."""

import os
import re
import signal
import struct
import subprocess
import sys
import textwrap
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from comfyui_sana_video.sana_video_core import image_file, video_file
from comfyui_sana_video.sana_video_core.errors import Cancelled, FileError, InputError
from comfyui_sana_video.sana_video_core.video_file import VideoWriter
from comfyui_sana_video.sana_video_core.video_reading import read_frames, read_metadata

ROOT = Path(__file__).resolve().parents[2]
SIZE = (64, 96)  # height, width
posix = pytest.mark.skipif(os.name != "posix", reason="signals and limits of POSIX")


def grey(*numbers, size=SIZE):
    """One frame [3, 1, H, W] per number, whose brightness tells the number (0 … 59)."""
    return torch.cat([torch.full((3, 1, *size), (4 * number + 10.5) / 127.5 - 1) for number in numbers], 1)


def numbers_in(pixels):
    """The numbers that `grey` put into [1, 3, n, H, W]."""
    return ((pixels.mean((0, 1, 3, 4)) + 1) * 127.5 - 10.5).div(4).round().long().tolist()


def write_numbers(path, count, **options):
    with VideoWriter(path, **options) as writer:
        writer.write(grey(*range(count)))
    return path


def boxes(path):
    """The names of an MP4's outermost boxes."""
    data, position, names = path.read_bytes(), 0, []
    while position + 8 <= len(data):
        length, name = struct.unpack_from(">I4s", data, position)
        names.append(name.decode("latin-1"))
        position += max(length, 8)
    return names


def names(folder):
    return sorted(file.name for file in folder.iterdir())


def run_python(code, *arguments, **options):
    """Start a Python that has imported this checkout and runs `code`."""
    head = f"import sys; sys.path.insert(0, {str(ROOT / 'tests')!r}); import conftest, torch, time\n"
    head += "from comfyui_sana_video.sana_video_core.video_file import VideoWriter\n"
    head += "from comfyui_sana_video.sana_video_core.video_reading import read_frames\n"
    command = [sys.executable, "-c", head + textwrap.dedent(code), *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)


# --- writing and reading back ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 2, 41])
def test_every_frame_comes_back_in_order(tmp_path, count):
    pixels = read_frames(write_numbers(tmp_path / "a.mp4", count))
    assert pixels.shape == (1, 3, count, *SIZE)
    assert pixels.dtype == torch.float32
    assert numbers_in(pixels) == list(range(count))
    assert names(tmp_path) == ["a.mp4"]


@pytest.mark.parametrize("fps", [16, 24, Fraction(30000, 1001)])
def test_rate_and_length_are_right(tmp_path, fps):
    write_numbers(tmp_path / "a.mp4", 50, fps=fps)
    with av.open(str(tmp_path / "a.mp4")) as container:
        stream = container.streams.video[0]
        assert stream.average_rate == fps
        assert stream.frames == 50
        assert stream.start_time == 0
        assert float(stream.duration * stream.time_base) == pytest.approx(50 / fps, abs=1e-3)
        times = [frame.pts * frame.time_base for frame in container.decode(stream)]
    assert [round(moment * fps) for moment in times] == list(range(50))


def test_frames_may_come_in_any_portions_types_and_shapes(tmp_path):
    with VideoWriter(tmp_path / "a.mp4") as writer:
        writer.write(grey(0, 1, 2))
        assert writer.frames == 3
        writer.write(grey(3)[None].double())
        writer.write(grey(4, 5).to(torch.bfloat16))
        writer.write(grey(6).half().requires_grad_())
        assert writer.frames == 7
    assert numbers_in(read_frames(tmp_path / "a.mp4")) == list(range(7))


def test_finished_file_is_an_ordinary_mp4_with_its_index_first(tmp_path):
    write_numbers(tmp_path / "a.mp4", 40)
    found = boxes(tmp_path / "a.mp4")
    assert "moof" not in found
    assert found.index("moov") < found.index("mdat")
    with av.open(str(tmp_path / "a.mp4")) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.pix_fmt) == ("h264", "yuv420p")
        container.seek(int(1.5 / stream.time_base), stream=stream)
        first = next(container.decode(stream))
        assert 0.4 < float(first.pts * stream.time_base) <= 1.5, "there is no key frame to seek to"


def test_colours_are_right_and_tagged(tmp_path):
    colours = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255), "grey": (128, 128, 128)}
    luma = {
        "red": 63,
        "green": 173,
        "blue": 32,
        "grey": 126,
    }  # 16 + 219·(0.2126 R + 0.7152 G + 0.0722 B): BT.709
    bars = torch.cat([torch.tensor(c).view(3, 1, 1, 1).expand(3, 3, 64, 32) for c in colours.values()], 3)
    with VideoWriter(tmp_path / "a.mp4") as writer:
        writer.write(bars / 127.5 - 1)
    pixels = (read_frames(tmp_path / "a.mp4")[0, :, 1] + 1) * 127.5
    with av.open(str(tmp_path / "a.mp4")) as container:
        frame = next(container.decode(video=0))
        context = container.streams.video[0].codec_context
        tags = (context.color_primaries, context.color_trc, context.colorspace, context.color_range)
        planes = frame.to_ndarray()
    assert [int(tag) for tag in tags] == [1, 1, 1, 1]
    for index, (name, wanted) in enumerate(colours.items()):
        column = 32 * index + 16
        assert abs(int(planes[32, column]) - luma[name]) <= 1, name
        assert pixels[:, 32, column].sub(torch.tensor(wanted)).abs().max() <= 4, name


def test_metadata_survives(tmp_path):
    metadata = {
        "prompts": [{"text": "猫 “jumps”\n\x00\ttwice; x=1 \\ 🐈", "chunks": 3}]
        * 2000,  # more than 16 bits can count
        "seed": 2**63,
        "plan": [11, 10, 10],
        "nothing": None,
    }
    write_numbers(tmp_path / "a.mp4", 20, metadata=metadata)
    assert read_metadata(tmp_path / "a.mp4") == metadata


def test_metadata_that_json_has_no_word_for_becomes_text(tmp_path):
    write_numbers(tmp_path / "a.mp4", 1, metadata={"path": Path("x"), (1, 2): 3})
    assert read_metadata(tmp_path / "a.mp4") == {"path": "x"}


@pytest.mark.parametrize("comment", [None, "made by hand", "[1, 2]"])
def test_foreign_metadata_is_none_of_ours(tmp_path, comment):
    with av.open(str(tmp_path / "a.mp4"), "w") as container:
        if comment is not None:
            container.metadata["comment"] = comment
        stream = container.add_stream("libx264", rate=16)
        stream.width, stream.height = 32, 32
        container.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8))))
        container.mux(stream.encode(None))
    assert read_metadata(tmp_path / "a.mp4") == {}


# --- what cannot work is said ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "pixels, words",
    [
        (torch.zeros(3, 2, 63, 96), "even sides"),
        (torch.zeros(3, 2, 64, 95), "even sides"),
        (torch.zeros(2, 3, 1, 64, 96), "per batch row"),
        (torch.zeros(3, 64, 96), r"\[3, frames, height, width\]"),
        (torch.zeros(3, 1, 64, 96, dtype=torch.uint8), "floating-point"),
    ],
)
def test_frames_that_cannot_be_written_are_refused(tmp_path, pixels, words):
    with pytest.raises(InputError, match=words), VideoWriter(tmp_path / "a.mp4") as writer:
        writer.write(pixels)
    assert names(tmp_path) == []


def test_a_change_of_size_is_refused_and_the_frames_before_are_kept(tmp_path):
    with pytest.raises(InputError, match=r"32x32.*96x64"), VideoWriter(tmp_path / "a.mp4") as writer:  # noqa: PT012
        writer.write(grey(0, 1))
        writer.write(grey(2, size=(32, 32)))
    assert numbers_in(read_frames(tmp_path / "a.mp4")) == [0, 1]


@pytest.mark.parametrize(
    "name, options, words",
    [
        ("a.avi", {}, r"\.mp4"),
        ("a.mp4", {"fps": 0}, "fps is 0"),
        ("a.mp4", {"fps": float("nan")}, "fps is nan"),
        ("a.mp4", {"crf": 52}, "crf is 52"),
        ("a.mp4", {"codec": "vp9"}, "“vp9”.*h264"),
    ],
)
def test_impossible_options_are_refused_before_any_work(tmp_path, name, options, words):
    with pytest.raises(InputError, match=words):
        VideoWriter(tmp_path / name, **options)
    assert names(tmp_path) == []


def test_a_missing_encoder_is_said_before_any_work(tmp_path, monkeypatch):
    monkeypatch.setitem(video_file.ENCODERS, "h264", "libnothing264")
    with pytest.raises(FileError, match=r"cannot write h264.*libnothing264.*pip install"):
        VideoWriter(tmp_path / "a.mp4")
    assert names(tmp_path) == []


def test_a_folder_that_cannot_be_written_is_said_before_any_work(tmp_path):
    (tmp_path / "file").touch()
    for folder in ("missing", "file"):
        with pytest.raises(FileError, match=r"a\.mp4.*Choose a folder that exists"):
            VideoWriter(tmp_path / folder / "a.mp4")


def test_a_closed_writer_takes_nothing_more(tmp_path):
    writer = VideoWriter(tmp_path / "a.mp4")
    writer.write(grey(0))
    writer.close()
    before = (tmp_path / "a.mp4").read_bytes()
    writer.close()
    with pytest.raises(InputError, match="already closed"):
        writer.write(grey(1))
    assert (tmp_path / "a.mp4").read_bytes() == before


# --- interruptions --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [KeyboardInterrupt, Cancelled, RuntimeError])
@pytest.mark.parametrize("count", [1, 7, 37])
def test_an_exception_leaves_a_whole_file_of_the_finished_frames(tmp_path, error, count):
    with pytest.raises(error, match="stop"), VideoWriter(tmp_path / "a.mp4") as writer:  # noqa: PT012
        writer.write(grey(*range(count)))
        raise error("stop")
    assert numbers_in(read_frames(tmp_path / "a.mp4")) == list(range(count))
    assert "moof" not in boxes(tmp_path / "a.mp4")
    assert names(tmp_path) == ["a.mp4"]


@posix
def test_ctrl_c_in_the_middle_of_encoding_loses_no_packet(tmp_path):
    """The alarm comes while x264 works; Python raises then at the next opportunity between two of its own steps."""

    def interrupt(number, frame):
        raise KeyboardInterrupt

    older = signal.signal(signal.SIGALRM, interrupt)
    try:
        for attempt in range(12):
            path = tmp_path / f"{attempt}.mp4"
            with pytest.raises(KeyboardInterrupt), VideoWriter(path) as writer:  # noqa: PT012
                writer.write(grey(0, size=(256, 384)))
                signal.setitimer(signal.ITIMER_REAL, 0.05 + 0.007 * attempt)
                for number in range(1, 10_000):
                    writer.write(grey(number % 50, size=(256, 384)))
            found = numbers_in(read_frames(path))
            assert found == [number % 50 for number in range(writer.frames)]
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, older)


@pytest.mark.parametrize("error", [None, KeyboardInterrupt])
def test_without_a_frame_the_older_file_stays(tmp_path, error):
    before = write_numbers(tmp_path / "a.mp4", 3).read_bytes()
    try:
        with VideoWriter(tmp_path / "a.mp4"):
            if error is not None:
                raise error
    except KeyboardInterrupt:
        assert error is KeyboardInterrupt
    assert (tmp_path / "a.mp4").read_bytes() == before
    assert names(tmp_path) == ["a.mp4"]


def test_the_older_file_stays_until_the_new_one_is_whole(tmp_path):
    before = write_numbers(tmp_path / "a.mp4", 3).read_bytes()
    with VideoWriter(tmp_path / "a.mp4") as writer:
        writer.write(grey(*range(40)))
        assert (tmp_path / "a.mp4").read_bytes() == before
    assert len(numbers_in(read_frames(tmp_path / "a.mp4"))) == 40


@posix
def test_a_killed_process_never_touches_the_name_and_the_next_writer_cleans_up(tmp_path):
    before = write_numbers(tmp_path / "a.mp4", 3).read_bytes()
    process = run_python(
        """
        writer = VideoWriter(sys.argv[1])
        while True:
            writer.write(torch.rand(3, 8, 64, 96))
            if writer.frames == 160:
                print("ready", flush=True)
        """,
        tmp_path / "a.mp4",
    )
    try:
        assert process.stdout.readline() == "ready\n", process.stderr.read()
    finally:
        process.kill()
        process.communicate()
    assert (tmp_path / "a.mp4").read_bytes() == before
    assert names(tmp_path) == [".a.partial.mp4", "a.mp4"]
    (tmp_path / ".a.whole.mp4").touch()  # as if it had been killed while copying
    write_numbers(tmp_path / "a.mp4", 5)
    assert names(tmp_path) == ["a.mp4"]
    assert numbers_in(read_frames(tmp_path / "a.mp4")) == list(range(5))


DISK_FULL = """
import resource, signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), int(sys.argv[2])))
noise = torch.Generator().manual_seed(0)
try:
    with VideoWriter(sys.argv[1], metadata={"seed": 7}) as writer:
        for number in range(0, 60, 5):
            dark = torch.arange(number, number + 5).view(1, 5, 1, 1) * 4 + 10.5
            writer.write((dark + torch.randint(-10, 11, (3, 5, 64, 96), generator=noise)) / 127.5 - 1)
except Exception as error:
    print(type(error).__name__, error)
"""


@posix
@pytest.mark.parametrize("room, least", [(40_000, 15), (70_000, 30)])
def test_a_full_disk_keeps_the_fragments_that_are_whole(tmp_path, room, least):
    process = run_python(DISK_FULL, tmp_path / "a.mp4", room)
    said, failed = process.communicate(timeout=60)
    assert said.startswith("FileError"), said + failed
    assert re.search("File too large|did not reach the disk", said)
    assert re.search("[Ff]ree some space", said)
    found = numbers_in(read_frames(tmp_path / "a.mp4"))
    assert least <= len(found) < 60
    assert f"Only {len(found)} of the " in said + failed
    assert found == list(range(len(found)))
    assert read_metadata(tmp_path / "a.mp4") == {"seed": 7}
    assert names(tmp_path) == ["a.mp4"]


@posix
def test_a_disk_that_is_full_from_the_start_leaves_the_older_file(tmp_path):
    before = write_numbers(tmp_path / "a.mp4", 3).read_bytes()
    process = run_python(DISK_FULL, tmp_path / "a.mp4", 600)
    said, failed = process.communicate(timeout=60)
    assert said.startswith("FileError"), said + failed
    assert "Only 0 of the " in said + failed
    assert (tmp_path / "a.mp4").read_bytes() == before
    assert names(tmp_path) == ["a.mp4"]


@pytest.mark.parametrize("reported", [True, False])
def test_without_room_for_the_copy_the_fragmented_file_takes_the_name(tmp_path, monkeypatch, reported):
    """FFmpeg does not report every write that failed at a file's end; then only the cut-off copy tells."""

    def no_room(source, target):
        assert original(source, target) == 40
        os.truncate(target, target.stat().st_size - 1)
        return 0 if reported else video_file._whole_frames(target)

    original = video_file._copy_as_ordinary_mp4
    monkeypatch.setattr(video_file, "_copy_as_ordinary_mp4", no_room)
    write_numbers(tmp_path / "a.mp4", 40, metadata={"seed": 7})
    assert "moof" in boxes(tmp_path / "a.mp4")
    assert numbers_in(read_frames(tmp_path / "a.mp4")) == list(range(40))
    assert read_metadata(tmp_path / "a.mp4") == {"seed": 7}
    assert names(tmp_path) == ["a.mp4"]


def test_a_copy_that_cannot_be_written_counts_as_nothing(tmp_path):
    write_numbers(tmp_path / "a.mp4", 5)
    assert video_file._copy_as_ordinary_mp4(tmp_path / "a.mp4", tmp_path / "missing" / "b.mp4") == 0


def test_a_name_that_is_a_folder_is_said_and_nothing_is_left(tmp_path):
    (tmp_path / "a.mp4").mkdir()
    with pytest.raises(FileError, match=r"a\.mp4.*failed after 2 frames"):
        write_numbers(tmp_path / "a.mp4", 2)
    assert names(tmp_path) == ["a.mp4"]


def test_a_failed_closing_does_not_hide_the_exception_of_the_block(tmp_path, caplog):
    (tmp_path / "a.mp4").mkdir()
    with pytest.raises(Cancelled), VideoWriter(tmp_path / "a.mp4") as writer:  # noqa: PT012
        writer.write(grey(0))
        raise Cancelled
    assert "failed after 1 frames" in caplog.text


# --- memory ---------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux's /proc")
def test_memory_stays_constant_while_writing_and_while_reading_the_end(tmp_path):
    process = run_python(
        """
        def memory(field):
            lines = dict(line.split(":") for line in open("/proc/self/status"))
            return int(lines[field].split()[0]) / 2**10  # MiB
        with VideoWriter(sys.argv[1]) as writer:
            for chunk in range(30):
                if chunk == 12:
                    early = memory("VmRSS")
                writer.write(torch.full((3, 10, 256, 384), chunk / 30))
            print(memory("VmRSS") - early)
        read_frames(sys.argv[1], last=3)
        open("/proc/self/clear_refs", "w").write("5")  # sets VmHWM, the peak, back to the present
        early = memory("VmRSS")
        read_frames(sys.argv[1], last=3)
        print(memory("VmHWM") - early)
        """,
        tmp_path / "a.mp4",
    )
    said, failed = process.communicate(timeout=60)
    assert process.returncode == 0, failed
    written, read = map(float, said.split())
    # 180 frames of 256x384 are 51 MiB as bytes; all 300 are 42 MiB as decoded, 84 MiB as bytes, 337 MiB as float32.
    assert written < 25
    assert read < 25


def test_writer_holds_no_frames(tmp_path):
    import weakref

    with VideoWriter(tmp_path / "a.mp4") as writer:
        pixels = grey(*range(10))
        reference = weakref.ref(pixels)
        writer.write(pixels)
        del pixels
        assert reference() is None


def test_only_the_frames_that_are_kept_are_scaled(tmp_path, monkeypatch):
    write_numbers(tmp_path / "a.mp4", 40)
    calls = []
    original = image_file.fill_and_crop
    monkeypatch.setattr(image_file, "fill_and_crop", lambda *a: calls.append(1) or original(*a))
    read_frames(tmp_path / "a.mp4", last=5, width=32, height=32)
    assert len(calls) == 5


# --- another rate, another size -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fps, count", [(30, 60), (24, 48), (8, 10), (16, 33), (Fraction(30000, 1001), 59), (60, 1)]
)
def test_resampling_takes_the_nearest_frames(tmp_path, fps, count):
    write_numbers(tmp_path / "a.mp4", count, fps=fps)
    length = max(1, int(Fraction(count) / fps * 16 + Fraction(1, 2)))
    found = numbers_in(read_frames(tmp_path / "a.mp4", fps=16))
    assert len(found) == length
    for index, number in enumerate(found):
        distances = [abs(Fraction(k) / fps - Fraction(index, 16)) for k in range(count)]
        assert distances[number] - min(distances) <= Fraction(1, 5000), f"frame {index} is {number}"


def test_thirty_to_sixteen_by_hand(tmp_path):
    write_numbers(tmp_path / "a.mp4", 30, fps=30)
    assert numbers_in(read_frames(tmp_path / "a.mp4")) == [
        0,
        2,
        4,
        6,
        7,
        9,
        11,
        13,
        15,
        17,
        19,
        21,
        22,
        24,
        26,
        28,
    ]


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
    found = numbers_in(read_frames(tmp_path / "a.mkv", fps=16))
    assert found == [0, 1, 2, 2, 2, 2, 3, 3, 3, 4]


@pytest.mark.parametrize("last, expected", [(1, [39]), (5, [35, 36, 37, 38, 39]), (100, list(range(40)))])
def test_last_keeps_the_end(tmp_path, last, expected):
    write_numbers(tmp_path / "a.mp4", 40)
    assert numbers_in(read_frames(tmp_path / "a.mp4", last=last)) == expected


def test_last_counts_frames_of_the_new_rate(tmp_path):
    write_numbers(tmp_path / "a.mp4", 30, fps=30)
    assert numbers_in(read_frames(tmp_path / "a.mp4", last=3)) == [24, 26, 28]


def test_filling_and_cropping(tmp_path):
    picture = torch.full((3, 2, 64, 192), -1.0)
    picture[0, ..., :64] = picture[1, ..., 64:128] = picture[2, ..., 128:] = 1  # red, green, blue squares
    with VideoWriter(tmp_path / "a.mp4") as writer:
        writer.write(picture)
    square = read_frames(tmp_path / "a.mp4", width=31, height=33)
    assert square.shape == (1, 3, 2, 33, 31)
    assert (square[0, 1, :, 4:-4, 4:-4] > 0.9).all(), "the green square is the middle"
    assert (square[0, [0, 2], :, 4:-4, 4:-4] < -0.9).all()
    wide = read_frames(tmp_path / "a.mp4", width=96, height=16)[
        0, :, 0
    ]  # half the size, half the height cut off
    assert wide[:, 8, 16].sign().tolist() == [1, -1, -1]
    assert wide[:, 8, 80].sign().tolist() == [-1, -1, 1]


def test_a_film_from_a_telephone_stands_upright(tmp_path):
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
def test_impossible_wishes_are_refused(tmp_path, options):
    write_numbers(tmp_path / "a.mp4", 1)
    with pytest.raises(InputError, match=next(iter(options))):
        read_frames(tmp_path / "a.mp4", **options)


# --- files that are none --------------------------------------------------------------------------------------------


def test_missing_files_are_said(tmp_path):
    for read in (read_frames, read_metadata):
        for path in (tmp_path / "no.mp4", tmp_path, "http://localhost:9/a.mp4"):
            with pytest.raises(FileError, match="no video file"):
                read(path)


@pytest.mark.parametrize("content", [b"", b"hello world\n" * 100, bytes(range(256)) * 100])
def test_other_files_are_said(tmp_path, content):
    (tmp_path / "a.mp4").write_bytes(content)
    for read in (read_frames, read_metadata):
        with pytest.raises(FileError, match=r"a\.mp4.*cannot be read as a video.*export it again"):
            read(tmp_path / "a.mp4")


@pytest.mark.parametrize("keep", [0.02, 0.5, 0.9, 0.999])
def test_a_cut_off_video_is_said(tmp_path, keep):
    with VideoWriter(tmp_path / "a.mp4") as writer:
        writer.write(torch.rand(3, 40, *SIZE, generator=torch.Generator().manual_seed(0)))
    data = (tmp_path / "a.mp4").read_bytes()
    (tmp_path / "a.mp4").write_bytes(data[: int(keep * len(data))])
    with pytest.raises(FileError, match=r"a\.mp4.*cut off"):
        read_frames(tmp_path / "a.mp4")


def test_sound_alone_is_said(tmp_path):
    with av.open(str(tmp_path / "a.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=44100)
        frame = av.AudioFrame.from_ndarray(np.zeros((2, 1024), np.float32), format="fltp", layout="stereo")
        frame.sample_rate = 44100
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    with pytest.raises(FileError, match="no pictures"):
        read_frames(tmp_path / "a.mp4")


def test_a_video_without_frames_is_said(tmp_path):
    data = write_numbers(tmp_path / "a.mp4", 3).read_bytes()
    (tmp_path / "a.mp4").write_bytes(data[: data.index(b"mdat") + 4])
    for fps in (16, None):
        with pytest.raises(FileError, match="no frames"):
            read_frames(tmp_path / "a.mp4", fps=fps)
