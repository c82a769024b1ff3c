"""The numbers in docs/speed.md are those measured, and the plot draws them. Measuring itself needs a GPU."""

import json
import re

import numpy as np
import pytest
from comfyui_sana_video.benchmarks import (
    decode,
    decode_ltx,
    end_to_end,
    film,
    plot,
    report,
    stream,
    timing,
    transformer2,
)
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
DECODERS = "ours", "ours, plain", "diffusers", "diffusers compiled"


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


def _rate(case):
    return f"{case['frames_per_s']:.1f} frames/s"


def test_the_first_numbers_are_a_film_s():
    cases, page = result("end_to_end", "h200")["cases"], " ".join(PAGE.read_text(encoding="utf-8").split())
    full, fp8, *two = (cases[f"{precision}, {gpus} GPU"] for gpus in (1, 2) for precision in ("full", "fp8"))
    for case in (full, fp8):
        together = case["overlap on"]
        assert together["frames_per_s"] == pytest.approx(case["frames"] / together["total_s"], rel=1e-3)
        assert f"**{_rate(together)}**" in page
    assert f"| {_rate(full['overlap on'])} | {_rate(fp8['overlap on'])} |" in page
    fast, faster = (case["overlap on"]["frames_per_s"] for case in two)
    assert f"it is {fast:.1f} and {faster:.0f} frames/s: {100 * two[0]['of_the_slower_half']:.0f} %" in page
    assert f"preset {full['preset']} on {full['cpu_cores']} cores" in page
    rates = (f"{case['overlap on']['frames_per_s']:.0f}" for case in (full, fp8))
    words = "at {} frames a second on one H200, {} in fp8".format(*rates)
    assert words in " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())


def test_the_page_says_how_fast_films_are():
    page = PAGE.read_text(encoding="utf-8")
    film, node = (result(name, "h200")["cases"] for name in ("film", "comfyui_film"))
    films = [film[f"{precision}, 1 GPU"] for precision in ("full", "fp8")]
    nodes = [node[f"{precision} --disable-dynamic-vram"] for precision in ("full", "fp8")]
    for cases in (films, nodes):
        assert f"| {' | '.join(map(_rate, cases))} |" in page
    for key, digits in (("again_s", 2), ("after_a_kill_s", 1)):
        assert f"| {' | '.join(f'{case[key]:.{digits}f} s' for case in films)} |" in page
    assert all(abs(case["store_share"]) <= 0.01 for case in films)


def test_the_page_says_how_long_decoding_took():
    page, case = PAGE.read_text(encoding="utf-8"), result("decode", "h200")["cases"]["decode"]
    times = (f"{case['times'][version]['ms']:.0f} ms" for version in DECODERS)
    assert f"| VAE: decoding | {' | '.join(times)} |" in page
    errors = (f"{case['error'][version]:.2e}".replace("e-0", "e-") for version in DECODERS[:3])
    assert f"relative to float32 | {' | '.join(errors)} |" in page
    faster = case["times"]["diffusers"]["ms"] / case["times"]["ours"]["ms"]
    assert f"and the VAE {faster:.1f} times" in (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_page_says_what_previews_cost():
    cases = result("preview", "h200")["cases"]
    words = "{:.1f} % of a chunk in latent colours, {:.1f} % in drafts".format(
        *(100 * cases[name]["slower"] for name in ("colours", "drafts"))
    )
    assert words in " ".join(PAGE.read_text(encoding="utf-8").split())


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


def test_the_plot_of_a_chunk_draws_the_film_s_stages():
    measured = result("end_to_end", "h200")
    (axes,) = plot.draw_chunk(measured).axes
    films = [measured["cases"][case] for case in plot.FILMS]
    widths = np.array([bar.get_width() for bar in axes.patches]).reshape(1 + len(films), 3)
    stages = [[film[f"{stage}_s"] / 24 for stage in plot.STAGES] for film in films]
    assert widths == pytest.approx(np.array([[0.557, 0.930, 0], *stages]))
    together = [line.get_xdata()[0] for line in axes.get_lines()]
    assert together == pytest.approx([1.487, *(film["overlap on"]["total_s"] / 24 for film in films)])


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


def test_the_benchmark_of_the_second_network_runs(tmp_path, capsys):
    """Small, on the CPU, where both versions are the plain one."""
    transformer2.main(["--tiny", "--passes", "1", "--rows", "16", "--out", str(tmp_path)])
    cases = cases_in(tmp_path)
    assert set(cases) == {"81", "193"}
    for case in cases.values():
        assert set(case["times"]) == set(case["from_ours"]) == {"ours", "ours, plain", "ours, 16 rows"}
        assert max(case["from_ours"].values()) < 0.02
        assert case["softmax"]["as it chooses"]["ms"] > 0
    assert "81 ours: " in capsys.readouterr().out


def test_the_benchmark_of_ltx_s_vae_runs(tmp_path, capsys):
    options = "--passes", "1", "--paired", "0", "--out", str(tmp_path)
    decode_ltx.main(["81", "--tiny", "--version", "2.3", *options])
    (case,) = cases_in(tmp_path).values()
    assert set(case["times"]) == {"ours", "ours, plain", "ours, stream", "ours, paired 0", "diffusers"}
    assert max(case["from_ours"].values()) < 0.03
    assert "81 diffusers: " in capsys.readouterr().out


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
