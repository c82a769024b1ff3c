"""What a command is to the system: its streams in any encoding, closed pipes, and signals that end it."""

import errno
import io
import os
import signal
import sys
import threading
import time

import pytest
from comfyui_sana_video.command_line import cli
from comfyui_sana_video.command_line.process import AGAIN, LastingStream, endings_are_ctrl_c, lasting_streams
from comfyui_sana_video.sana_video_core.errors import Cancelled
from support.video_files import posix


@pytest.mark.parametrize(
    "encoding, shown", [("cp1252", "“??” ä"), ("ascii", "???? ?"), ("utf-8", "“猫🐈” ä"), ("cp437", "???? ä")]
)
def test_what_a_console_cannot_show_becomes_a_question_mark(encoding, shown, monkeypatch):
    console = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    monkeypatch.setattr(sys, "stdout", console)
    with lasting_streams():
        print("“猫🐈” ä")  # noqa: T201
    assert console.buffer.getvalue().decode(encoding).strip() == shown


def test_a_terminals_undecodable_bytes_can_be_printed(monkeypatch):
    console = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
    monkeypatch.setattr(sys, "stdout", console)
    with lasting_streams():
        print("a\udcff.mp4")  # noqa: T201
    assert console.buffer.getvalue().strip() == b"a?.mp4"


@posix
def test_a_closed_pipe_does_not_end_the_work_nor_python(monkeypatch):
    reader, writer = os.pipe()
    os.close(reader)
    pipe = os.fdopen(writer, "w")
    monkeypatch.setattr(sys, "stdout", pipe)
    with lasting_streams():
        for _ in range(3):
            print("x" * 100_000)  # noqa: T201
            sys.stdout.flush()
    pipe.close()  # flushes, as Python does at its end


def test_a_full_disk_under_the_output_does_not_end_the_work():
    class Full(io.StringIO):
        def write(self, text):
            raise OSError(errno.ENOSPC, "No space left on device")

    assert LastingStream(Full()).write("abc") == 3


@pytest.mark.parametrize("name", ["stdout", "stderr"])
def test_without_a_console_words_go_nowhere(name, monkeypatch):
    monkeypatch.setattr(sys, name, None)
    with lasting_streams():
        getattr(sys, name).write("“猫”")
    assert getattr(sys, name) is None


@pytest.fixture
def command(monkeypatch, capsys):
    """Runs `info x` with another body; returns (status, what it said)."""

    def run(body):
        monkeypatch.setattr(cli, "_info", body)
        return cli.main(["info", "x"]), capsys.readouterr().err

    return run


@pytest.fixture
def ctrl_c():
    """Ctrl-C is heard, also where a shell runs the tests in the background."""
    older = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, older)


@posix
@pytest.mark.parametrize("ending, status", [("SIGTERM", 143), ("SIGHUP", 129), ("SIGINT", 130)])
@pytest.mark.parametrize("error", [KeyboardInterrupt, Cancelled])
def test_an_ending_is_ctrl_c(ending, status, error, command, ctrl_c):
    def body(options):
        try:
            os.kill(os.getpid(), getattr(signal, ending))
        except KeyboardInterrupt:
            raise error("Stopped.") from None

    handlers = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)]
    assert command(body) == (status, "Stopped.\n")
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)] == handlers


@posix
def test_an_ending_also_works_where_ctrl_c_is_ignored_and_nohup_is_respected(command):
    older = signal.signal(signal.SIGINT, signal.SIG_IGN), signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        assert command(lambda options: os.kill(os.getpid(), signal.SIGHUP)) == (0, "")
        assert command(lambda options: os.kill(os.getpid(), signal.SIGTERM))[0] == 143
    finally:
        signal.signal(signal.SIGINT, older[0]), signal.signal(signal.SIGHUP, older[1])


@posix
def test_an_ending_goes_where_ctrl_c_goes():
    """asyncio has a handler of its own, which cancels what runs; the server is told then."""
    heard = []
    older = signal.signal(signal.SIGINT, lambda number, frame: heard.append(number))
    try:
        with endings_are_ctrl_c() as came:
            os.kill(os.getpid(), signal.SIGTERM)
    finally:
        signal.signal(signal.SIGINT, older)
    assert (heard, came) == ([signal.SIGINT], [signal.SIGTERM])


@pytest.mark.parametrize(
    "error, words",
    [
        (PermissionError(errno.EACCES, "no entry", "x/y"), "“x/y” cannot be used (no entry)"),
        (OSError("odd"), "The system refuses this (odd)"),
    ],
)
def test_a_refusal_of_the_system_is_a_sentence(error, words, command):
    def body(options):
        raise error

    status, said = command(body)
    assert status == 1
    assert said == f"sana-video: {words}. Check its name and its folder.\n"


@posix
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("busy", [False, True])
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_signal_while_an_object_is_let_go_isnt_lost(number, busy, ctrl_c, monkeypatch):
    """Python drops what is raised there, and says so; the work would go on to its end."""
    start = threading.Thread.start
    if busy:  # a thread works for a while before this one does again
        monkeypatch.setattr(threading.Thread, "start", lambda self: start(self) or time.sleep(3 * AGAIN))

    class Last:
        def __del__(self):
            signal.raise_signal(number)

    def work():
        last = Last()
        del last
        for _ in range(100):  # a sleep of 5 s would be slept to its end
            time.sleep(0.05)

    with endings_are_ctrl_c() as came, pytest.raises(KeyboardInterrupt):
        work()
    assert came == ([number] * 2 if number == signal.SIGTERM else [])
