"""Skips what the oldest packages (`make floor`) leave no room for: the diffusers that tests compare with."""

from importlib.metadata import version

import pytest

HUB = "huggingface_hub"  # transformers 4 holds it below 1, and diffusers' pinned version needs more


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup():
    return (yield from _skipped_without_diffusers())


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call():
    return (yield from _skipped_without_diffusers())


def _skipped_without_diffusers():
    try:
        return (yield)
    except (ImportError, RuntimeError) as error:
        if version(HUB).startswith("0.") and HUB in str(error):
            pytest.skip(f"diffusers needs a newer {HUB}")
        raise
