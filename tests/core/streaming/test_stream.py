"""The laws of the stream, interrupts, and refusals."""

import pytest
import torch
from support import checks_stream
from support.checks_stream import SIZE, assert_same_state, begin, prompt, run
from support.pack import Pack

PACK = Pack()
Contribution = PACK.core("transformer.memory").Contribution
errors, callbacks, stream = (PACK.core(name) for name in ("errors", "callbacks", "streaming.stream"))


@pytest.mark.parametrize("check", checks_stream.STREAM_CHECKS, ids=lambda check: check.__name__)
def test_law(check):
    check(PACK)


def test_few_step_grid_of_two_steps():
    """The formula in checks_stream relies on this."""
    assert PACK.core("sampling.schedule").few_step_sigmas(2) == (1.0, 0.889, 0.0)


def _extend(model, state, text="b", *, listener, plan=(2, 2), **sampling):
    chosen = stream.Sampling(seed=3, steps=2, **sampling)
    return stream.extend(model, state, prompt(PACK, text), chosen, plan=plan, callbacks=listener)


def _collect(states, finished):
    """Append every state as it comes, so that those before an exception are kept."""
    for state in states:
        finished.append(state)


@pytest.mark.parametrize("stop_at", range(7))
@pytest.mark.parametrize("raises", [False, True])
def test_interrupt_at_every_model_call(stop_at, raises):
    """Recache, then two chunks of 3 calls: whenever it stops, finished states equal an undisturbed run's."""
    model = PACK.tiny_model()
    state = run(PACK, model, begin(PACK, model), "a")
    before = [tensor.clone() for tensor in state.tensors()]
    calls = []

    def cancelled():
        calls.append(None)
        if raises and len(calls) > stop_at:
            raise KeyboardInterrupt
        return len(calls) > stop_at

    whole = list(_extend(model, state, listener=None))
    finished = []
    with pytest.raises(KeyboardInterrupt if raises else errors.Cancelled) as stopped:
        _collect(_extend(model, state, listener=callbacks.Callbacks(cancelled=cancelled)), finished)
    assert len(finished) == max(0, (stop_at - 1) // 3)
    for newer, expected in zip(finished, whole, strict=False):
        assert_same_state(newer, expected)
    assert all(map(torch.equal, state.tensors(), before))
    if not raises and stop_at:
        step, chunk = (stop_at - 1) % 3 + 1, (stop_at - 1) // 3 + 1
        assert f"step {step} of 3 in chunk {chunk} of 2" in str(stopped.value)
    again = finished[-1] if finished else state
    done = list(_extend(model, again, listener=None, plan=(2, 2)[len(finished) :]))
    assert_same_state(done[-1], whole[-1])


def test_progress_counts_every_call_with_finite_latents():
    model = PACK.tiny_model()
    state = run(PACK, model, begin(PACK, model), "a")
    reports = []
    list(_extend(model, state, listener=callbacks.Callbacks(progress=reports.append)))
    assert [(n.chunk, n.step) for n in reports] == [(0, 1), *((c, s) for c in (1, 2) for s in (1, 2, 3))]
    assert {(n.chunks, n.steps) for n in reports} == {(2, 3)}
    assert all(n.latents.isfinite().all() for n in reports)


def test_the_same_prompt_is_not_absorbed_again():
    model = PACK.tiny_model()
    state = run(PACK, model, begin(PACK, model), "a")
    reports = []
    list(_extend(model, state, "a", listener=callbacks.Callbacks(progress=reports.append), plan=(2,)))
    assert [(n.chunk, n.step) for n in reports] == [(1, 1), (1, 2), (1, 3)]


def test_the_last_prompt_decides_what_a_change_is():
    """a, b, b: the third is no change; a, b, a: the third is one."""
    model = PACK.tiny_model()
    state = run(PACK, model, run(PACK, model, begin(PACK, model), "a"), "b", plan=(2,))
    for words, calls in (("b", 3), ("a", 4)):
        reports = []
        list(_extend(model, state, words, listener=callbacks.Callbacks(progress=reports.append), plan=(2,)))
        assert len(reports) == calls


def test_the_history_holds_the_request():
    model = PACK.tiny_model()
    state = run(PACK, model, begin(PACK, model), "a", seed=11, loras=("style 1", "face 0.5"))
    chunk = state.history[0]
    assert (chunk.seed, chunk.prompt, chunk.digest) == (11, "a", "digest of a")
    assert chunk.loras == ("style 1", "face 0.5")
    assert not chunk.primed


def test_a_cut_of_an_empty_stream_changes_nothing():
    state = begin(PACK, PACK.tiny_model())
    assert_same_state(state.with_cut(), state)


def test_a_generator_that_is_closed_early_leaves_the_last_state():
    model = PACK.tiny_model()
    whole = list(_extend(model, begin(PACK, model), listener=None))
    states = _extend(model, begin(PACK, model), listener=None)
    first = next(states)
    states.close()
    assert_same_state(first, whole[0])
    assert_same_state(list(_extend(model, first, listener=None, plan=(2,)))[-1], whole[1])


@pytest.mark.parametrize("bad_call", range(1, 7))
def test_nan_and_inf_name_chunk_and_step(bad_call, monkeypatch):
    model = PACK.tiny_model()
    state = begin(PACK, model)
    calls = []
    final = type(model.blocks[1]).forward

    def broken(self, *args):
        x, (sums, tail) = final(self, *args)
        if self is model.blocks[1]:
            calls.append(None)
            if len(calls) == bad_call:
                return x * float("nan"), Contribution(type(sums)(sums.vk * float("inf"), sums.ksum), tail)
        return x, Contribution(sums, tail)

    monkeypatch.setattr(type(model.blocks[1]), "forward", broken)
    finished = []
    with pytest.raises(errors.ChunkError) as error:
        _collect(_extend(model, state, listener=None), finished)
    chunk, step = divmod(bad_call - 1, 3)
    assert f"step {step + 1} of 3 in chunk {chunk + 1} of 2" in str(error.value)
    assert len(finished) == chunk


def test_refusals_come_before_any_work():
    model = PACK.tiny_model()
    other = PACK.tiny_model(seed=1)
    state = run(PACK, model, begin(PACK, model))

    def nobody():
        raise AssertionError("the model was about to be called")

    listener = callbacks.Callbacks(cancelled=nobody)
    sampling, words = stream.Sampling(steps=1), prompt(PACK, "a")
    with pytest.raises(errors.StateError, match="was made by the model"):
        stream.extend(other, state, words, sampling, callbacks=listener)
    with pytest.raises(errors.InputError, match="2 prompts"):
        stream.extend(model, state, prompt(PACK, "a", rows=2), sampling, callbacks=listener)
    with pytest.raises(errors.InputError, match="0 chunks"):
        stream.extend(model, state, words, sampling, chunks=0, callbacks=listener)
    with pytest.raises(errors.InputError, match="1 to 102"):
        stream.extend(model, state, words, sampling, chunks=10**12, callbacks=listener)
    with pytest.raises(errors.InputError, match="is empty"):
        stream.extend(model, state, words, sampling, plan=(), callbacks=listener)
    clips = PACK.tiny_model(family="sana_video_480p")  # the same weights, which cannot tell
    for call in (
        lambda: stream.extend(clips, state, words, sampling, callbacks=listener),
        lambda: stream.prime(
            clips, begin(PACK, model), words, torch.zeros(1, 16, 1, 4, 6), callbacks=listener
        ),
    ):
        with pytest.raises(errors.InputError, match="block-causal"):
            call()
    with pytest.raises(errors.InputError, match="plan"):
        stream.extend(model, state, words, sampling, plan=(3, 0), callbacks=listener)
    with pytest.raises(errors.InputError, match="1 to 102"):
        stream.extend(model, state, words, sampling, chunks=103, callbacks=listener)
    stream.extend(model, state, words, sampling, chunks=102, callbacks=listener)
    with pytest.raises(errors.StateError, match="only an empty one"):
        stream.prime(model, state, words, torch.zeros(1, 16, 1, 4, 6))
    for wrong in (torch.zeros(1, 16, 1, 4, 8), torch.zeros(3, 16, 1, 4, 6), torch.zeros(16, 1, 4, 6)):
        with pytest.raises(errors.InputError, match="cannot prime"):
            stream.prime(model, begin(PACK, model), words, wrong)


class Facts:
    """What a request is checked against, and nothing that could be called."""

    def __init__(self, model) -> None:
        self.config, self.family, self.fingerprint = model.config, model.family, "a fingerprint"


def test_an_extension_is_planned_without_a_model_call():
    model = PACK.tiny_model()
    model.fingerprint = "a fingerprint"
    state, facts = run(PACK, model, begin(PACK, model)), Facts(model)
    a, b = prompt(PACK, "a"), prompt(PACK, "b")
    cut = stream.Sampling(on_prompt_change="cut")
    plan = stream.plan_extension
    same = plan(facts, state, a, cut, chunks=3)
    assert (same.state, same.entry, same.plan) == (state, "same", (10, 10, 10))
    start = plan(facts, begin(PACK, model), a, cut, chunks=2)
    assert (start.entry, start.plan) == ("start", (11, 10))
    for change in ("recache", "keep"):
        changed = plan(facts, state, b, stream.Sampling(on_prompt_change=change), plan=(2,))
        assert (changed.state, changed.entry, changed.plan) == (state, change, (2,))
    scene = plan(facts, state, b, cut)
    assert (scene.state.scene, scene.state.position, scene.state.memory) == (1, 0, None)
    assert (scene.entry, scene.plan) == ("cut", (11,))
    assert state.scene == 0
    for wrong, options in (
        ("1 to 102", {"chunks": 103}),
        ("room for 1021", {"chunks": 102, "plan": (1022,)}),
        ("0 chunks", {"chunks": 0}),
        ("2 prompts", {"prompt": prompt(PACK, "a", rows=2)}),
        ("was made by", {"model": Facts(PACK.tiny_model(heads=2)), "fingerprint": "another"}),
        ("block-causal", {"model": Facts(PACK.tiny_model(family="sana_video_480p"))}),
    ):
        judged = options.pop("model", facts)
        judged.fingerprint = options.pop("fingerprint", "a fingerprint")
        with pytest.raises(errors.SanaVideoError, match=wrong):
            plan(judged, state, options.pop("prompt", a), cut, **options)


def test_priming_is_checked_without_latents():
    model = PACK.tiny_model()
    model.fingerprint = "a fingerprint"
    stream.check_prime(Facts(model), begin(PACK, model))
    with pytest.raises(errors.StateError, match="only an empty one"):
        stream.check_prime(Facts(model), run(PACK, model, begin(PACK, model)))
    with pytest.raises(errors.InputError, match="block-causal"):
        stream.check_prime(Facts(PACK.tiny_model(family="sana_video_480p")), begin(PACK, model))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"sampler": "heun"}, "few_step, euler"),
        ({"on_prompt_change": "fade"}, "recache, keep, cut"),
        ({"rule": "theirs"}, "training, original"),
        ({"rule": "original", "sampler": "euler"}, "rule “training”, or the sampler few_step"),
        ({"rule": "original", "steps": 39}, "choose 1 to 38"),
        ({"sampler": "euler", "steps": 141}, "choose 1 to 140"),
        ({"steps": 0}, "1 to 1000"),
        ({"steps": 1001}, "1 to 1000"),
        ({"shift": 0.0}, "above 0"),
        ({"shift": float("nan")}, "above 0"),
    ],
)
def test_impossible_sampling(options, words):
    model = PACK.tiny_model()
    with pytest.raises(errors.InputError, match=words):
        stream.extend(model, begin(PACK, model), prompt(PACK, "a"), stream.Sampling(**options))


