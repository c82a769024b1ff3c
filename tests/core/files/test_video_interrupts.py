"""Whatever interrupts the writing of a video, it leaves a playable file or none."""

import os
import re
import signal

import pytest
from comfyui_sana_video.sana_video_core.errors import Cancelled, FileError
from comfyui_sana_video.sana_video_core.files import claims, growing_file
from comfyui_sana_video.sana_video_core.files.video_reader import read_frames, read_metadata
from comfyui_sana_video.sana_video_core.files.video_writer import VideoWriter
from support.calibration import limit
from support.video_files import boxes, grey, names, numbers_in, posix, run_python, write_numbers


@pytest.mark.parametrize("error", [KeyboardInterrupt, Cancelled, RuntimeError])
@pytest.mark.parametrize("count", [1, 7, 37])
def test_an_exception_leaves_a_complete_file_of_the_finished_frames(tmp_path, error, count):
    with pytest.raises(error, match="stop"), VideoWriter(tmp_path / "a.mp4") as writer:  # noqa: PT012
        writer.write(grey(*range(count)))
        raise error("stop")
    assert numbers_in(read_frames(tmp_path / "a.mp4")) == list(range(count))
    assert "moof" not in boxes(tmp_path / "a.mp4")
    assert names(tmp_path) == ["a.mp4"]


@posix
def test_ctrl_c_in_the_middle_of_encoding_loses_no_packet(tmp_path):
    """The alarm arrives while x264 works; Python raises at its next opportunity, between two bytecodes."""

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
            numbers = numbers_in(read_frames(path))
            assert numbers == [number % 50 for number in range(writer.frames)]
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


def test_the_older_file_stays_until_the_new_one_is_complete(tmp_path):
    before = write_numbers(tmp_path / "a.mp4", 3).read_bytes()
    with VideoWriter(tmp_path / "a.mp4") as writer:
        writer.write(grey(*range(40)))
        assert (tmp_path / "a.mp4").read_bytes() == before
    assert len(numbers_in(read_frames(tmp_path / "a.mp4"))) == 40


@posix
def test_a_killed_process_never_touches_the_name_and_the_next_writer_cleans_up(tmp_path):
    """And what a film's segments were plays: see below for what a writer's does on a full disk."""
    before = write_numbers(tmp_path / "a.mp4", 3).read_bytes()
    process = run_python(
        """
        from comfyui_sana_video.sana_video_core.files.film_file import FilmFile
        from comfyui_sana_video.sana_video_core.files.segments import encode_segment
        film = FilmFile(sys.argv[2], fps=16)
        for value in (10, 100):
            film.append(encode_segment([torch.full((8, 64, 96, 3), value, dtype=torch.uint8)], fps=16))
        writer = VideoWriter(sys.argv[1])
        while True:
            writer.write(torch.rand(3, 8, 64, 96))
            if writer.frames == 160:
                print("ready", flush=True)
        """,
        tmp_path / "a.mp4",
        tmp_path / "film.mp4",
    )
    try:
        assert process.stdout.readline() == "ready\n", process.stderr.read()
    finally:
        process.kill()
        process.communicate()
    assert (tmp_path / "a.mp4").read_bytes() == before
    hidden, of_film, video = names(tmp_path)
    assert (hidden[:7], of_film[:10], video) == (".a.mp4.", ".film.mp4.", "a.mp4")
    kept = read_frames(tmp_path / of_film / "partial.mp4").mean((0, 1, 3, 4))
    assert kept.add(1).mul(127.5).round().tolist() == [10] * 8 + [100] * 8
    write_numbers(tmp_path / "a.mp4", 5)
    write_numbers(tmp_path / "film.mp4", 5)
    assert names(tmp_path) == ["a.mp4", "film.mp4"]
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
@pytest.mark.parametrize("room, least", [(45_000, 15), (80_000, 30)])
def test_a_full_disk_keeps_the_complete_fragments(tmp_path, room, least):
    process = run_python(DISK_FULL, tmp_path / "a.mp4", room)
    said, failed = process.communicate(timeout=limit(60))
    assert said.startswith("FileError"), said + failed
    assert re.search("File too large|did not reach the disk", said)
    assert re.search("[Ff]ree some space", said)
    numbers = numbers_in(read_frames(tmp_path / "a.mp4"))
    assert least <= len(numbers) < 60
    assert f"Only {len(numbers)} of the " in said + failed
    assert numbers == list(range(len(numbers)))
    assert read_metadata(tmp_path / "a.mp4") == {"seed": 7}
    assert names(tmp_path) == ["a.mp4"]


@posix
def test_a_disk_that_is_full_from_the_start_leaves_the_older_file(tmp_path):
    before = write_numbers(tmp_path / "a.mp4", 3).read_bytes()
    process = run_python(DISK_FULL, tmp_path / "a.mp4", 600)
    said, failed = process.communicate(timeout=limit(60))
    assert said.startswith("FileError"), said + failed
    assert "Only 0 of the " in said + failed
    assert (tmp_path / "a.mp4").read_bytes() == before
    assert names(tmp_path) == ["a.mp4"]


