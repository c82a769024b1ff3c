"""ComfyUI's interrupt in the middle of sampling: it acts at once, and finished chunks are not made again."""

from contextlib import contextmanager

import comfy.model_management as management
import pytest
from comfyui_sana_video.bridge import sampling
from support.artist import demo, folders, one_chunk, refused, same_state, sample, start

CALLS = 3  # in a chunk: two steps, and the clean pass


@pytest.fixture(autouse=True)
def base(tmp_path, monkeypatch):
    monkeypatch.setattr(sampling, "INTERRUPTED", sampling.InterruptedRun())
    with folders(tmp_path):
        yield tmp_path
    management.interrupt_current_processing(False)


@contextmanager
def calls(stop_at: int | None = None):
    """Counts the model calls in the block; somebody presses stop during call number `stop_at`."""
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
    assert len(made) == stop_at, "the model was called again after the interrupt"


@pytest.mark.parametrize("stop_at", [1, CALLS, CALLS + 2, 2 * CALLS + 1])
def test_the_next_run_resumes_after_the_finished_chunks(stop_at):
    state = start()
    stopped(state, stop_at)
    finished = (stop_at - 1) // CALLS if stop_at % CALLS else stop_at // CALLS
    with calls() as made:
        latent, after, frames = sample(state, 3)
    # a stop in a chunk's last call acts at the next chunk's first, so that chunk is finished
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


def test_the_recache_is_not_repeated():
    _, state, _ = one_chunk()
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
def test_another_request_does_not_resume_it(change):
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


def test_an_equal_but_different_state_does_not_resume_it():
    stopped(start(), CALLS + 1, 2)
    with calls() as made:
        sample(start(), 2)
    assert len(made) == 2 * CALLS


def test_a_clone_without_patches_resumes_it():
    """ComfyUI clones a MODEL in many nodes; a clone alone is the same request."""
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
