"""Noise levels of clips; the grids themselves are compared with diffusers in checks_diffusers."""

import math
from itertools import pairwise

import pytest
from support.pack import Pack

PACK = Pack()
schedule, errors = PACK.core("sampling.schedule"), PACK.core("errors")
GRIDS = {"dpm++": schedule.dpm_sigmas, "euler": schedule.euler_sigmas}


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("steps", [1, 2, 50])
def test_a_whole_denoise_is_the_grid(grid, steps):
    assert schedule.clip_sigmas(steps, 8.0, 1.0, grid) == GRIDS[grid](steps, 8.0)
    if steps > 1:
        assert schedule.clip_sigmas(steps, 3.0, 1.0, grid) != schedule.clip_sigmas(steps, 8.0, 1.0, grid)


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("steps, denoise, whole", [(10, 0.5, 20), (3, 0.4, 8), (7, 0.99, 7), (4, 0.01, 400)])
def test_a_part_is_the_end_of_a_longer_grid(grid, steps, denoise, whole):
    sigmas = schedule.clip_sigmas(steps, 8.0, denoise, grid)
    assert len(sigmas) == steps + 1
    assert sigmas == GRIDS[grid](whole, 8.0)[-(steps + 1) :]
    assert sigmas[-1] == 0
    assert all(a > b for a, b in pairwise(sigmas))


def test_less_denoising_starts_lower():
    firsts = [schedule.clip_sigmas(10, 8.0, denoise, "dpm++")[0] for denoise in (1.0, 0.8, 0.5, 0.2)]
    assert firsts == sorted(firsts, reverse=True)
    assert len(set(firsts)) == 4


@pytest.mark.parametrize("denoise", [0, -0.5, 1.01, math.nan, math.inf])
def test_an_impossible_denoise_is_refused(denoise):
    with pytest.raises(errors.InputError, match="above 0 and at most 1"):
        schedule.clip_sigmas(4, 8.0, denoise, "dpm++")


@pytest.mark.parametrize("options", [(0, 8.0), (1001, 8.0), (4, 0.0), (4, math.nan)])
def test_impossible_steps_and_shifts_are_refused(options):
    with pytest.raises(errors.InputError):
        schedule.clip_sigmas(*options, 1.0, "euler")