@pytest.mark.parametrize("reported", [True, False])
def test_without_room_for_the_copy_the_fragmented_file_takes_the_name(tmp_path, monkeypatch, reported):
    """FFmpeg does not report every failed write at a file's end; then only the truncated copy shows it."""

    def no_room(source, target, metadata, audio):
        assert original(source, target, metadata, audio) == 40
        os.truncate(target, target.stat().st_size - 1)
        return 0 if reported else growing_file._whole_frames(target)

    original = growing_file._copy_as_ordinary_mp4
    monkeypatch.setattr(growing_file, "_copy_as_ordinary_mp4", no_room)
    write_numbers(tmp_path / "a.mp4", 40, metadata={"seed": 7})
    assert "moof" in boxes(tmp_path / "a.mp4")
    assert numbers_in(read_frames(tmp_path / "a.mp4")) == list(range(40))
    assert read_metadata(tmp_path / "a.mp4") == {"seed": 7}
    assert names(tmp_path) == ["a.mp4"]


def test_a_copy_that_cannot_be_written_counts_as_nothing(tmp_path):
    write_numbers(tmp_path / "a.mp4", 5)
    missing = tmp_path / "missing" / "b.mp4"
    assert growing_file._copy_as_ordinary_mp4(tmp_path / "a.mp4", missing, {}, None) == 0


def test_a_name_that_is_a_folder_is_refused_before_any_work(tmp_path):
    (tmp_path / "a.mp4").mkdir()
    with pytest.raises(FileError, match=r"a\.mp4.*it is a folder"):
        VideoWriter(tmp_path / "a.mp4")
    assert names(tmp_path) == ["a.mp4"]


def _a_folder_comes(path, error=None):
    with VideoWriter(path) as writer:
        writer.write(grey(0, 1))
        path.mkdir()
        if error is not None:
            raise error


def test_a_name_that_becomes_a_folder_costs_nothing(tmp_path):
    (tmp_path / "a-2.mp4").write_text("somebody else's")
    with pytest.raises(FileError, match=r"a\.mp4” could not.*Is a directory.*a-3\.mp4”, with 2 frames"):
        _a_folder_comes(tmp_path / "a.mp4")
    assert names(tmp_path) == ["a-2.mp4", "a-3.mp4", "a.mp4"]
    assert (tmp_path / "a-2.mp4").read_text() == "somebody else's"
    assert numbers_in(read_frames(tmp_path / "a-3.mp4")) == [0, 1]


def test_without_room_beside_it_the_video_moves_here_or_to_the_temp_folder(tmp_path, monkeypatch):
    for name in ("here", "temp", "out"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setattr(claims.tempfile, "gettempdir", lambda: str(tmp_path / "temp"))
    full, real = {"out", "here"}, claims.first_free

    def first_free(paths):
        path = next(iter(paths))
        if path.parent.name in full:
            raise FileError("full")
        return real([path])

    monkeypatch.setattr(claims, "first_free", first_free)
    with pytest.raises(FileError, match=r"kept as “.*temp.a\.mp4”"):
        _a_folder_comes(tmp_path / "out" / "a.mp4")
    full.remove("here")
    with pytest.raises(FileError, match=r"kept as “.*here.b\.mp4”"):
        _a_folder_comes(tmp_path / "out" / "b.mp4")
    assert numbers_in(read_frames(tmp_path / "temp" / "a.mp4")) == [0, 1]
    assert numbers_in(read_frames(tmp_path / "here" / "b.mp4")) == [0, 1]


def test_a_failed_close_does_not_hide_the_exception_of_the_block(tmp_path, caplog):
    with pytest.raises(Cancelled):
        _a_folder_comes(tmp_path / "a.mp4", Cancelled())
    assert "kept as" in caplog.text
    assert names(tmp_path) == ["a-2.mp4", "a.mp4"]


def test_a_second_interrupt_while_it_is_finished_costs_nothing(tmp_path, monkeypatch):
    def interrupted(source, target, metadata, audio):
        target.write_bytes(source.read_bytes()[:100])
        raise KeyboardInterrupt

    monkeypatch.setattr(growing_file, "_copy_as_ordinary_mp4", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_numbers(tmp_path / "a.mp4", 20)
    assert numbers_in(read_frames(tmp_path / "a.mp4")) == list(range(20))
    assert names(tmp_path) == ["a.mp4"]


def test_two_writers_of_one_name_both_finish(tmp_path):
    with VideoWriter(tmp_path / "a.mp4") as one:
        one.write(grey(*range(20)))
        write_numbers(tmp_path / "a.mp4", 3)
        assert numbers_in(read_frames(tmp_path / "a.mp4")) == [0, 1, 2]
        one.write(grey(20))
    assert numbers_in(read_frames(tmp_path / "a.mp4")) == list(range(21))
    assert names(tmp_path) == ["a.mp4"]
