"""What README says of speed is what was measured, and the plot draws it. The measuring itself needs a GPU."""

import importlib
import json
import re
import sys

import numpy as np
import pytest
from pack import ROOT

RESULTS = ROOT / "benchmarks" / "results"
ROWS = {
    "480x832, 81 frames": "480p",
    "the same, 161": "480p_161",
    "the same, 321": "480p_321",
    "the same, 641": "480p_641",
    "704x1280": "720p",
    "LongSANA, a chunk": "chunk",
}
COLUMNS = "ours", "ours, fp8", "diffusers", "diffusers compiled"


@pytest.fixture(scope="module", autouse=True)
def _path():
    sys.path.insert(0, str(ROOT / "benchmarks"))
    yield
    sys.path.remove(str(ROOT / "benchmarks"))


def result(name):
    return json.loads((RESULTS / f"{name}_h100.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("begins", ROWS)
def test_readme_tells_what_was_measured(begins):
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    (row,) = re.findall(rf"^\| {re.escape(begins)}.*\|$", readme, re.MULTILINE)
    times = result("transformer")["cases"][ROWS[begins]]["times"]
    for told, version in zip(row.split("|")[2:-1], COLUMNS, strict=True):
        if not told.strip():
            assert version not in times
            continue
        measured = times[version]
        assert f"{measured['ms']:.0f} ms" in told, (version, measured)
        assert "GiB" not in told or f"{measured['peak_gib']:.1f} GiB" in told, (version, measured)


def test_readme_tells_what_a_stream_took():
    readme, stream = (ROOT / "README.md").read_text(encoding="utf-8"), result("stream")
    told = f"in {stream['s_per_chunk_median']:.2f} s (without decoding) with {stream['peak_gib_median']:.1f} GiB, in chunk {stream['chunks'][1]}"
    assert told in readme
    rise = importlib.import_module("stream").rise
    assert abs(rise(stream["s"])) < 0.0055
    assert abs(rise(stream["peak_gib"])) < 0.005


def test_a_rise_is_a_trend_and_no_hiccup():
    rise = importlib.import_module("stream").rise
    assert rise([2.0, 2.01, 2.02, 2.03, 2.04]) == pytest.approx(0.04 / 2.02)
    assert rise([1.0] * 30 + [9.0] + [1.0] * 30) == 0


def test_the_plot_draws_what_was_measured():
    length, stream = result("length"), result("stream")
    seconds, memory = importlib.import_module("plot").draw(length, stream).axes
    lines = {line.get_label(): line.get_xydata() for line in seconds.get_lines()}
    again = [[2.5 * row["past_chunks"], row["everything again"]["ms"] / 200] for row in length["rows"]]
    assert lines["all of the past computed again"] == pytest.approx(np.array(again))
    assert lines["the same, chunks 21 to 80"][0] == pytest.approx(np.array([50, stream["s"][0]]))
    kept = next(line for line in memory.get_lines() if line.get_label().startswith("full attention"))
    assert kept.get_ydata().tolist() == [row["full attention"]["peak_gib"] for row in length["rows"]]


def test_every_case_was_measured_with_its_errors():
    """The gates of the script: fused no worse than diffusers, 8 bits within 6 %."""
    cases = result("transformer")["cases"]
    assert set(cases) == set(ROWS.values())
    for case in cases.values():
        errors = case["error"]
        assert errors["ours"] <= 1.1 * errors["diffusers"]
        assert errors["ours, fp8"] < 0.06
