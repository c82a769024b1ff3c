"""Video files: what goes in comes out, what cannot work is refused, and memory stays constant."""

import re
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import av
import numpy as np
import pytest
import torch
from comfyui_sana_video.sana_video_core.errors import FileError, InputError
from comfyui_sana_video.sana_video_core.files import encoders, image_file
from comfyui_sana_video.sana_video_core.files.video_reader import read_frames, read_metadata
from comfyui_sana_video.sana_video_core.files.video_writer import VideoWriter
from comfyui_sana_video.sana_video_core.shapes import checked_fps
from support.calibration import limit
from support.video_files import SIZE, boxes, grey, names, numbers_in, run_python, write_numbers

# --- writing and reading back


@pytest.mark.parametrize("count", [1, 2, 41])
def test_every_frame_comes_back_in_order(tmp_path, count):
    pixels = read_frames(write_numbers(tmp_path / "a.mp4", count))
    assert pixels.shape == (1, 3, count, *SIZE)
    assert pixels.dtype == torch.float32
    assert numbers_in(pixels) == list(range(count))
    assert names(tmp_path) == ["a.mp4"]


@pytest.mark.parametrize("fps", [16, 24, Fraction(30000, 1001), Fraction(24000, 1001)])
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


@pytest.mark.parametrize(
    "given, exact",
    [
        (29.97, Fraction(30000, 1001)),
        (Fraction("29.97"), Fraction(30000, 1001)),
        (23.976, Fraction(24000, 1001)),
        (23.98, Fraction(24000, 1001)),  # as a widget of two digits rounds it
        (59.94, Fraction(60000, 1001)),
        (119.88, Fraction(120000, 1001)),
        (Fraction(30000, 1001), Fraction(30000, 1001)),
        (30, Fraction(30)),
        (29.9, Fraction(299, 10)),
        (12.5, Fraction(25, 2)),
        (0.5, Fraction(1, 2)),
        (1000, Fraction(1000)),
    ],
)
def test_broadcasting_s_rates_are_exact(given, exact):
    assert checked_fps(given) == exact


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
    kinds = boxes(tmp_path / "a.mp4")
    assert "moof" not in kinds
    assert kinds.index("moov") < kinds.index("mdat")
    with av.open(str(tmp_path / "a.mp4")) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.pix_fmt) == ("h264", "yuv420p")
        container.seek(int(1.5 / stream.time_base), stream=stream)
        first = next(container.decode(stream))
        assert 0.4 < float(first.pts * stream.time_base) <= 1.5, "there is no key frame to seek to"


def test_colours_are_right_and_tagged(tmp_path):
    colours = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255), "grey": (128, 128, 128)}
    # 16 + 219·(0.2126 R + 0.7152 G + 0.0722 B): BT.709
    luma = {"red": 63, "green": 173, "blue": 32, "grey": 126}
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
    for index, (name, expected) in enumerate(colours.items()):
        column = 32 * index + 16
        assert abs(int(planes[32, column]) - luma[name]) <= 1, name
        assert pixels[:, 32, column].sub(torch.tensor(expected)).abs().max() <= 4, name


def test_metadata_survives(tmp_path):
    metadata = {
        # more than 16 bits can count
        "prompts": [{"text": "猫 “jumps”\n\x00\ttwice; x=1 \\ 🐈", "chunks": 3}] * 2000,
        "seed": 2**63,
        "plan": [11, 10, 10],
        "nothing": None,
    }
    write_numbers(tmp_path / "a.mp4", 20, metadata=metadata)
    assert read_metadata(tmp_path / "a.mp4") == metadata


def test_metadata_that_json_cannot_hold_becomes_text(tmp_path):
    write_numbers(tmp_path / "a.mp4", 1, metadata={"path": Path("x"), (1, 2): 3})
    assert read_metadata(tmp_path / "a.mp4") == {"path": "x"}


@pytest.mark.parametrize("comment", [None, "made by hand", "[1, 2]"])
def test_foreign_metadata_is_ignored(tmp_path, comment):
    with av.open(str(tmp_path / "a.mp4"), "w") as container:
        if comment is not None:
            container.metadata["comment"] = comment
        stream = container.add_stream("libx264", rate=16)
        stream.width, stream.height = 32, 32
        container.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8))))
        container.mux(stream.encode(None))
    assert read_metadata(tmp_path / "a.mp4") == {}


# --- what cannot work is refused


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


def test_a_missing_encoder_is_refused_before_any_work(tmp_path, monkeypatch):
    monkeypatch.setitem(encoders.ENCODERS, "h264", "libnothing264")
    with pytest.raises(FileError, match=r"cannot write h264.*libnothing264.*pip install"):
        VideoWriter(tmp_path / "a.mp4")
    assert names(tmp_path) == []


