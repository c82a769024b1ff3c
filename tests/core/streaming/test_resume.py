"""An interrupted run loses nothing: with chunks that are only counted, then with a real stream."""

from dataclasses import replace

import pytest
import torch
from support.checks_stream import assert_same_state, begin, prompt, run
from support.pack import Pack

PACK = Pack()
Unfinished = PACK.core("streaming.resume").Unfinished
stream, host, errors = (PACK.core(name) for name in ("streaming.stream", "callbacks", "errors"))


class Stop(BaseException):
    """A host's interrupt."""


class Worker:
    """Makes chunks of nothing, and stops after `limit` of them in each call."""

    def __init__(self, *limits, error=Stop) -> None:
        self.limits, self.error, self.asked = list(limits), error, []

    def __call__(self, state, chunks):
        self.asked.append((len(state.story), chunks))
        limit = self.limits.pop(0) if self.limits else chunks
        for number in range(chunks):
            if number == limit:
                raise self.error
            state = replace(state, story=(*state.story, f"chunk {len(state.story)}"))
            yield state


def empty():
    return begin(PACK, PACK.tiny_model(depth=1))


def test_an_undisturbed_run_is_what_go_makes():
    unfinished, state, go = Unfinished(), empty(), Worker()
    after = unfinished.run("a", state, 3, go)
    assert after.story == ("chunk 0", "chunk 1", "chunk 2")
    assert go.asked == [(0, 3)]
    assert state.story == ()


@pytest.mark.parametrize("error", [Stop, KeyboardInterrupt, errors.ChunkError])
def test_what_was_finished_is_taken_up_once(error):
    unfinished, state, go = Unfinished(), empty(), Worker(2, error=error)
    with pytest.raises(error):
        unfinished.run("a", state, 5, go)
    assert len(unfinished.run("a", state, 5, go).story) == 5
    unfinished.run("a", state, 5, go)
    assert go.asked == [(0, 5), (2, 3), (0, 5)]


def test_a_run_may_stop_many_times():
    unfinished, state, go = Unfinished(), empty(), Worker(2, 1, 0, 0)
    for _ in range(4):
        with pytest.raises(Stop):
            unfinished.run("a", state, 5, go)
    assert len(unfinished.run("a", state, 5, go).story) == 5
    assert go.asked == [(0, 5), (2, 3), (3, 2), (3, 2), (3, 2)]


def test_a_longer_or_a_shorter_run_takes_what_fits():
    unfinished, state, go = Unfinished(), empty(), Worker(3)
    with pytest.raises(Stop):
        unfinished.run("a", state, 4, go)
    assert (
        len(unfinished.run("a", state, 2, go).story) == 2
    )  # two of the three would do, but they are one value
    assert len(unfinished.run("a", state, 9, go).story) == 9
    assert go.asked == [(0, 4), (0, 2), (3, 6)]


def test_another_request_or_another_state_takes_nothing():
    unfinished, state, go = Unfinished(), empty(), Worker(2)
    with pytest.raises(Stop):
        unfinished.run(("a", 1), state, 5, go)
    unfinished.run(("a", 2), state, 5, go)
    unfinished.run(("a", 1), replace(state), 5, go)  # equal, but another object: a branch of its own
    assert go.asked[1:] == [(0, 5), (0, 5)]
    unfinished.run(("a", 1), state, 5, go)
    assert go.asked[-1] == (2, 3)


def test_nothing_finished_keeps_nothing_and_forgets_nothing():
    unfinished, state, go = Unfinished(), empty(), Worker(2, 0)
    with pytest.raises(Stop):
        unfinished.run("a", state, 5, go)
    with pytest.raises(Stop):
        unfinished.run("b", state, 5, go)
    unfinished.run("a", state, 5, go)
    assert go.asked[-1] == (2, 3)


def test_one_run_is_kept_at_most():
    unfinished, state, go = Unfinished(), empty(), Worker(2, 2)
    for request in ("a", "b"):
        with pytest.raises(Stop):
            unfinished.run(request, state, 5, go)
    unfinished.run("a", state, 5, go)
    unfinished.run("b", state, 5, go)
    assert go.asked[2:] == [(0, 5), (2, 3)]


def test_what_was_taken_up_is_let_go():
    unfinished, state, go = Unfinished(), empty(), Worker(1)
    with pytest.raises(Stop):
        unfinished.run("a", state, 2, go)
    assert len(unfinished._kept[2].story) == 1
    unfinished.run("a", state, 2, go)
    assert unfinished._kept is None


@pytest.mark.parametrize("stop_at", [0, 2, 4, 6])
def test_a_real_stream_goes_on_bit_for_bit(stop_at):
    """Chunks of three calls under a new prompt, which first absorbs the last chunk again."""
    model, words = PACK.tiny_model(), prompt(PACK, "b")
    state, sampling = run(PACK, model, begin(PACK, model), "a"), stream.Sampling(seed=3, steps=2)
    calls, listening = [], [True]

    def cancelled():
        calls.append(None)
        if listening and len(calls) > stop_at:
            raise Stop
        return False

    def go(state, chunks):
        listener = host.Host(cancelled=cancelled)
        return stream.extend(model, state, words, sampling, plan=(2,) * chunks, host=listener)

    unfinished = Unfinished()
    with pytest.raises(Stop):
        unfinished.run("b", state, 2, go)
    listening.clear()
    calls.clear()
    after = unfinished.run("b", state, 2, go)
    assert_same_state(after, run(PACK, model, state, "b", plan=(2, 2), seed=3))
    assert len(calls) == (3 if stop_at >= 4 else 7)
    assert torch.isfinite(after.story[-1].latents).all()