def test_the_limit_holds_per_scene():
    """Past 1024 latent frames the scene is full, and a cut makes room."""
    model = PACK.tiny_model(depth=1)
    state = begin(PACK, model)
    latents = torch.zeros(1, 16, 1019, 4, 6)
    state = stream.prime(model, state, prompt(PACK, "a"), latents)
    assert state.position == 1019
    with pytest.raises(errors.InputError, match="room for 5 more"):
        run(PACK, model, state, "a", plan=(6,))
    assert run(PACK, model, state, "a", plan=(5,), steps=1).position == 1024
    cut = run(PACK, model, state, "b", plan=(6,), steps=1, on_prompt_change="cut")
    assert (cut.scene, cut.position) == (1, 6)


def test_start_refuses_what_cannot_stream():
    with pytest.raises(errors.InputError, match="longsana_480p"):
        begin(PACK, PACK.tiny_model(family="sana_video_480p"))
    model = PACK.tiny_model()
    for wrong in ({"height": 40}, {"width": 0}, {"batch": 0}, {"window": 0}):
        with pytest.raises(errors.InputError):
            begin(PACK, model, **wrong)


def test_check_fits_names_both_sides():
    model = PACK.tiny_model()
    state, check = begin(PACK, model, batch=2), PACK.core("streaming.state").check_fits
    check(state, model, **SIZE, batch=2)
    with pytest.raises(errors.StateError, match=r"48 x 32.*64 x 32"):
        check(state, model, height=32, width=64)
    check(state, model, height=32)
    with pytest.raises(errors.StateError, match=r"48 x 32.*48 x 64"):
        check(state, model, height=64)
    with pytest.raises(errors.StateError, match=r"batch of 2.*1 was"):
        check(state, model, batch=1)


def test_a_batch_row_is_the_stream_of_its_own_seed():
    model = PACK.tiny_model()
    both = run(PACK, model, begin(PACK, model, batch=2), plan=(3, 2), seed=11)
    second = run(PACK, model, begin(PACK, model), plan=(3, 2), seed=12)
    assert torch.allclose(both.history[1].latents[1], second.history[1].latents[0], atol=1e-4)


def test_bfloat16_model_keeps_float32_sums_and_history():
    model = PACK.tiny_model().to(torch.bfloat16)
    state = run(PACK, model, begin(PACK, model), plan=(3, 2))
    block = state.memory[0]
    assert (block.vk.dtype, block.ksum.dtype) == (torch.float32, torch.float32)
    assert block.tail.dtype == torch.bfloat16
    assert state.history[0].latents.dtype == torch.float32
