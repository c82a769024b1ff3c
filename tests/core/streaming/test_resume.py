"""An interrupted run loses nothing: first with chunks that are only counted, then with a real stream."""

from dataclasses import replace

import pytest
import torch
from support.checks_stream import assert_same_state, begin, prompt, run
from support.pack import Pack

PACK = Pack()
InterruptedRun = PACK.core("streaming.resume").InterruptedRun
stream, callbacks, errors = (PACK.core(name) for name in ("streaming.stream", "callbacks", "errors"))


class Stop(BaseException):
    """A host's interrupt."""


class Worker:
    """Makes chunks of nothing, and stops after `limit` of them in each call."""

    def __init__(self, *limits, error=Stop) -> None:
        self.limits, self.error, self.asked = list(limits), error, []

    def __call__(self, state, chunks):
        self.asked.append((len(state.history), chunks))
        limit = self.limits.pop(0) if self.limits else chunks
        for number in range(chunks):
            if number == limit:
                raise self.error
            state = replace(state, history=(*state.history, f"chunk {len(state.history)}"))
            yield state


def empty():
    return begin(PACK, PACK.tiny_model(depth=1))


def test_an_undisturbed_run_is_what_the_worker_makes():
    interrupted, state, worker = InterruptedRun(), empty(), Worker()
    after = interrupted.run_or_resume("a", state, 3, worker)
    assert after.history == ("chunk 0", "chunk 1", "chunk 2")
    assert worker.asked == [(0, 3)]
    assert state.history == ()


@pytest.mark.parametrize("error", [Stop, KeyboardInterrupt, errors.ChunkError])
def test_finished_chunks_are_resumed_once(error):
    interrupted, state, worker = InterruptedRun(), empty(), Worker(2, error=error)
    with pytest.raises(error):
        interrupted.run_or_resume("a", state, 5, worker)
    assert len(interrupted.run_or_resume("a", state, 5, worker).history) == 5
    interrupted.run_or_resume("a", state, 5, worker)
    assert worker.asked == [(0, 5), (2, 3), (0, 5)]


def test_a_run_may_stop_many_times():
    interrupted, state, worker = InterruptedRun(), empty(), Worker(2, 1, 0, 0)
    for _ in range(4):
        with pytest.raises(Stop):
            interrupted.run_or_resume("a", state, 5, worker)
    assert len(interrupted.run_or_resume("a", state, 5, worker).history) == 5
    assert worker.asked == [(0, 5), (2, 3), (3, 2), (3, 2), (3, 2)]


def test_a_longer_or_a_shorter_run_takes_what_fits():
    interrupted, state, worker = InterruptedRun(), empty(), Worker(3)
    with pytest.raises(Stop):
        interrupted.run_or_resume("a", state, 4, worker)
    # two of the three chunks would do, but they are one value
    assert len(interrupted.run_or_resume("a", state, 2, worker).history) == 2
    assert len(interrupted.run_or_resume("a", state, 9, worker).history) == 9
    assert worker.asked == [(0, 4), (0, 2), (3, 6)]


def test_another_request_or_another_state_resumes_nothing():
    interrupted, state, worker = InterruptedRun(), empty(), Worker(2)
    with pytest.raises(Stop):
        interrupted.run_or_resume(("a", 1), state, 5, worker)
    interrupted.run_or_resume(("a", 2), state, 5, worker)
    # equal, but another object: a branch of its own
    interrupted.run_or_resume(("a", 1), replace(state), 5, worker)
    assert worker.asked[1:] == [(0, 5), (0, 5)]
    interrupted.run_or_resume(("a", 1), state, 5, worker)
    assert worker.asked[-1] == (2, 3)


def test_nothing_finished_keeps_nothing_and_forgets_nothing():
    interrupted, state, worker = InterruptedRun(), empty(), Worker(2, 0)
    with pytest.raises(Stop):
        interrupted.run_or_resume("a", state, 5, worker)
    with pytest.raises(Stop):
        interrupted.run_or_resume("b", state, 5, worker)
    interrupted.run_or_resume("a", state, 5, worker)
    assert worker.asked[-1] == (2, 3)


def test_one_run_is_kept_at_most():
    interrupted, state, worker = InterruptedRun(), empty(), Worker(2, 2)
    for request in ("a", "b"):
        with pytest.raises(Stop):
            interrupted.run_or_resume(request, state, 5, worker)
    interrupted.run_or_resume("a", state, 5, worker)
    interrupted.run_or_resume("b", state, 5, worker)
    assert worker.asked[2:] == [(0, 5), (2, 3)]


def test_a_resumed_run_is_dropped():
    interrupted, state, worker = InterruptedRun(), empty(), Worker(1)
    with pytest.raises(Stop):
        interrupted.run_or_resume("a", state, 2, worker)
    assert len(interrupted._kept[2].history) == 1
    interrupted.run_or_resume("a", state, 2, worker)
    assert interrupted._kept is None


@pytest.mark.parametrize("stop_at", [0, 2, 4, 6])
def test_a_resumed_stream_is_bit_identical(stop_at):
    """Chunks of three calls under a new prompt, which first absorbs the last chunk again."""
    model, new_prompt = PACK.tiny_model(), prompt(PACK, "b")
    state, sampling = run(PACK, model, begin(PACK, model), "a"), stream.Sampling(seed=3, steps=2)
    calls, listening = [], [True]

    def cancelled():
        calls.append(None)
        if listening and len(calls) > stop_at:
            raise Stop
        return False

    def extend(state, chunks):
        listener = callbacks.Callbacks(cancelled=cancelled)
        return stream.extend(model, state, new_prompt, sampling, plan=(2,) * chunks, callbacks=listener)

    interrupted = InterruptedRun()
    with pytest.raises(Stop):
        interrupted.run_or_resume("b", state, 2, extend)
    listening.clear()
    calls.clear()
    after = interrupted.run_or_resume("b", state, 2, extend)
    assert_same_state(after, run(PACK, model, state, "b", plan=(2, 2), seed=3))
    assert len(calls) == (3 if stop_at >= 4 else 7)
    assert torch.isfinite(after.history[-1].latents).all()
