"""SANA-Video 2.0 against what the original computed (tests/data/sana2)."""

import pytest
import torch
from support.checks_sana2 import CHECKS
from support.pack import Pack, assert_close
from support.sana2 import golden2, model2

PACK = Pack()
InputError = PACK.core("errors").InputError


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_parity(check):
    check(PACK)


@torch.no_grad()
def test_bf16():
    """The original's own bf16 run is 0.042 off."""
    g = golden2("forward")
    model = model2(PACK).to(torch.bfloat16)
    out = model(g["in_x"], g["in_t"], g["in_y"][:, 0], g["in_mask"])
    assert ((out - g["out"]).norm() / g["out"].norm()).item() <= 0.05


@torch.no_grad()
def test_prepared_text_serves_a_batch():
    g, model = golden2("forward"), model2(PACK)
    text = g["in_y"][:1, 0], g["in_mask"][:1]
    both = model(g["in_x"], g["in_t"], model.prepare_text(*text))
    assert_close(both[1:], model(g["in_x"][1:], g["in_t"][1:], *text), 1e-4)


def test_refusals():
    g, model = golden2("forward"), model2(PACK)
    x, t, y = g["in_x"], g["in_t"], g["in_y"][:, 0]
    for latents, times, words in (
        (x[:, :5], t, "this model takes"),
        (x, torch.zeros(2, 3), "one per token"),
        (x, torch.zeros(3), "one per token"),
    ):
        with pytest.raises(InputError, match=words):
            model(latents, times, y)
    with pytest.raises(InputError, match="bfloat16 or float32"):
        model.to(torch.float16)(x, t, y)
