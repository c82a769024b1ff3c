"""The same weights and inputs through diffusers' own classes."""

import pytest
from support import checks_diffusers
from support.pack import Pack


@pytest.mark.parametrize("check", checks_diffusers.DIFFUSERS_CHECKS, ids=lambda check: check.__name__)
def test_parity(check):
    check(Pack())
