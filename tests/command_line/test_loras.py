"""--lora FILE[:STRENGTH]: what is a path and what a strength, mistakes, and a stream that goes on with it."""

import argparse
from pathlib import Path
from unittest.mock import patch

import pytest
import torch
from comfyui_sana_video.command_line import loras, models
from comfyui_sana_video.command_line.cli import main
from comfyui_sana_video.demo.model_set import write_demo_set
from comfyui_sana_video.sana_video_core.files.video_reader import read_frames, read_metadata
from comfyui_sana_video.sana_video_core.streaming.state_file import load_state
from safetensors.torch import save_file
from support.lora_files import random_tensor

SMALL = ["--size", "32x16", "--steps", "1"]
WIDTH = 112


@pytest.fixture(scope="module", autouse=True)
def demo(tmp_path_factory):
    random_set = write_demo_set(tmp_path_factory.mktemp("demo") / "set")
    with patch.object(models, "demo_set", lambda: random_set):
        yield random_set


@pytest.fixture
def sana(tmp_path, monkeypatch, capsys):
    """Runs `generate` in a folder with two LoRAs; returns (status, stderr)."""
    monkeypatch.chdir(tmp_path)
    for seed, name in enumerate(("snow", "rain:2")):
        pair = {"A": random_tensor(2, WIDTH, seed=seed), "B": random_tensor(WIDTH, 2, seed=9 + seed)}
        _save({f"blocks.0.attn.proj.lora_{end}.weight": 8 * part for end, part in pair.items()}, name)

    def run(*words):
        status = main(["generate", *map(str, words)])
        return status, capsys.readouterr().err

    return run


def _save(tensors, name):
    save_file(tensors, f"{name}.safetensors")


@pytest.mark.parametrize(
    "text, path, strength",
    [
        ("a.safetensors", "a.safetensors", 1.0),
        ("a.safetensors:0.8", "a.safetensors", 0.8),
        ("a.safetensors:-1.25", "a.safetensors", -1.25),
        ("a:b.safetensors:.5", "a:b.safetensors", 0.5),
        ("a:b.safetensors", "a:b.safetensors", 1.0),
        ("folder:2", "folder", 2.0),
        ("C:\\loras\\a.safetensors", "C:\\loras\\a.safetensors", 1.0),
        ("C:/loras/peft", "C:/loras/peft", 1.0),
        ("C:peft", "C:peft", 1.0),
        ("C:\\loras\\a.safetensors:0.8", "C:\\loras\\a.safetensors", 0.8),
        ("C:\\loras\\peft:+3.", "C:\\loras\\peft", 3.0),
        ("there:3", "there:3", 1.0),
        ("there:3:2", "there:3", 2.0),
    ],
)
def test_a_path_and_a_strength(text, path, strength, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("there:3").touch()
    parser = argparse.ArgumentParser()
    loras.add_lora_option(parser)
    assert parser.parse_args(["--lora", text]).loras == [(Path(path), strength)]
    assert parser.parse_args([]).loras == []


@pytest.mark.parametrize(
    "text, words",
    [
        ("snow.safetensors:strong", "“strong” isn't a strength"),
        ("snow.safetensors:0,8", "“0,8” isn't a strength"),
        ("snow.safetensors:", "“” isn't a strength"),
        ("snow.safetensors:nan", "“nan” isn't a strength"),
        ("snow.safetensors:1e9", "“1e9” isn't a strength"),
        ("snow.safetensors:-101", "a strength of -101 is out of range; it goes from -100 to 100"),
        ("n" * 300 + ":x", "cannot be opened"),
    ],
)
def test_mistakes_of_strength(sana, text, words, capsys):
    with pytest.raises(SystemExit) as stop:
        sana("a", "--lora", text)
    assert stop.value.code == 2
    assert words in capsys.readouterr().err


def test_a_lora_that_cannot_be_is_refused_before_the_models_are_loaded(sana, monkeypatch):
    monkeypatch.setattr(
        "comfyui_sana_video.command_line.generate.choose_models", lambda _: pytest.fail("late")
    )
    assert sana("a", "--lora", "gone.safetensors:2") == (
        1,
        "sana-video: There is no LoRA at “gone.safetensors”. Check its name and its folder.\n",
    )
    Path("peft").mkdir()
    assert "holds no adapter_model.safetensors" in sana("a", "--lora", "peft")[1]
    for given in ("snow.safetensors:0", "peft"):
        Path("peft/adapter_model.safetensors").touch()
        target = "snow.safetensors" if "snow" in given else "peft/adapter_model.safetensors"
        status, said = sana("a", "--lora", given, "--state-out", target)
        assert status == 1
        assert "is what --lora reads, and would be lost" in said


def test_what_is_no_lora_of_this_model_is_refused_and_nothing_is_written(sana):
    _save({"blocks.0.attn.proj.lora_A.weight": torch.ones(2, 5)}, "half")
    _save({"unet.down.lora_A.weight": torch.ones(2, 5), "unet.down.lora_B.weight": torch.ones(5, 2)}, "other")
    before = sorted(Path().iterdir())
    assert "have no counterpart" in sana("a", *SMALL, "--lora", "half.safetensors")[1]
    assert "for another model" in sana("a", *SMALL, "--lora", "other.safetensors")[1]
    assert sorted(Path().iterdir()) == before


def test_a_stream_with_loras_goes_on_another_day(sana):
    """Two shots in one run are two runs with the same LoRAs, bit for bit, and others without."""
    with_both = ["--lora", "snow.safetensors:0.5", "--lora", "rain:2.safetensors"]
    assert sana("a", "b", *SMALL, *with_both, "--state-out", "whole.safetensors", "--out", "v.mp4")[0] == 0
    assert sana("a", *SMALL, *with_both, "--state-out", "first.safetensors")[0] == 0
    go_on = ["b", "--steps", 1, "--state-in", "first.safetensors", "--state-out", "second.safetensors"]
    assert sana(*go_on, *with_both, "--out", "w.mp4")[0] == 0
    whole, second = load_state(Path("whole.safetensors")), load_state(Path("second.safetensors"))
    for ours, theirs in zip(second.history, whole.history, strict=True):
        assert ours.loras == ("snow 0.5", "rain:2 1")
        assert torch.equal(ours.latents, theirs.latents)
    assert read_metadata("v.mp4")["loras"] == [["snow 0.5", "rain:2 1"]] * 2
    assert sana(*go_on, "--lora", "snow.safetensors:0")[0] == 0
    without = load_state(Path("second.safetensors")).history[-1]
    assert without.loras == ()
    assert not torch.equal(without.latents, whole.history[-1].latents)


def test_a_clip_with_a_lora(sana):
    small = [
        "a",
        *SMALL,
        "--family",
        "sana_video_480p",
        "--frames",
        5,
        "--model",
        models.demo_set().transformer,
    ]
    small += ["--text-encoder", models.demo_set().text_encoder, "--vae", models.demo_set().vae]
    assert sana(*small, "--out", "plain.mp4")[0] == 0
    assert sana(*small, "--out", "snow.mp4", "--lora", "snow.safetensors")[0] == 0
    assert read_metadata("snow.mp4")["loras"] == ["snow 1"]
    assert read_metadata("plain.mp4")["loras"] == []
    snow, plain = (read_frames(Path(name), fps=None) for name in ("snow.mp4", "plain.mp4"))
    assert (snow - plain).abs().max() > 0.05
