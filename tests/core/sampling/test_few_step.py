"""The few-step sampler's rules: as LongSANA was trained, and as the original's inference script runs it."""

import pytest
import torch
from support.pack import Pack, assert_close, same

PACK = Pack()
schedule, solvers, config, errors = (
    PACK.core(name) for name in ("sampling.schedule", "sampling.solvers", "config", "errors")
)
LIST = (1000, 960, 889, 727)
SHAPE = (1, 16, 3, 4, 6)


def _table(timesteps):
    """The original's look-up: 1000 float32 sigmas of shift 7, the nearest timestep in float64."""
    u = torch.linspace(1, 0, 1001)[:-1]
    sigmas = 7 * u / (1 + 6 * u)
    return sigmas[(1000 * sigmas.double() - timesteps.double()[:, None]).abs().argmin(dim=1)]


def _draw(number):
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(number))


def _originals_loop(network):
    """LongLiveFlowEuler.sample for one chunk, in its dtypes but for float32 latents: bf16 timesteps are read
    by the network and looked up for the clean estimate (float64), int64 ones for the noise."""
    x = _draw(0)
    for number, timestep in enumerate(LIST):
        read = torch.ones(1, dtype=torch.bfloat16) * timestep
        sigma = _table(read).double()
        clean = (x.double() - sigma * network(x, read).double()).float()
        if number + 1 == len(LIST):
            return clean
        following = _table(torch.ones(1, dtype=torch.long) * LIST[number + 1])
        x = (1 - following) * clean + following * _draw(number + 1)
    raise AssertionError


def test_levels_of_four_steps():
    sigmas = schedule.few_step_sigmas(4)
    assert sigmas == (1.0, 0.96, 0.889, 0.727, 0.0)
    for level, sigma in zip(schedule.few_step_levels(sigmas), sigmas, strict=False):
        assert level == (sigma, sigma, sigma)
    levels = schedule.few_step_levels(sigmas, "original")
    assert [1000 * level.network for level in levels] == [1000, 960, 888, 728]
    exact, read = (torch.tensor(t) for t in (LIST, (1000, 960, 888, 728)))
    assert_close(torch.tensor([level.estimate for level in levels]), _table(read), 1e-7)
    assert_close(torch.tensor([level.noise for level in levels]), _table(exact), 1e-7)
    assert [round(level.estimate, 6) for level in levels[2:]] == [0.887960, 0.7284]
    assert [round(level.noise, 6) for level in levels[2:]] == [0.889153, 0.72741]


@torch.no_grad()
def test_the_rule_original_is_the_originals_loop():
    """On a network; the other rule differs from it by far more than rounding."""
    model, seen = PACK.tiny_model(), []
    text = torch.randn(1, 5, 24, generator=torch.Generator().manual_seed(9))

    def network(x, timesteps):
        return model(x, timesteps.float(), text)

    def velocity(x, sigma):
        seen.append(round(1000 * sigma, 3))
        return network(x, torch.tensor([1000 * sigma]))

    expected = _originals_loop(network)
    sigmas = schedule.few_step_sigmas(4)
    assert_close(solvers.sample_few_step(velocity, _draw, sigmas, "original"), expected, 1e-5)
    assert seen == [1000, 960, 888, 728]
    trained = solvers.sample_few_step(velocity, _draw, sigmas)
    assert seen[4:] == list(LIST)
    assert (trained - expected).abs().max() > 1e-4


def test_a_stream_takes_the_rule_and_its_history_says_it():
    from support.checks_stream import begin, run

    model = PACK.tiny_model()
    report = PACK.core("streaming.report").report
    trained, original = (
        run(PACK, model, begin(PACK, model), steps=4, **rule) for rule in ({}, {"rule": "original"})
    )
    assert not torch.equal(trained.history[0].latents, original.history[0].latents)
    assert [state.history[0].rule for state in (trained, original)] == list(config.STREAM_RULES)
    assert "seed 7, rule original: a" in report(original)
    assert "rule" not in report(trained)
    chained = run(PACK, model, original, steps=4, rule="original", plan=(2,))
    whole = run(PACK, model, begin(PACK, model), steps=4, rule="original", plan=(3, 2))
    assert same(chained.history[1].latents, whole.history[1].latents)


@pytest.mark.parametrize(
    "rule, shift, most",
    [("training", 8.0, 140), ("training", 100.0, 14), ("training", 0.01, 14), ("original", 8.0, 38)],
)
def test_steps_with_equal_neighbours_are_refused(rule, shift, most):
    """Timesteps are whole numbers, so they run out; the sentence names the most steps possible."""
    sigmas = schedule.few_step_sigmas(most, shift, rule)
    levels = schedule.few_step_levels(sigmas, rule)
    for use in zip(*levels, strict=True):
        assert len(set(use)) == most
        assert min(use) > 0
    for steps in (most + 1, 1000):
        with pytest.raises(errors.InputError, match=f"{steps} steps .*choose 1 to {most} "):
            schedule.few_step_sigmas(steps, shift, rule)


def test_an_evenly_spaced_grid_has_room_for_all_steps():
    assert len(set(schedule.few_step_sigmas(1000, 1.0))) == 1001
