"""What a state holds, as text and as a filmstrip."""

from dataclasses import replace

import numpy as np
import torch
from PIL import Image
from support.checks_stream import begin, prompt, run
from support.pack import Pack

PACK = Pack()
core = PACK.core("streaming.report")
report, filmstrip, brief = core.report, core.filmstrip, core.brief
PAPER = PACK.core("files.filmstrip").PAPER


def _stream():
    """Three chunks in two scenes, the first one primed."""
    model = PACK.tiny_model(depth=1)
    image = torch.zeros(1, 16, 1, 4, 6)
    state = PACK.core("streaming.stream").prime(model, begin(PACK, model), prompt(PACK, "a cat"), image)
    state = run(PACK, model, state, "a cat", plan=(2,), steps=1, loras=("soft 1", "loud 0.5"))
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
    assert lines[4] == "chunk 1      scene 0, 2 latent frames, seed 7, LoRAs soft 1, loud 0.5: a cat"
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


def test_the_short_text_has_a_line_for_each_prompt():
    state = _stream()
    first, *chunks = brief(state)
    assert first.startswith("3 chunks · 18 frames · 1.1 s · 48 x 32 · memory ")
    assert chunks == ["chunks 0 to 1 · 0.6 s: a cat", "chunk 2 · 1.1 s: a dog"]
    long = brief(replace(state, history=state.history * 20))
    assert len(long) == 1 + 10 + 1 + 10
    assert long[11] == "… 20 more …"
    assert long[-1].startswith("chunk 59 · ")
    wordy = replace(state.history[0], prompt="a cat " * 40)
    assert len(brief(replace(state, history=(wordy,)))[1]) < 125


def test_filmstrip_shows_the_middle_of_every_chunk():
    state, shown = _stream(), []

    def picture(latents):
        shown.append(latents)
        return Image.new("RGB", (60, 36), (60 * len(shown), 0, 0))

    pixels = np.asarray(filmstrip(state, picture))
    assert pixels.shape[1] == 480
    middles = [c.latents[:, :, c.length // 2 : c.length // 2 + 1] for c in state.history]
    assert [latents.shape for latents in shown] == [(1, 16, 1, 4, 6)] * 3
    assert all(a.equal(b) for a, b in zip(shown, middles, strict=True))
    assert [int(pixels[60, 80 + 163 * cell, 0]) for cell in range(3)] == [60, 120, 180]
    for cell in range(3):  # label and prompt
        assert pixels[-45:, 163 * cell : 163 * cell + 60].max() > 200, "a prompt is missing"
    assert pixels[:20].max() > 150, "the text is missing"
    assert pixels.max(-1).min() >= PAPER[0], "a black cell"


def _shown(chunks: int):
    """The latents that a strip of so many chunks shows, and the strip."""
    state, shown = _stream(), []
    history = (state.history * chunks)[:chunks]
    marked = tuple(replace(c, latents=c.latents * 0 + n, scene=0) for n, c in enumerate(history))

    def picture(latents):
        shown.append(int(latents.max()))
        return Image.new("RGB", (60, 36), (200, 200, 200))

    return shown, np.asarray(filmstrip(replace(state, history=marked), picture))


def test_a_long_filmstrip_shows_the_ends_and_what_lies_evenly_between():
    assert _shown(60)[0] == [0, 12, 24, 35, 47, 59]
    assert _shown(7)[0] == [0, 1, 2, 4, 5, 6]


def test_every_row_of_a_filmstrip_is_full():
    for chunks in range(1, 8):
        strip = _shown(chunks)[1]
        assert strip.shape[0] <= 480, "taller than wide: too small on a node"
        assert strip.max(-1).min() >= PAPER[0], f"a black cell with {chunks} chunks"
        last_row = strip[:, 475, 0]  # the right edge of the last cell of each row
        assert (last_row == 200).sum() >= 60, f"an empty cell with {chunks} chunks"


def test_a_prompt_is_wrapped_and_shortened_to_its_cell():
    wrapped = PACK.core("files.filmstrip")._wrapped
    assert wrapped("a red ball", 480) == ["a red ball"]
    lines = wrapped("a red ball moves right over a blue floor and bounces back from the wall " * 3, 155)
    assert len(lines) == 3
    assert lines[0] == "a red ball moves"
    assert lines[2].endswith(" …")
    assert wrapped("“a café” – it’s blue…", 480) == ["“a café” – it’s blue…"]
    assert wrapped("一只红色的球", 480) == ["(see the report)"]


def test_filmstrip_of_an_empty_stream_is_text():
    strip = filmstrip(begin(PACK, PACK.tiny_model(depth=1)), lambda latents: 1 / 0)
    assert strip.size == (480, 28)
    assert np.asarray(strip).max() > 150
