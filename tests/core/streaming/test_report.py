"""What a state holds, as text and as a filmstrip."""

from dataclasses import replace

import numpy as np
import torch
from PIL import Image
from support.checks_stream import begin, prompt, run
from support.pack import Pack

PACK = Pack()
report, filmstrip = PACK.core("streaming.report").report, PACK.core("streaming.report").filmstrip
LABEL_HEIGHT = PACK.core("files.image_file").LABEL_HEIGHT


def _stream():
    """Three chunks in two scenes, the first one primed."""
    model = PACK.tiny_model(depth=1)
    image = torch.zeros(1, 16, 1, 4, 6)
    state = PACK.core("streaming.stream").prime(model, begin(PACK, model), prompt(PACK, "a cat"), image)
    state = run(PACK, model, state, "a cat", plan=(2,), steps=1, loras=("soft", "loud 0.5"))
    return run(PACK, model, state, "a dog", plan=(3,), steps=1, seed=9, on_prompt_change="cut")


def test_report_says_everything():
    state = _stream()
    lines = report(state).splitlines()
    assert len(lines) == 3 + 3
    identity = state.identity
    assert lines[0].split() == ["model", "longsana_480p,", "fingerprint", identity.fingerprint[:12]]
    # 9 frames of the first scene, 9 of the second
    assert "48 x 32, batch 1, 3 chunks, 18 frames (1.1 s)" in lines[1]
    assert f"{state.bytes / 2**20:.1f} MiB, window none (the whole past)" in lines[2]
    assert lines[3] == "chunk 0      scene 0, 1 latent frames, primed: a cat"
    assert lines[4] == "chunk 1      scene 0, 2 latent frames, seed 7, LoRAs soft, loud 0.5: a cat"
    assert lines[5] == "chunk 2      scene 1, 3 latent frames, seed 9: a dog"


def test_report_of_an_empty_stream_and_of_a_window():
    model = PACK.tiny_model(depth=1)
    lines = report(begin(PACK, model, batch=3, window=2)).splitlines()
    assert len(lines) == 3
    assert "batch 3, 0 chunks, 0 frames (0.0 s)" in lines[1]
    assert "window 2" in lines[2]


def test_report_counts_bytes_of_what_is_held():
    state = _stream()
    big = replace(state, history=state.history * 4000)
    megabytes = sum(chunk.latents.nbytes for chunk in big.history) / 2**20
    assert megabytes > 10
    assert f"history {megabytes:.1f} MiB" in report(big)


def test_filmstrip_shows_the_middle_of_every_chunk():
    state, shown = _stream(), []

    def picture(latents):
        shown.append(latents)
        return Image.new("RGB", (60, 40), (60 * len(shown), 0, 0))

    strip, top = filmstrip(state, picture), 2 * LABEL_HEIGHT
    assert strip.size == (3 * 160, top + 107 + LABEL_HEIGHT)
    middles = [c.latents[:, :, c.length // 2 : c.length // 2 + 1] for c in state.history]
    assert [latents.shape for latents in shown] == [(1, 16, 1, 4, 6)] * 3
    assert all(a.equal(b) for a, b in zip(shown, middles, strict=True))
    pixels = np.asarray(strip)
    assert [int(pixels[top + 50, 80 + 160 * cell, 0]) for cell in range(3)] == [60, 120, 180]
    labels = [pixels[top + 107 :, 160 * cell : 160 * (cell + 1)] for cell in range(3)]
    assert all(label.max() > 100 for label in labels), "a label is missing"
    assert pixels[:LABEL_HEIGHT].max() > 100, "the text is missing"


def test_a_long_filmstrip_shows_chunks_at_even_distances():
    state, shown = _stream(), []
    long = replace(state, history=state.history * 20)  # 60 chunks

    def picture(latents):
        shown.append(latents)
        return Image.new("RGB", (60, 40))

    strip = filmstrip(long, picture)
    assert len(shown) == 20  # every third
    assert strip.size == (3 * 160, 2 * LABEL_HEIGHT + 7 * (107 + LABEL_HEIGHT))


def test_filmstrip_of_an_empty_stream_is_text():
    strip = filmstrip(begin(PACK, PACK.tiny_model(depth=1)), lambda latents: 1 / 0)
    assert strip.size == (480, 2 * LABEL_HEIGHT)
    assert np.asarray(strip).max() > 100
