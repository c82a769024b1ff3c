"""What README says of speed is what was measured, and the plot draws it. The measuring itself needs a GPU."""

import importlib
import json
import re
import sys

import numpy as np
import pytest
from support.pack import ROOT

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
    readme, stream = (ROOT / "README.md").read_text(encoding="utf-8"), result("stream_full")
    told = f"in {stream['s_per_chunk_median']:.2f} s (without decoding) with {stream['peak_gib_median']:.1f} GiB, in chunk {stream['chunks'][1]} as in chunk {stream['chunks'][0]}"
    assert told in readme
    for values in (stream["s"], stream["peak_gib"], stream["held_bytes"]):
        for rise in rises():
            assert rise(values) <= 0.005


def rises():
    module = importlib.import_module("stream")
    return module.rise, module.least_squares_rise


def test_a_rise_is_a_trend_and_no_hiccup():
    for rise in rises():
        assert rise([2.0, 2.01, 2.02, 2.03, 2.04]) == pytest.approx(0.04 / 2.02)
    robust, straight = rises()
    hiccup = [1.0] * 40 + [9.0] + [1.0] * 20
    assert robust(hiccup) == 0
    assert straight(hiccup) > 0.05


def test_a_stream_is_told_without_its_warm_chunks_and_hiccups():
    summary = importlib.import_module("stream").summary
    first = [(9.0, 8, 7), (1.0, 5, 20), (1.9, 5, 20), (1.2, 5, 20), (1.3, 5, 20)]
    again = [(9.0, 8, 7), (1.8, 6, 30), (1.1, 6, 31), (1.7, 6, 32), (1.6, 6, 33)]
    found = summary([first, again], warm=1)
    assert found["chunks"] == [2, 5]
    assert found["s"] == pytest.approx((1.0, 1.1, 1.2, 1.3))
    assert found["streams"] == [(1.0, 1.9, 1.2, 1.3), (1.8, 1.1, 1.7, 1.6)]
    assert found["s_per_chunk_median"] == pytest.approx(1.45)
    assert found["s_rise"] == found["s_rise_by_least_squares"] == pytest.approx(0.3 / 1.15)
    assert (found["peak_gib"], found["peak_rise"]) == ((6, 6, 6, 6), 0)
    assert (found["held_bytes"], found["held_rise"]) == ((30, 31, 32, 33), pytest.approx(3 / 31.5))


def test_the_plot_draws_what_was_measured():
    length, stream = result("length"), result("stream_full")
    seconds, memory = importlib.import_module("plot").draw(length, stream).axes
    lines = {line.get_label(): line.get_xydata() for line in seconds.get_lines()}
    again = [[2.5 * row["past_chunks"], row["everything again"]["ms"] / 250] for row in length["rows"]]
    assert lines["all of the past computed again"] == pytest.approx(np.array(again))
    told = f"the same, chunks 21 to 80, fastest of {len(stream['streams'])}"
    assert lines[told][0] == pytest.approx(np.array([50, stream["s"][0]]))
    assert memory.get_lines()[1].get_ydata().tolist() == stream["peak_gib"]
    kept = next(line for line in memory.get_lines() if line.get_label().startswith("full attention"))
    assert kept.get_ydata().tolist() == [row["full attention"]["peak_gib"] for row in length["rows"]]


def test_every_case_was_measured_with_its_errors():
    """The gates of the script: fused no worse than diffusers, 8 bits within 6 %."""
    cases = result("transformer")["cases"]
    assert set(cases) == set(ROWS.values())
    for case in cases.values():
        errors = case["error"]
        assert errors["ours"] <= errors["diffusers"]
        assert errors["ours, fp8"] < 0.06


@pytest.fixture
def report(monkeypatch):
    module = importlib.import_module("report")
    monkeypatch.setattr(module.torch.cuda, "get_device_name", lambda: "NVIDIA H100 80GB HBM3")
    return module


@pytest.mark.parametrize(
    "name, short",
    [
        ("NVIDIA H100 80GB HBM3", "h100"),
        ("NVIDIA GeForce RTX 4090", "rtx_4090"),
        ("AMD Radeon RX 7900 XTX", "rx_7900_xtx"),
    ],
)
def test_a_result_is_named_by_its_gpu(report, monkeypatch, name, short):
    monkeypatch.setattr(report.torch.cuda, "get_device_name", lambda: name)
    assert report.gpu() == short


def test_cases_of_the_same_code_are_joined(report, monkeypatch, tmp_path):
    def cases():
        return json.loads((tmp_path / "transformer_h100.json").read_text(encoding="utf-8"))["cases"]

    report.write(tmp_path, "transformer", {"cases": {"a": {"ms": 1.23456, "all": (1.5, 2)}}})
    report.write(tmp_path, "transformer", {"cases": {"b": {}}})
    assert cases() == {"a": {"ms": 1.235, "all": [1.5, 2]}, "b": {}}
    monkeypatch.setattr(report, "code", lambda: "other")
    report.write(tmp_path, "transformer", {"cases": {"c": {}}})
    assert cases() == {"c": {}}


def test_every_result_tells_its_origin():
    for path in RESULTS.glob("*.json"):
        assert {"gpu", "torch", "triton", "code"} <= set(json.loads(path.read_text(encoding="utf-8"))), path
