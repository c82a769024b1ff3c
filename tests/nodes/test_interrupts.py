"""ComfyUI's interrupt in the middle of sampling: it is heard at once, and what was finished is not made again."""

from contextlib import contextmanager

import comfy.model_management as management
import pytest
from comfyui_sana_video.bridge import sampling
from support.artist import begun, demo, folders, refused, same_state, sample, start

CALLS = 3  # of a chunk: two steps, and the clean pass


@pytest.fixture(autouse=True)
def base(tmp_path, monkeypatch):
    monkeypatch.setattr(sampling, "INTERRUPTED", sampling.InterruptedRun())
    with folders(tmp_path):
        yield tmp_path
    management.interrupt_current_processing(False)


@contextmanager
def calls(stop_at: int | None = None):
    """Counts the model calls in the block; during number `stop_at` somebody presses stop."""
    module, made = demo().model.model.diffusion_model, []
    inner = module._forward

    def counted(*arguments, **options):
        made.append(None)
        if len(made) == stop_at:
            management.interrupt_current_processing()
        return inner(*arguments, **options)

    module._forward = counted
    try:
        yield made
    finally:
        del module._forward


def stopped(state, stop_at, chunks=3, **options):
    with calls(stop_at) as made, pytest.raises(management.InterruptProcessingException):
        sample(state, chunks, **options)
    assert len(made) == stop_at, "the interrupt was not heard before the next model call"


@pytest.mark.parametrize("stop_at", [1, CALLS, CALLS + 2, 2 * CALLS + 1])
def test_the_next_run_takes_up_what_was_finished(stop_at):
    state = start()
    stopped(state, stop_at)
    finished = (stop_at - 1) // CALLS if stop_at % CALLS else stop_at // CALLS
    with calls() as made:
        latent, after, frames = sample(state, 3)
    # a stop in the chunk's last call is heard at the next chunk's first, so that chunk is finished
    assert len(made) == CALLS * (3 - finished)
    whole_latent, whole, _ = sample(start(), 3)
    assert same_state(after, whole)
    assert frames == 121
    assert latent["samples"].equal(whole_latent["samples"])


def test_a_run_may_be_stopped_again_and_again():
    state = start()
    stopped(state, 4)  # one chunk
    stopped(state, 4)  # another one
    with calls() as made:
        after = sample(state, 3)[1]
    assert len(made) == CALLS
    assert same_state(after, sample(start(), 3)[1])


def test_the_absorbing_under_a_new_prompt_is_not_repeated():
    _, state, _ = begun()
    other = {"positive": demo().other}
    stopped(state, 1 + CALLS + 1, 2, **other)
    with calls() as made:
        after = sample(state, 2, **other)[1]
    assert len(made) == CALLS
    assert same_state(after, sample(sample()[1], 2, **other)[1])


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 4},
        {"steps": 3},
        {"sampler": "euler"},
        {"on_prompt_change": "keep"},
        {"positive": "other"},
        {"model": "patched"},
    ],
    ids=lambda change: next(iter(change)),
)
def test_another_request_does_not_take_it(change):
    state, options = start(), dict(change)
    if "positive" in options:
        options["positive"] = demo().other
    if "model" in options:
        options["model"] = demo().model.clone()
        options["model"].patches_uuid = "with a LoRA"
    stopped(state, CALLS + 1, 2)
    with calls() as made:
        after = sample(state, 2, **options)[1]
    assert len(made) == 2 * (options.get("steps", 2) + 1)
    assert same_state(after, sample(start(), 2, **options)[1])


def test_a_state_that_only_looks_the_same_does_not_take_it():
    stopped(start(), CALLS + 1, 2)
    with calls() as made:
        sample(start(), 2)
    assert len(made) == 2 * CALLS


def test_a_clone_without_patches_takes_it():
    """ComfyUI clones a MODEL in many nodes; that alone is no other request."""
    state = start()
    stopped(state, CALLS + 1, 2)
    with calls() as made:
        sample(state, 2, model=demo().model.clone())
    assert len(made) == CALLS


def test_a_chunk_that_fails_keeps_those_before_it(monkeypatch):
    state, module = start(), demo().model.model.diffusion_model
    inner, made = module._forward, []

    def broken(*arguments, **options):
        made.append(None)
        result = inner(*arguments, **options)
        return result * float("nan") if len(made) == CALLS + 1 else result

    monkeypatch.setattr(module, "_forward", broken)
    with refused("NaN or Inf", "chunk 2 of 2"):
        sample(state, 2)
    sample(state, 2)
    assert len(made) == CALLS + 1 + CALLS
