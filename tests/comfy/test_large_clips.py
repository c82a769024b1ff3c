"""Workflows of 720p and of SANA-Video 2.0 in a real ComfyUI, on small weights in the published formats."""

import json

import numpy as np
import pytest
from comfyui_sana_video.workflows.build import NAMES
from support.comfyui import ROOT, film_of, needs_comfyui
from support.large_models import furnish, with_demo_text

pytestmark = needs_comfyui


@pytest.fixture(scope="module")
def furnished(server):
    furnish(server.base / "models")
    return server


@pytest.mark.parametrize("number", ["8", "10", "11"])
def test_it_ends_in_a_film(furnished, number):
    text = (ROOT / "workflows" / "api" / f"{NAMES[number]}.json").read_text(encoding="utf-8")
    prompt = with_demo_text(json.loads(text), width=96, height=64, length=17)
    sampler = next(node for node in prompt.values() if node["class_type"] == "SanaVideoSampler")
    steps = 4 if number == "10" else 50
    run = furnished.run(prompt)
    assert run.error is None, run.error["exception_message"]
    # the model's own number, by the file's name or its widget
    said = run.words[next(key for key, node in prompt.items() if node is sampler)]
    assert f"{steps} steps" in said or f"of {steps}" in said, said
    frames = np.stack(film_of(run))
    assert frames.shape == (17, 64, 96, 3)
    assert frames.std() > 1
