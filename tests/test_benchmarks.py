"""The numbers in docs/speed.md are those measured, and the plot draws them. Measuring itself needs a GPU."""

import json
import re

import numpy as np
import pytest
from comfyui_sana_video.benchmarks import decode, end_to_end, film, plot, report, stream, timing
from support.pack import ROOT

PAGE = ROOT / "docs" / "speed.md"
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


def result(name, gpu="h100"):
    return json.loads((RESULTS / f"{name}_{gpu}.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("begins", ROWS)
def test_the_table_has_the_measured_numbers(begins):
    (row,) = re.findall(rf"^\| {re.escape(begins)}.*\|$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    times = result("transformer")["cases"][ROWS[begins]]["times"]
    for cell, version in zip(row.split("|")[2:-1], COLUMNS, strict=True):
        if not cell.strip():
            assert version not in times
            continue
        measured = times[version]
        assert f"{measured['ms']:.0f} ms" in cell, (version, measured)
        assert "GiB" not in cell or f"{measured['peak_gib']:.1f} GiB" in cell, (version, measured)


def test_the_first_numbers_are_a_film_s():
    film, page = result("end_to_end", "h200")["cases"]["full, 1 GPU"], PAGE.read_text(encoding="utf-8")
    rate = film["overlap on"]["frames_per_s"]
    assert rate == pytest.approx(film["frames"] / film["overlap on"]["total_s"], rel=1e-3)
    assert f"**{rate:.1f} frames/s**" in page
    assert f"preset {film['preset']} on {film['cpu_cores']} cores" in " ".join(page.split())
    assert f"at {rate:.0f} frames a second on one H200" in (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_page_says_how_long_decoding_took():
    page, case = PAGE.read_text(encoding="utf-8"), result("decode", "h200")["cases"]["decode"]
    versions = "ours", "ours, plain", "diffusers"
    times = (f"{case['times'][version]['ms']:.0f} ms" for version in versions)
    assert f"| VAE: decoding | {' | '.join(times)} |" in page
    errors = (f"{case['error'][version]:.2e}".replace("e-0", "e-") for version in versions)
    assert f"relative to float32 | {' | '.join(errors)} |" in page
    faster = case["times"]["diffusers"]["ms"] / case["times"]["ours"]["ms"]
    assert f"and the VAE {faster:.1f} times" in (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_page_says_how_long_a_chunk_took():
    measured = result("stream_full")
    seconds, memory = f"{measured['s_per_chunk_median']:.2f} s", f"{measured['peak_gib_median']:.1f} GiB"
    first, last = measured["chunks"]
    sentence = f"in {seconds} (without decoding) with {memory}, in chunk {last} as in chunk {first}"
    assert sentence in PAGE.read_text(encoding="utf-8")
    for values in (measured["s"], measured["peak_gib"], measured["held_bytes"]):
        assert stream.rise(values) <= 0.005
        assert stream.least_squares_rise(values) <= 0.005


def test_a_rise_is_a_trend_and_not_a_hiccup():
    for rise in (stream.rise, stream.least_squares_rise):
        assert rise([2.0, 2.01, 2.02, 2.03, 2.04]) == pytest.approx(0.04 / 2.02)
    hiccup = [1.0] * 40 + [9.0] + [1.0] * 20
    assert stream.rise(hiccup) == 0
    assert stream.least_squares_rise(hiccup) > 0.05


def test_a_summary_leaves_out_warm_chunks_and_hiccups():
    first = [(9.0, 8, 7), (1.0, 5, 20), (1.9, 5, 20), (1.2, 5, 20), (1.3, 5, 20)]
    again = [(9.0, 8, 7), (1.8, 6, 30), (1.1, 6, 31), (1.7, 6, 32), (1.6, 6, 33)]
    summary = stream.summary([first, again], warm=1)
    assert summary["chunks"] == [2, 5]
    assert summary["s"] == pytest.approx((1.0, 1.1, 1.2, 1.3))
    assert summary["streams"] == [(1.0, 1.9, 1.2, 1.3), (1.8, 1.1, 1.7, 1.6)]
    assert summary["s_per_chunk_median"] == pytest.approx(1.45)
    assert summary["s_rise"] == summary["s_rise_by_least_squares"] == pytest.approx(0.3 / 1.15)
    assert (summary["peak_gib"], summary["peak_rise"]) == ((6, 6, 6, 6), 0)
    assert (summary["held_bytes"], summary["held_rise"]) == ((30, 31, 32, 33), pytest.approx(3 / 31.5))


def test_the_plot_draws_what_was_measured():
    length, chunks = result("length"), result("stream_full")
    seconds, memory = plot.draw(length, chunks).axes
    lines = {line.get_label(): line.get_xydata() for line in seconds.get_lines()}
    again = [[2.5 * row["past_chunks"], row["everything again"]["ms"] / 250] for row in length["rows"]]
    assert lines["all of the past computed again"] == pytest.approx(np.array(again))
    label = f"the same, chunks 21 to 80, fastest of {len(chunks['streams'])}"
    assert lines[label][0] == pytest.approx(np.array([50, chunks["s"][0]]))
    assert memory.get_lines()[1].get_ydata().tolist() == chunks["peak_gib"]
    kept = next(line for line in memory.get_lines() if line.get_label().startswith("full attention"))
    assert kept.get_ydata().tolist() == [row["full attention"]["peak_gib"] for row in length["rows"]]


def test_every_case_was_measured_with_its_errors():
    """The script's own limits: fused no worse than diffusers, fp8 within 6 %."""
    cases = result("transformer")["cases"]
    assert set(cases) == set(ROWS.values())
    for case in cases.values():
        errors = case["error"]
        assert errors["ours"] <= errors["diffusers"]
        assert errors["ours, fp8"] < 0.06


@pytest.mark.parametrize(
    "name, short",
    [
        ("NVIDIA H100 80GB HBM3", "h100"),
        ("NVIDIA GeForce RTX 4090", "rtx_4090"),
        ("AMD Radeon RX 7900 XTX", "rx_7900_xtx"),
    ],
)
def test_a_result_is_named_by_its_gpu(monkeypatch, name, short):
    monkeypatch.setattr(report.torch.cuda, "get_device_name", lambda: name)
    assert report.gpu() == short


def test_cases_of_the_same_code_are_joined(monkeypatch, tmp_path):
    def cases():
        return json.loads((tmp_path / "transformer_h100.json").read_text(encoding="utf-8"))["cases"]

    monkeypatch.setattr(report.torch.cuda, "get_device_name", lambda: "NVIDIA H100 80GB HBM3")
    report.write(tmp_path, "transformer", {"cases": {"a": {"ms": 1.23456, "all": (1.5, 2)}}})
    report.write(tmp_path, "transformer", {"cases": {"b": {}}})
    assert cases() == {"a": {"ms": 1.235, "all": [1.5, 2]}, "b": {}}
    monkeypatch.setattr(report, "code", lambda: "other")
    report.write(tmp_path, "transformer", {"cases": {"c": {}}})
    assert cases() == {"c": {}}


def test_every_result_has_its_origin():
    for path in RESULTS.glob("*.json"):
        assert {"gpu", "torch", "triton", "code"} <= set(json.loads(path.read_text(encoding="utf-8"))), path


def cases_in(folder):
    (path,) = folder.iterdir()
    return json.loads(path.read_text(encoding="utf-8"))["cases"]


def test_the_vae_s_benchmark_runs(tmp_path, capsys):
    """Small, on the CPU: correct, and with every version's time. Compiling takes minutes here."""
    decode.main(["--tiny", "--no-compile", "--passes", "1", "--out", str(tmp_path)])
    cases = cases_in(tmp_path)
    assert set(cases) == {"decode", "encode"}
    for case in cases.values():
        assert set(case["times"]) == set(case["from_ours"]) == {"ours", "ours, plain", "diffusers"}
        assert max(case["from_ours"].values()) < 0.02
        assert all(measured["ms"] > 0 for measured in case["times"].values())
    assert "decode diffusers: " in capsys.readouterr().out


def test_the_benchmark_from_prompt_to_mp4_runs(tmp_path):
    """Small, on the CPU. It raises by itself if the films with and without overlap differ."""
    end_to_end.main(["1", "--tiny", "--out", str(tmp_path)])
    (case,) = cases_in(tmp_path).values()
    assert {"preset", "cpu_cores", "sampling_s", "decoding_s", "encoding_s", "text_encoder"} <= set(case)
    assert case["frames"] == 41
    for overlap in ("on", "off"):
        measured = case[f"overlap {overlap}"]
        assert measured["frames_per_s"] == pytest.approx(41 / measured["total_s"], rel=1e-3)


def test_the_benchmark_of_a_film_runs(tmp_path):
    film.main(["2", "--tiny", "--out", str(tmp_path)])
    (case,) = cases_in(tmp_path).values()
    assert case["frames"] == 81
    assert case["frames_per_s"] == pytest.approx(81 / case["first_s"], rel=1e-3)
    assert case["again_s"] < case["first_s"]  # nothing is sampled
    assert 0 < case["after_a_kill_s"] < case["first_s"]


def test_a_version_that_cannot_run_is_told_and_left_out():
    def broken():
        raise RuntimeError("no such kernel\nand a stack")

    order = []
    calls = {"a": lambda: order.append("a"), "broken": broken, "b": lambda: order.append("b")}
    results = timing.in_turns(calls, passes=2, warm=1)
    assert order == ["a", "b"] * 3
    assert results["broken"] == {"error": "RuntimeError: no such kernel"}
    assert all(results[name]["ms"] >= 0 for name in "ab")
