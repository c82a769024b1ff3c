"""Work in a thread: everything added is done in order, and no error, of either side, is lost or hidden."""

import threading
import time

import pytest
from comfyui_sana_video.sana_video_core.errors import FileError
from comfyui_sana_video.sana_video_core.files import background
from comfyui_sana_video.sana_video_core.files.background import Worker, encoding
from comfyui_sana_video.sana_video_core.files.video_reader import read_frames
from comfyui_sana_video.sana_video_core.files.video_writer import VideoWriter
from support.calibration import until
from support.video_files import grey, numbers_in


def _into(done, threads=None):
    def work(items):
        for item in items:
            done.append(item)
            if threads is not None:
                threads.add(threading.current_thread())

    return work


def test_everything_is_done_in_order_in_another_thread():
    done, threads = [], set()
    with Worker(_into(done, threads), room=2, name="test") as worker:
        for number in range(20):
            worker.add(number)
    assert done == list(range(20))
    assert threading.current_thread() not in threads
    assert len(threads) == 1
    assert not any(thread.is_alive() for thread in threads)
    worker.finish()  # a second time does nothing


def test_adding_waits_for_room():
    gate, done = threading.Event(), []

    def work(items):
        for item in items:
            gate.wait()
            done.append(item)

    with Worker(work, room=2, name="test") as worker:
        adding = threading.Thread(target=lambda: [worker.add(number) for number in range(9)])
        adding.start()
        until(worker._items.full, 5)
        time.sleep(0.02)
        assert adding.is_alive()
        assert not done
        gate.set()
        adding.join()
    assert done == list(range(9))


def _broken(items):
    for number, _ in enumerate(items):
        if number == 1:
            raise FileError("the disk is full")


def _fed(work, *, room, items):
    with Worker(work, room=room, name="test") as worker:
        for item in range(items):
            worker.add(item)


@pytest.mark.parametrize("items", [2, 99])
def test_an_error_is_raised_where_the_next_item_is_added_or_by_the_block(items):
    with pytest.raises(FileError, match="disk is full"):
        _fed(_broken, room=3, items=items)


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_if_the_block_raises_what_was_added_is_done(error):
    done = []
    with pytest.raises(error), Worker(_into(done), room=99, name="test") as worker:  # noqa: PT012
        for number in range(9):
            worker.add(number)
        raise error
    assert done == list(range(9))


def test_the_block_s_error_is_the_one_to_raise_and_the_other_is_told(caplog):
    with pytest.raises(KeyboardInterrupt), Worker(_broken, room=9, name="test") as worker:  # noqa: PT012
        worker.add(0)
        worker.add(1)
        raise KeyboardInterrupt
    assert "the disk is full" in caplog.text


def test_ctrl_c_while_it_waits_for_the_thread_does_not_wait_any_longer(monkeypatch):
    gate = threading.Event()

    def second(self, timeout):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(background.threading.Thread, "join", second)
        with pytest.raises(KeyboardInterrupt), Worker(lambda items: gate.wait(), room=9, name="t") as worker:
            worker.add(0)
    gate.set()
    worker.finish()


# --- encoding


def test_frames_are_encoded_in_a_thread(tmp_path):
    with VideoWriter(tmp_path / "a.mp4") as writer, encoding(writer) as encoder:
        for number in range(20):
            encoder.add(grey(number))
    assert numbers_in(read_frames(tmp_path / "a.mp4")) == list(range(20))


def test_a_writer_that_is_closed_in_the_middle_of_a_thread_s_work_is_whole(tmp_path, monkeypatch):
    """As after a second Ctrl-C: what was written is kept, and the thread ends by itself."""
    real, begun = VideoWriter._write, threading.Event()

    def slow(self, *arguments):
        begun.set()
        time.sleep(0.01)
        real(self, *arguments)

    monkeypatch.setattr(VideoWriter, "_write", slow)
    with VideoWriter(tmp_path / "a.mp4") as writer:
        encoder = encoding(writer)
        for number in range(10):
            encoder.add(grey(number))
        begun.wait()
    kept = numbers_in(read_frames(tmp_path / "a.mp4"))
    assert kept == list(range(writer.frames))
    assert 0 < len(kept) <= 10
    until(lambda: not encoder._thread.is_alive() or encoder._items.empty(), 5)