def test_a_gpu_without_an_encoder_is_refused_before_any_work(tmp_path, monkeypatch):
    """By the trial, so no list of GPUs has to be right."""

    def refuses(codec, mode):
        tried.append(codec)
        raise av.FFmpegError(1, "no such engine")

    tried = []
    encoders._trial.cache_clear()
    # the name in our module: PyAV's own class can't be changed
    monkeypatch.setattr(encoders, "VideoCodecContext", SimpleNamespace(create=refuses))
    for _ in range(2):
        with pytest.raises(FileError, match=r"h264_nvenc.*no such engine.*Choose h264\."):
            VideoWriter(tmp_path / "a.mp4", codec="h264_nvenc")
    encoders.check_codec("h264")
    assert tried == ["h264_nvenc"]
    assert names(tmp_path) == []
    encoders._trial.cache_clear()


@pytest.mark.parametrize("encoder", ["libx264", "h264_nvenc", "libnothing264"])
def test_a_trial_says_whether_an_encoder_works(encoder):
    """libx264 works everywhere; the GPU's where there is one, and else there is a reason."""
    reason = encoders._trial(encoder)
    assert isinstance(reason, str)
    assert (reason == "") is (encoder == "libx264") or encoder == "h264_nvenc"


def test_a_folder_that_cannot_be_written_to_is_refused_before_any_work(tmp_path):
    (tmp_path / "file").touch()
    for folder in ("missing", "file"):
        with pytest.raises(FileError, match=r"a\.mp4.*there is no folder"):
            VideoWriter(tmp_path / folder / "a.mp4")


def test_bytes_are_written_as_they_are(tmp_path):
    """The film is that of the pixels, byte for byte; other shapes are refused."""
    pixels = grey(*range(9))
    with VideoWriter(tmp_path / "pixels.mp4") as writer:
        writer.write(pixels)
    with VideoWriter(tmp_path / "bytes.mp4") as writer:
        writer.write(image_file.frame_bytes(pixels[None]))
        assert writer.frames == 9
        with pytest.raises(InputError, match=r"takes \[3, frames"):
            writer.write(torch.zeros(2, 3, *SIZE, dtype=torch.uint8))
    assert numbers_in(read_frames(tmp_path / "bytes.mp4")) == list(range(9))
    assert (tmp_path / "bytes.mp4").read_bytes() == (tmp_path / "pixels.mp4").read_bytes()


def test_metadata_may_be_known_at_the_end_only(tmp_path):
    with VideoWriter(tmp_path / "a.mp4", metadata={"chunks": 1}) as writer:
        writer.write(grey(*range(9)))
        writer.describe({"chunks": 2, "odd": object})
    assert read_metadata(tmp_path / "a.mp4")["chunks"] == 2


def test_a_closed_writer_accepts_nothing_more(tmp_path):
    writer = VideoWriter(tmp_path / "a.mp4")
    writer.write(grey(0))
    writer.close()
    before = (tmp_path / "a.mp4").read_bytes()
    writer.close()
    with pytest.raises(InputError, match="already closed"):
        writer.write(grey(1))
    assert (tmp_path / "a.mp4").read_bytes() == before


def test_a_video_whose_name_is_taken_meanwhile_is_kept_beside_it(tmp_path):
    path = tmp_path / "a.mp4"
    writer = VideoWriter(path, metadata={"seed": 7})
    writer.write(grey(0, 1, 2))
    path.mkdir()  # nothing can replace a folder
    words = rf"“{re.escape(str(path))}” could not take its name \(.+\)\. The video is kept as “(.+)”, with 3 "
    with pytest.raises(FileError, match=words) as caught:
        writer.close()
    kept = Path(re.match(words, str(caught.value))[1])
    assert kept == tmp_path / "a-2.mp4"
    assert numbers_in(read_frames(kept)) == [0, 1, 2]
    assert read_metadata(kept) == {"seed": 7}
    assert "moof" not in boxes(kept)  # no fragments: the ordinary file, as under its own name
    assert names(tmp_path) == ["a-2.mp4", "a.mp4"]


# --- memory


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
        open("/proc/self/clear_refs", "w").write("5")  # resets VmHWM, the peak
        early = memory("VmRSS")
        read_frames(sys.argv[1], last=3)
        print(memory("VmHWM") - early)
        """,
        tmp_path / "a.mp4",
    )
    said, failed = process.communicate(timeout=limit(60))
    assert process.returncode == 0, failed
    written, read = map(float, said.split())
    # 180 frames of 256x384 are 51 MiB as bytes; all 300: 42 MiB decoded, 84 MiB as bytes, 337 MiB as float32.
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
