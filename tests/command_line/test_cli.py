"""The command line as a person uses it: every command, continuing, interrupts, and refusals."""

import json
import os
import signal
import subprocess
import sys
import threading
from argparse import Namespace
from contextlib import suppress
from dataclasses import replace
from fractions import Fraction
from itertools import islice, product
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import MagicMock, patch

import av
import numpy as np
import pytest
import torch
from conftest import ROOT
from PIL import Image
from safetensors.torch import save_file
from support import artist
from support.calibration import limit, until
from support.pack import Pack, same
from support.tiny_files import SLIM, tiny_weights

PACK = Pack()
SMALL = ["--size", "32x16"]


@pytest.fixture(scope="module", autouse=True)
def demo(tmp_path_factory):
    """A random set in place of the trained one: smaller, and no test depends on what was learned.

    Previews have rough colours.
    """
    from comfyui_sana_video.command_line import models

    random_set = PACK.module("demo.model_set").write_demo_set(tmp_path_factory.mktemp("demo") / "set")
    rough = patch.object(PACK.core("vae.colours"), "TRIALS", 2)
    with patch.object(models, "demo_set", lambda: random_set), rough:
        yield random_set


@pytest.fixture
def sana(tmp_path, monkeypatch, capsys):
    """Runs a command in an empty folder; returns (status, stdout, stderr)."""
    from comfyui_sana_video.command_line.cli import main

    monkeypatch.chdir(tmp_path)

    def run(*words):
        status = main([str(word) for word in words])
        said = capsys.readouterr()
        return status, said.out, said.err

    return run


def _frames(path):
    return PACK.core("files.video_reader").read_frames(path, fps=None)


def _state(path):
    return PACK.core("streaming.state_file").load_state(path)


def _models(demo, **changed):
    paths = {"--model": demo.transformer, "--text-encoder": demo.text_encoder, "--vae": demo.vae, **changed}
    return [word for pair in paths.items() for word in pair]


def test_three_shots(sana):
    status, out, _ = sana(
        "generate", "a", "b", "b", *SMALL, "--out", "v.mp4", "--sheet", "v.png", "--seed", 5
    )
    assert status == 0
    assert "121 frames, 7.6 s" in out
    video = _frames("v.mp4")
    assert video.shape == (1, 3, 121, 16, 32)
    assert video.std() > 0.1, "the video is blank"
    metadata = PACK.core("files.video_reader").read_metadata("v.mp4")
    assert metadata["prompts"] == ["a", "b", "b"]
    assert metadata["seeds"] == [5, 5, 5]
    assert metadata["plan"] == [[11, 10, 10]]
    with Image.open("v.png") as sheet:
        assert len(set(sheet.convert("RGB").getdata())) > 100


@pytest.fixture
def written(monkeypatch):
    """Sizes of the pictures that --preview was given, one after another."""
    from comfyui_sana_video.command_line import preview

    sizes, save = [], preview.save_picture

    def watched(picture, path):
        sizes.append(picture.size)
        save(picture, path)

    monkeypatch.setattr(preview, "save_picture", watched)
    return sizes


def _no_player():
    return all(thread.name != "sana-video player" for thread in threading.enumerate())


@pytest.fixture
def heard(monkeypatch):
    """What a stream's preview was told."""
    from comfyui_sana_video.sana_video_core.streaming import live

    news, real = [], live.StreamPreview.progress
    monkeypatch.setattr(live.StreamPreview, "progress", lambda *given: news.append(given[1]) or real(*given))
    return news


def test_a_preview_is_the_newest_picture(sana, written, heard):
    status, _, err = sana("generate", "a", "b", *SMALL, "--out", "v.mp4", "--preview", "p.png")
    assert status == 0
    assert list(dict.fromkeys(news[:2] for news in heard)) == [(1, 2), (2, 2)]
    assert "preview stopped" not in err
    assert len(written) >= 4  # an estimate, a chunk, the last latent frame; the film's last frame
    assert set(written) == {(512, 256)}
    with Image.open("p.png") as picture:
        seen = torch.tensor(np.asarray(picture.resize((32, 16), Image.Resampling.BOX))).float()
    last = (_frames("v.mp4")[0, :, -1].permute(1, 2, 0) + 1) * 127.5
    assert (seen - last).abs().mean() < 12
    assert sorted(path.name for path in Path().iterdir()) == ["p.png", "v.mp4"]
    assert _no_player()


def test_a_preview_counts_chunks_over_all_shots(heard, monkeypatch, tmp_path):
    """The last one of a shot isn't the film's last one, which stands still."""
    from comfyui_sana_video.command_line import preview
    from comfyui_sana_video.sana_video_core.callbacks import Progress

    monkeypatch.setattr(preview, "fit_colours", lambda *_: None)
    options, family = Namespace(preview=tmp_path / "p.png"), PACK.core("config").LONGSANA_480P
    with preview.SamplingPreview(options, family, MagicMock(), "cpu").shots(2, lambda: False) as hear:
        for shot, chunk in product(range(2), range(4)):  # 0: recache
            hear(shot, Progress(chunk, 3, 1, 1, None))
    assert [(news.chunk, news.chunks) for news in heard] == [(number, 6) for number in range(1, 7)]


def test_the_first_chunk_is_seen_before_its_frames_come(sana, heard):
    """Decoded meanwhile or not, there is nothing else to see until then."""
    words = ["--steps", 2, "--chunks", 2, "--out", "v.mp4", "--preview", "p.png"]
    assert sana("generate", "a", *SMALL, *words, "--overlap", "on")[0] == 0
    assert [(news.chunk, news.step) for news in heard] == [(1, 1), (1, 2), (1, 3)]  # the third absorbs
    assert _no_player()


def test_a_clip_is_seen_as_it_is_estimated(sana, written):
    words = ["--family", "sana_video_480p", "--frames", 9, "--steps", 3, "--out", "v.mp4"]
    assert sana("generate", "a", *SMALL, *words, "--preview", "p.png")[0] == 0
    assert len(written) >= 3
    assert set(written) == {(512, 256)}
    assert _no_player()


def test_a_preview_that_cannot_be_written_any_more_ends_alone(sana, monkeypatch, caplog):
    from comfyui_sana_video.command_line import preview

    tried = []

    def full(picture, path):
        tried.append(path)
        raise PACK.core("errors").FileError("the disk is full")

    monkeypatch.setattr(preview, "save_picture", full)
    show = preview.into(Path("p.png"))
    for _ in range(9):  # a viewer may hold the file for a moment
        show(Image.new("RGB", (4, 4)))
    with pytest.raises(PACK.core("errors").FileError):
        show(Image.new("RGB", (4, 4)))
    assert len(tried) == 10
    monkeypatch.setattr(preview, "TRIES", 2)
    status, out, _ = sana("generate", "a", *SMALL, "--out", "v.mp4", "--preview", "p.png")
    assert status == 0
    assert "41 frames" in out
    assert "The moving preview stopped (FileError: the disk is full)." in caplog.text
    assert not Path("p.png").exists()


@pytest.mark.parametrize("kind", [[], ["--family", "sana_video_480p", "--frames", 9]])
def test_a_preview_that_cannot_be_drawn_ends_alone(sana, monkeypatch, caplog, kind):
    from comfyui_sana_video.command_line import preview

    def full(latents, colours):
        raise torch.OutOfMemoryError("no room")

    monkeypatch.setattr(preview, "latent_pictures", full)
    status, out, _ = sana(
        "generate", "a", *SMALL, *kind, "--steps", 2, "--out", "v.mp4", "--preview", "p.png"
    )
    assert status == 0
    assert "wrote v.mp4" in out
    assert caplog.text.count("preview stopped") == 1
    assert Path("p.png").exists()  # of the frames
    assert _no_player()


def test_continuing_is_one_run(sana):
    """Two runs joined by a file are one run: the state is bit-identical, and 40 frames are new."""
    assert (
        sana("generate", "a", "b", *SMALL, "--out", "whole.mp4", "--state-out", "whole.safetensors")[0] == 0
    )
    assert sana("generate", "a", *SMALL, "--out", "1.mp4", "--state-out", "1.safetensors")[0] == 0
    status, out, _ = sana(
        "generate", "b", "--state-in", "1.safetensors", "--out", "2.mp4", "--state-out", "2.safetensors"
    )
    assert status == 0
    assert "40 frames" in out
    for one, other in zip(
        _state("whole.safetensors").tensors(), _state("2.safetensors").tensors(), strict=True
    ):
        assert same(one, other)
    difference = (_frames("2.mp4") - _frames("whole.mp4")[:, :, 41:]).abs().mean()
    assert difference < 0.05  # two encodings of the same frames
    assert (_frames("2.mp4") - _frames("whole.mp4")[:, :, 40:80]).abs().mean() > 2 * difference


def test_prompt_changes_reach_the_stream(sana):
    for change in ("recache", "keep", "cut"):
        options = ["--on-prompt-change", change, "--state-out", f"{change}.safetensors"]
        assert sana("generate", "a", "b", *SMALL, *options)[0] == 0
    states = {change: _state(f"{change}.safetensors") for change in ("recache", "keep", "cut")}
    assert states["cut"].scene == 1
    assert states["cut"].frames == 82
    assert not torch.equal(states["keep"].history[1].latents, states["recache"].history[1].latents)


def test_after_a_cut_joined_runs_and_nodes_are_one_run(sana):
    """The file between two runs is made in the middle of a scene."""
    shots, cut = ["a", "b", "b", "c"], ["--on-prompt-change", "cut", "--steps", 1]
    assert sana("generate", *shots, *SMALL, *cut, "--state-out", "whole.safetensors")[0] == 0
    assert sana("generate", *shots[:2], *SMALL, *cut, "--state-out", "1.safetensors")[0] == 0
    files = ["--state-in", "1.safetensors", "--state-out", "2.safetensors"]
    assert sana("generate", *shots[2:], *cut, *files)[0] == 0
    socket = artist.run("Start", artist.demo().model, 32, 16, 1)
    for shot in shots:
        words = artist.run("TextEncode", artist.demo().encoder, shot, 0, True)
        options = {"positive": words, "seed": 0, "steps": 1, "on_prompt_change": "cut"}
        socket = artist.sample(socket, **options)[1]
    whole, joined = _state("whole.safetensors"), _state("2.safetensors")
    assert [chunk.scene for chunk in whole.history] == [0, 1, 1, 2]
    for way, other in {"joined": joined, "nodes": socket.state}.items():
        assert [c.digest for c in other.history] == [c.digest for c in whole.history], way
        assert [c.scene for c in other.history] == [c.scene for c in whole.history], way
        tensors = zip(whole.tensors(), other.tensors(), strict=True)
        assert all(same(one, two) for one, two in tensors), way


def test_an_image_begins_a_stream(sana):
    Image.new("RGB", (200, 90), (255, 0, 0)).save("red.png")
    status, out, _ = sana(
        "generate", "a", *SMALL, "--image", "red.png", "--out", "v.mp4", "--state-out", "s.safetensors"
    )
    assert status == 0
    assert "41 frames" in out
    history = _state("s.safetensors").history
    assert [(chunk.primed, chunk.length) for chunk in history] == [(True, 1), (False, 10)]


def test_a_video_begins_a_stream(sana, demo):
    """Its last 4n + 1 frames are absorbed, shown and continued: 41 of 43, in a chunk of 11 latent frames."""
    frames = torch.linspace(-1, 1, 43)[None, :, None, None].expand(3, -1, 40, 80)
    with PACK.core("files.video_writer").VideoWriter("in.mp4", fps=16) as writer:
        writer.write(frames)
    status, out, err = sana(
        "generate", "a", *SMALL, "--video", "in.mp4", "--out", "v.mp4", "--state-out", "s.safetensors"
    )
    assert status == 0, err
    assert "81 frames" in out
    history = _state("s.safetensors").history
    assert [(chunk.primed, chunk.length) for chunk in history] == [(True, 11), (False, 10)]
    to_model_space, wan = PACK.core("vae.statistics").to_model_space, PACK.core("config").WAN_2_1
    vae = PACK.core("checkpoints.vae_file").load_vae(demo.vae)
    pixels = PACK.core("files.video_reader").read_frames("in.mp4", width=32, height=16)[:, :, 2:]
    assert same(history[0].latents, to_model_space(vae.encode(pixels), wan))
    Path("i.png").touch()
    assert "use one of them" in sana("generate", "a", "--video", "in.mp4", "--image", "i.png")[2]


def test_the_rule_reaches_the_stream(sana):
    words = ["generate", "a", *SMALL, "--steps", 1, "--rule", "original", "--state-out", "s.safetensors"]
    assert sana(*words)[0] == 0
    assert [chunk.rule for chunk in _state("s.safetensors").history] == ["original"]


@pytest.mark.parametrize("option, name", [("--image", "i.png"), ("--video", "v.mkv")])
def test_a_beginning_that_cannot_be_read_is_refused_before_models_are_loaded(sana, option, name):
    Path(name).write_bytes(b"hello" * 99)
    status, _, err = sana("generate", "a", option, name, "--model", "none.safetensors")
    assert status == 1
    assert f"{name}” cannot be read" in err


def test_broadcasting_s_rates_are_written_exactly(sana):
    assert sana("generate", "a", *SMALL, "--steps", 1, "--fps", "29.97", "--out", "v.mp4")[0] == 0
    with av.open("v.mp4") as container:
        assert container.streams.video[0].average_rate == Fraction(30000, 1001)
    assert "fps is 0" in sana("generate", "a", "--fps", "0")[2]
    with pytest.raises(SystemExit):
        sana("generate", "a", "--fps", "fast")


@pytest.mark.parametrize("image", [False, True])
def test_a_clip_of_the_bidirectional_family(sana, demo, image):
    Image.new("RGB", (64, 32), (0, 0, 255)).save("blue.png")
    words = ["--image", "blue.png"] if image else ["--sequential"]
    words += ["--frames", 9, "--steps", 2, "--cfg", 3, "--negative", "bad", "--out", "v.mp4"]
    family = ["--family", "sana_video_480p"]
    status, out, err = sana("generate", "a", *_models(demo), *family, *SMALL, *words)
    assert (status, _frames("v.mp4").shape[2]) == (0, 9), err
    assert "9 frames" in out


@pytest.mark.parametrize("image", [False, True])
def test_a_clip_is_that_of_the_node(sana, demo, monkeypatch, image):
    """The command line, the studio and ComfyUI make the same bits of one seed."""
    from comfyui_sana_video.command_line import generate

    clips, pixels = [], np.arange(64 * 32 * 3, dtype=np.uint8).reshape(32, 64, 3)
    monkeypatch.setattr(generate, "write_clip", lambda options, vae, latents: clips.append(latents))
    Image.fromarray(pixels).save("a.png")
    words = ["generate", "a ball", "--family", "sana_video_480p", *_models(demo), *SMALL, "--negative", "bad"]
    words += ["--frames", 9, "--steps", 2, "--seed", 5, "--motion-score", 30, "--instruction", ""]
    status, _, err = sana(*words, *(["--image", "a.png"] if image else []))
    assert status == 0, err
    with patch.object(PACK.module("demo.model_set"), "demo_set", lambda: demo):
        model = artist.run("ModelLoader", artist.DEMO, "sana_video_480p")
        encoder, vae = artist.run("TextEncoderLoader", artist.DEMO), artist.run("VAELoader", artist.DEMO)
    texts = {
        "positive": artist.run("TextEncode", encoder, "a ball", 30, False),
        "negative": artist.run("TextEncode", encoder, "bad", 0, False),
    }
    picture = {"vae": vae, "image": torch.from_numpy(pixels)[None] / 255} if image else {}
    latent = artist.run("EmptyLatent", model, 32, 16, 9, 1, **picture)
    numbers = {"seed": 5, "steps": 2, "cfg": 0.0, "sampler": "auto", "shift": 0.0}
    made = artist.run("Sampler", model, latent=latent, **texts, **numbers)["samples"]
    clip = PACK.core("vae.statistics").to_vae_space(clips[0], PACK.core("config").WAN_2_1)
    assert same(clip[:, :, image:], made[:, :, image:])  # the picture itself was to model space and back
    assert torch.allclose(clip, made, atol=1e-5)


def test_a_clip_from_the_noise_in_a_file(sana, demo, monkeypatch):
    """The seed's own noise from a file gives the same clip; what does not fit is refused before the work."""
    from comfyui_sana_video.command_line import generate

    clips = []
    monkeypatch.setattr(generate, "write_clip", lambda options, vae, latents: clips.append(latents))
    words = ["generate", "a", *_models(demo), "--family", "sana_video_480p", *SMALL]
    words += ["--frames", 9, "--steps", 2, "--cfg", 1]
    grid = PACK.core("shapes").LatentGrid(2, 4)
    noise = PACK.core("sampling.noise").draw_noise(5, 0, 3, 0, batch=1, channels=16, grid=grid)
    torch.save(noise, "noise.pt")
    for more in (["--seed", 5], ["--noise", "noise.pt"], ["--seed", 6]):
        status, _, err = sana(*words, *more)
        assert status == 0, err
    assert same(clips[0], clips[1])
    assert not torch.equal(clips[0], clips[2])
    monkeypatch.setattr(generate, "encode_prompts", None)  # the work has not begun
    for spoil, said in (
        (noise[:, :, :2], "has to be [1, 16, 3, 2, 4]"),
        (noise[0], "one tensor"),
        (noise.log(), "NaN"),
    ):
        torch.save(spoil, "bad.pt")
        status, _, err = sana(*words, "--noise", "bad.pt")
        assert (status, said in err) == (1, True), err
    assert "leave out --noise" in sana("generate", "a", "--noise", "noise.pt")[2]
    assert "no file" in sana(*words, "--noise", "gone.pt")[2]


@pytest.mark.parametrize("family", ["sana_video_480p", "sana_video_720p", "longsana_480p", "demo"])
def test_the_motion_score_is_the_familys(family):
    """30 in every documented command of the original for the 50-step models; LongSANA was trained with 10."""
    from comfyui_sana_video.command_line.cli import _parser
    from comfyui_sana_video.command_line.generate import _check_options

    rules = PACK.core("config").FAMILIES[family]
    for words, score in (
        ([], {"longsana_480p": 10, "demo": 0}.get(family, 30)),
        (["--motion-score", "3"], 3),
    ):
        options = _parser().parse_args(["generate", "a", "--out", "v.mp4", *words])
        options.frames = 9
        _check_options(options, SimpleNamespace(family=rules))
        assert options.motion_score == score


@pytest.mark.parametrize(
    ("family", "words", "expected"),
    [
        ("sana_video2_720p", [], ("dpm++", 50, 8.0, 12.0, 193, 24, 20)),
        ("sana_video2_720p", ["--image", "i.png"], ("euler", 50, 8.0, 12.0, 193, 24, 20)),
        ("sana_video2_720p_4step", [], ("few_step", 4, 1.0, 6.0, 81, 16, 20)),
        (
            "sana_video2_720p_4step",
            ["--frames", "193", "--fps", "24"],
            ("few_step", 4, 1.0, 6.0, 193, 24, 20),
        ),
        ("sana_video_480p", [], ("dpm++", 50, 6.0, 8.0, 81, 16, 30)),
        ("sana_video_480p", ["--image", "i.png"], ("euler", 50, 6.0, 8.0, 81, 16, 30)),
    ],
)
def test_a_clip_is_sampled_as_its_family(family, words, expected):
    from comfyui_sana_video.command_line.cli import _parser
    from comfyui_sana_video.command_line.generate import _check_options, _clip_sampling

    rules = PACK.core("config").FAMILIES[family]
    options = _parser().parse_args(["generate", "a", "--out", "v.mp4", *words])
    with suppress(PACK.core("errors").InputError):  # where no VAE is at hand
        _check_options(options, SimpleNamespace(family=rules))
    how = _clip_sampling(options, rules)
    made = (how.sampler, how.steps, how.cfg, how.shift, options.frames, options.fps, options.motion_score)
    assert made == expected


def test_sana_video_2_without_a_text_for_what_it_lacks(sana, demo):
    """Refusals of its files and families, before any work."""
    config, checkpoint = PACK.core("config"), PACK.core("checkpoints.checkpoint")
    sizes = config.Sana2Config(
        channels=128, patch=1, width=56, depth=4, head_dim=14, softmax_head_dim=28, cross_head_dim=28,
        ffn_hidden=56, caption_channels=32, group=2,
    )  # fmt: skip
    network = PACK.core("transformer.model2").SanaVideo2(sizes, config.SANA_VIDEO2_720P)
    weights = PACK.module("demo.model_set").seeded(network, 0).state_dict()
    torch.save({"state_dict_ema": {f"model.{n}": t for n, t in weights.items()}}, "sana2_4step.pth")
    Path("config.json").write_text(
        '{"cross_attention_head_dim": 28, "num_layers": 4, "attn_res_block_size": 2}'
    )
    status, out, err = sana("convert", "sana2_4step.pth", "m.safetensors", "--dtype", "keep")
    assert status == 0, err
    assert "sana_video2_720p_4step" in out
    assert checkpoint.read_checkpoint("m.safetensors").config == replace(sizes, softmax_layers=(3,))
    assert "SANA-Video 2.0 5B 720p, four steps" in sana("info", "m.safetensors")[1]
    assert "bfloat16 or float32" in sana("convert", "sana2_4step.pth", "h.safetensors", "--dtype", "fp16")[2]
    assert not Path("h.safetensors").exists()
    Image.new("RGB", (64, 96)).save("i.png")
    Path("film.txt").write_text("a fox\n")
    words = ["--model", "m.safetensors", "--text-encoder", demo.text_encoder]
    for more, sentence in (
        (["--image", "i.png"], "leave out --image"),
        (["--negative", "rain"], "leave out --negative"),
        (["--cfg", "3"], "few_step has no guidance"),
        (["--dtype", "fp16"], "bfloat16 or float32"),
        (["--family", "longsana_480p"], "and longsana_480p was chosen"),
        (["--state-out", "s.safetensors"], "has no state"),
        (["--chunks", "2"], "one clip from one prompt"),
    ):
        status, _, err = sana("generate", "a", *words, "--out", "v.latent", *more)
        assert status == 1
        assert sentence in err
    assert "softmax layers see all frames" in sana("film", "film.txt", *words)[2]


def test_convert_info_and_back(sana, demo):
    """Original .pth -> our file: the same weights, the family by name, and `info` says it all."""
    tensors, _ = PACK.core("files.tensor_file").read_tensors(demo.transformer)
    torch.save({"state_dict": tensors}, "SANA_LongLive.pth")
    (Path("config.json")).write_text('{"attention_head_dim": 28}')
    status, out, err = sana("convert", "SANA_LongLive.pth", "m.safetensors", "--dtype", "keep")
    assert status == 0, err
    assert "longsana_480p" in out
    text = sana("info", "m.safetensors")[1]
    fingerprint = PACK.core("files.fingerprint").weights_fingerprint(tensors)
    for word in ("this pack's file", "longsana_480p", "928,432", "4 heads of 28", fingerprint):
        assert word in text
    assert sana("convert", "SANA_LongLive.pth", "half.safetensors")[0] == 0
    assert "bfloat16" in sana("info", "half.safetensors")[1]
    assert "Wan 2.1 VAE" in sana("info", demo.vae)[1]
    assert "original" in sana("info", "SANA_LongLive.pth")[1]
    assert "has to end with .safetensors" in sana("convert", "SANA_LongLive.pth", "m.bin")[2]


def test_info_of_states_and_videos(sana):
    sana("generate", "ein roter Ball", *SMALL, "--out", "v.mp4", "--state-out", "s.safetensors")
    text = sana("info", "s.safetensors")[1]
    for word in ("32 x 16", "41 frames", "ein roter Ball", "11 latent frames", "demo"):
        assert word in text
    assert "ein roter Ball" in sana("info", "v.mp4")[1]


def test_make_demo_writes_a_set_that_works(sana):
    status, out, _ = sana("make-demo", "set", "--seed", 3)
    assert status == 0
    paths = [line.removeprefix("wrote ") for line in out.splitlines()]
    words = dict(zip(("--model", "--vae", "--text-encoder"), paths, strict=True))
    assert sana("generate", "a", *[w for pair in words.items() for w in pair], *SMALL, "--steps", 1)[0] == 0
    assert "exists already" in sana("make-demo", "set")[2]


def test_info_calls_no_incomplete_checkpoint_a_model(sana, demo):
    weights, metadata = PACK.core("files.tensor_file").read_tensors(demo.transformer)
    nan = torch.full_like(weights["t_block.1.bias"], float("nan"))
    for words, changed in {
        "it has 2 blocks of 3": {n: t for n, t in weights.items() if not n.startswith("blocks.2.")},
        "1 missing (blocks.2.attn.proj.bias)": {n: t for n, t in weights.items() if "2.attn.proj.b" not in n},
        "no numbers": weights | {"t_block.1.bias": nan},
        "ComfyUI (fp8_scaled)": weights | {"blocks.0.attn.qkv.scale_weight": torch.ones(())},
    }.items():
        save_file(changed, "m.safetensors", metadata)
        for command in (["info", "m.safetensors"], ["convert", "m.safetensors", "n.safetensors"]):
            status, out, err = sana(*command)
            assert (status, out) == (1, "")
            assert words in err
    assert not Path("n.safetensors").exists()


def test_what_a_narrower_type_cannot_hold_is_not_converted(sana, demo):
    weights, metadata = PACK.core("files.tensor_file").read_tensors(demo.transformer)
    assert json.loads(metadata["config"])["num_layers"] == 3
    large = torch.full_like(weights["t_block.1.bias"], 1e30, dtype=torch.bfloat16)
    save_file(weights | {"t_block.1.bias": large}, "large.safetensors", metadata)
    status, _, err = sana("convert", "large.safetensors", "n.safetensors", "--dtype", "fp16")
    assert status == 1
    assert "weights that fp16 can't hold" in err
    assert not Path("n.safetensors").exists()


@pytest.mark.parametrize("size", ["8192x8192", "16x4112", "4096x4096"])
def test_a_size_that_nothing_could_hold_is_refused_before_anything_is_imported(sana, size, capsys):
    with pytest.raises(SystemExit, match="2"):
        sana("generate", "a", "--size", size)
    assert "are too many" in capsys.readouterr().err


REFUSALS = [
    (["--size", "65x32"], "multiple of 16"),
    (["--frames", "99999989", "--family", "sana_video_480p"], "fit into no memory"),
    (["--model", "nowhere.pth", "--text-encoder", "t", "--vae", "v"], "no file"),
    (["--model", "nowhere.pth"], "--text-encoder is missing"),
    (["--vae", "v"], "without --model"),
    (["--state-in", "nowhere.safetensors"], "no file"),
    (["--image", "nowhere.png", *SMALL], "nowhere.png"),
    (["--out", "no/folder/v.mp4"], "no folder"),
    (["--out", "v.avi"], "end with .mp4"),
    (["--out", "."], "it is a folder"),
    (["--sheet", "s.jpg"], "end with .png"),
    (["--preview", "p.jpg"], "end with .png"),
    (["--preview", "no/folder/p.png"], "no folder"),
    (["--state-out", "s.pt"], "end with .safetensors"),
    (["--state-in", "a.safetensors", "--image", "b.png"], "use one of them"),
    (["--steps", "0"], "steps"),
    (["--steps", "141"], "choose 1 to 140"),
    (["--rule", "original", "--sampler", "euler"], "few_step"),
    (["--chunks", "0"], "1 to 102"),
    (["--chunks", "200"], "1 to 102"),
    (["--cfg", "3"], "no guidance"),
    (["--sampler", "dpm++"], "few_step, euler"),
    (["--motion-score", "-1"], "motion score"),
    (["--family", "sana_video_720p"], "needs"),
    (["--device", "toaster"], "--device cpu"),
    (["--vae-device", "toaster"], "--vae-device cpu"),
    (["--vae-device", "meta"], "--vae-device cpu"),
    (["--tile", "0", *SMALL], "tile"),
]


@pytest.mark.parametrize("words, said", REFUSALS, ids=[" ".join(words) for words, _ in REFUSALS])
def test_refusals_give_a_reason_and_leave_nothing(sana, demo, words, said):
    if words == ["--family", "sana_video_720p"]:
        words, said = [*_models(demo), *words], "Choose the family"
    status, _, err = sana("generate", "a", *words)
    assert status == 1
    assert said in err
    assert "Traceback" not in err
    assert not list(Path().glob("*.mp4"))


def test_a_codec_that_this_machine_lacks_is_refused_before_models_are_loaded(sana, monkeypatch):
    encoders = PACK.core("files.encoders")
    monkeypatch.setattr(encoders, "_trial", lambda encoder: f"no engine for {encoder}")
    status, _, err = sana("generate", "a", "--codec", "h264_nvenc", "--model", "none.safetensors")
    assert (status, "no engine for h264_nvenc" in err) == (1, True)
    assert not list(Path().glob("*.mp4"))


def test_a_light_state_goes_on_as_if_never_saved(sana):
    """One with its memory does, too; the second prompt reads the last chunk again under a new one."""
    words = ["--size", "32x32", "--steps", 1, "--seed", 4]
    assert (
        sana("generate", "a", "b", "c", *words, "--out", "v.mp4", "--state-out", "whole.safetensors")[0] == 0
    )
    begun = sana(
        "generate", "a", "b", *words, "--out", "w.mp4", "--state-out", "light.safetensors", "--light"
    )
    assert begun[0] == 0
    assert Path("light.safetensors").stat().st_size < Path("whole.safetensors").stat().st_size / 2
    on = ["--state-in", "light.safetensors", "--state-out", "end.safetensors", "--out", "x.mp4"]
    assert sana("generate", "c", *words, *on)[0] == 0
    whole, end = _state("whole.safetensors"), _state("end.safetensors")
    assert [chunk.entry for chunk in end.history] == ["start", "recache", "recache"]
    assert len(whole.tensors()) == len(end.tensors())
    assert all(same(a, b) for a, b in zip(whole.tensors(), end.tensors(), strict=True))
    assert "history only, format 2" in sana("info", "light.safetensors")[1]
    assert "none (history only)" in sana("info", "light.safetensors")[1]
    assert "everything, format 2" in sana("info", "whole.safetensors")[1]


def test_light_goes_with_a_state_that_can_be(sana, monkeypatch, caplog):
    status, _, err = sana("generate", "a", "--light", "--out", "v.mp4")
    assert (status, "give both" in err) == (1, True)
    assert sana("generate", "a", *SMALL, "--steps", 1, "--state-out", "s.safetensors")[0] == 0
    files, state = PACK.core("streaming.state_file"), _state("s.safetensors")
    old = replace(state.history[0], entry=None, text=None)
    files.save_state(replace(state, history=(old,)), "old.safetensors")
    on = ["--steps", 1, "--chunks", 2, "--state-out", "s.safetensors", "--light", "--out", "w.mp4"]
    status, _, err = sana("generate", "a", "--state-in", "old.safetensors", *on)
    assert status == 1
    assert "older state file" in err
    assert not Path("w.mp4").exists()
    other = replace(state, history=(replace(state.history[0], weights="x", loras=("style 1",)),))
    files.save_state(other, "other.safetensors")  # the memory is kept whole where only that can be continued
    assert sana("generate", "a", "--state-in", "other.safetensors", *on)[0] == 0
    assert caplog.text.count("changed within a scene (from style 1 to none)") == 1
    assert _state("s.safetensors").memory is not None


def test_a_state_of_another_model_or_size_is_refused(sana):
    sana("generate", "a", *SMALL, "--steps", 1, "--state-out", "s.safetensors")
    sana("make-demo", "other", "--seed", 9)
    words = ["--model", "other/demo_transformer.safetensors", "--text-encoder", "other/demo_text"]
    words += ["--vae", "other/demo_vae.safetensors"]
    assert "was made by the model" in sana("generate", "a", "--state-in", "s.safetensors", *words)[2]
    status, _, err = sana("generate", "a", "--state-in", "s.safetensors", "--size", "96x32")
    assert status == 1
    assert "32 x 16" in err


def test_a_state_of_several_videos_is_refused(sana):
    """It would write the first one only."""
    assert sana("generate", "a", *SMALL, "--steps", 1, "--state-out", "s.safetensors")[0] == 0
    state, files = _state("s.safetensors"), PACK.core("streaming.state_file")
    both = {"memory": None, "memory_before": None, "identity": replace(state.identity, batch=2)}
    chunk = replace(state.history[0], latents=state.history[0].latents.repeat(2, 1, 1, 1, 1))
    files.save_state(replace(state, **both, history=(chunk,), scene=1), "s.safetensors")
    status, _, err = sana("generate", "a", "--state-in", "s.safetensors", "--out", "v.mp4")
    assert status == 1
    assert "a batch of 2" in err
    assert not Path("v.mp4").exists()


def test_a_state_keeps_its_window(sana):
    sana("generate", "a", *SMALL, "--steps", 1, "--state-out", "s.safetensors", "--window", 2)
    assert "keeps its window" in sana("generate", "a", "--state-in", "s.safetensors", "--window", 3)[2]
    assert sana("generate", "a", "--state-in", "s.safetensors", "--window", 2, "--steps", 1)[0] == 0
    assert sana("generate", "a", "--state-in", "s.safetensors", "--steps", 1)[0] == 0


def test_a_wrong_vae_is_refused_before_the_work(sana, demo, monkeypatch):
    from comfyui_sana_video.command_line import generate

    monkeypatch.setattr(generate, "extend", lambda *_, **__: pytest.fail("work began"))
    status, _, err = sana("generate", "a", *_models(demo, **{"--vae": demo.transformer}), *SMALL)
    assert status == 1
    assert "isn't a Wan 2.1 VAE" in err


@pytest.fixture
def draft(tmp_path, monkeypatch):
    monkeypatch.setattr(PACK.core("vae.tiny_decoder"), "WIDTHS", SLIM)
    save_file(tiny_weights(dtype=torch.float16, widths=SLIM), tmp_path / "taew2_1.safetensors")
    return "taew2_1.safetensors"


def test_a_draft_decodes(sana, demo, draft):
    words = [*_models(demo, **{"--vae": draft}), *SMALL, "--state-out", "s.safetensors", "--out", "draft.mp4"]
    status, out, err = sana("generate", "a", *words, "--sheet", "sheet.png")
    assert status == 0, err
    assert "41 frames" in out
    frames = _frames("draft.mp4")
    assert frames.shape == (1, 3, 41, 16, 32)
    decode = PACK.core("streaming.decoding").decode_history
    decoder = PACK.core("checkpoints.draft").load_draft(draft, dtype=torch.float32)
    whole = torch.cat(list(decode(decoder, _state("s.safetensors"))), dim=2)
    assert torch.corrcoef(torch.stack((frames.flatten(), whole.flatten())))[0, 1] > 0.8


def test_a_draft_cannot_encode(sana, demo, draft, monkeypatch):
    from comfyui_sana_video.command_line import generate

    monkeypatch.setattr(generate, "encode_prompts", lambda *_, **__: pytest.fail("work began"))
    Image.new("RGB", (64, 32)).save("red.png")
    words = [*_models(demo, **{"--vae": draft}), *SMALL, "--image", "red.png"]
    status, _, err = sana("generate", "a", *words)
    assert status == 1
    assert "the draft decoder taew2_1, which can't encode what --image" in err


def test_info_knows_drafts(sana, draft):
    status, out, _ = sana("info", draft)
    assert status == 0
    assert "taew2_1.safetensors: the draft decoder taew2_1 of Wan 2.1 latents" in out
    save_file(tiny_weights(channels=48, colours=12, widths=SLIM), "taew2_2.safetensors")
    status, _, err = sana("info", "taew2_2.safetensors")
    assert status == 1
    assert "is a tiny decoder of Wan 2.2 5B" in err
    weights = tiny_weights(widths=SLIM)
    del weights["decoder.22.weight"]
    save_file(weights, "lighttaew2_1.safetensors")
    assert "isn't a complete lighttaew2_1 decoder: 1 missing" in sana("info", "lighttaew2_1.safetensors")[2]


def test_finished_shots_stay_after_an_interrupt(sana, monkeypatch):
    """Stopped in the second shot: the first is a playable video, and its state continues bit-identically."""
    from comfyui_sana_video.command_line import generate

    sana("generate", "a", "b", *SMALL, "--state-out", "whole.safetensors")
    real = generate.extend

    def stops_at_b(model, state, prompt, *args, **options):
        if prompt.text == "b":
            raise KeyboardInterrupt
        return real(model, state, prompt, *args, **options)

    with monkeypatch.context() as broken:
        broken.setattr(generate, "extend", stops_at_b)
        status, out, err = sana(
            "generate", "a", "b", *SMALL, "--out", "v.mp4", "--state-out", "s.safetensors"
        )
    assert status == 130
    assert "41 frames" in out
    assert "Finished, and written now: 1" in err
    assert _frames("v.mp4").shape[2] == 41
    assert sana("generate", "b", "--state-in", "s.safetensors", "--state-out", "s.safetensors")[0] == 0
    for one, other in zip(
        _state("whole.safetensors").tensors(), _state("s.safetensors").tensors(), strict=True
    ):
        assert same(one, other)


def test_shots_that_no_scene_has_room_for_are_refused_before_the_first_is_sampled(sana, monkeypatch):
    from comfyui_sana_video.command_line import generate

    monkeypatch.setattr(generate, "extend", lambda *_, **__: pytest.fail("work began"))
    status, _, err = sana("generate", "a", "b", *SMALL, "--chunks", 60)
    assert (status, "102" in err) == (1, True), err


@pytest.mark.parametrize("change", ["cut", "keep"])
def test_how_long_a_film_will_be_is_known_before_it_is_made(sana, monkeypatch, change):
    from comfyui_sana_video.command_line import generate

    expected, real = [], generate.Film
    monkeypatch.setattr(
        generate, "Film", lambda options, frames: expected.append(frames) or real(options, frames)
    )
    assert sana("generate", "a", *SMALL, "--steps", 1, "--state-out", "s.safetensors")[0] == 0
    words = ["--steps", 1, "--on-prompt-change", change, "--state-in", "s.safetensors", "--out", "v.mp4"]
    assert sana("generate", "b", "b", "c", *words)[0] == 0
    assert expected == [41, _frames("v.mp4").shape[2]] == [41, 41 + 40 + 41 if change == "cut" else 120]


def test_decoding_meanwhile_gives_the_same_film_and_sheet(sana, monkeypatch):
    """Frames and sheet bit for bit; x264 may encode the same frames in two ways, depending on its threads."""
    from comfyui_sana_video.command_line import generate

    films, real = {"on": [], "off": []}, generate.Film.write
    monkeypatch.setattr(
        generate.Film, "write", lambda self, frames: films[overlap].append(frames) or real(self, frames)
    )
    for overlap in ("on", "off"):
        words = ["--steps", 1, "--on-prompt-change", "cut", "--sheet", f"{overlap}.png", "--overlap", overlap]
        status, out, err = sana("generate", "a", "b", *SMALL, *words, "--out", f"{overlap}.mp4")
        assert (status, "82 frames" in out) == (0, True), err
    assert same(*map(torch.cat, films.values()))
    assert Path("on.png").read_bytes() == Path("off.png").read_bytes()
    metadata = PACK.core("files.video_reader").read_metadata("on.mp4")
    assert (metadata["prompts"], metadata["plan"]) == (["a", "b"], [[11], [11]])


@pytest.mark.parametrize("overlap", ["on", "off"])
@pytest.mark.parametrize("chunks", [1, 2])
def test_what_a_stop_leaves_says_what_it_is(sana, monkeypatch, overlap, chunks):
    """Stopped once so many states are written: as many are in the film, in its metadata and in the state."""
    from comfyui_sana_video.command_line import generate

    kept = generate.keep_state

    def stops(options, state):
        kept(options, state)
        if len(state.history) == chunks:
            raise KeyboardInterrupt

    monkeypatch.setattr(generate, "keep_state", stops)
    words = [*SMALL, "--steps", 1, "--chunks", 3, "--state-out", "s.safetensors", "--out", "v.mp4"]
    status, out, err = sana("generate", "a", *words, "--overlap", overlap, "--sheet", "v.png")
    assert status == 130
    assert f"Stopped. Finished, and written now: {chunks} of 3 chunks." in err
    assert f"{1 + 40 * chunks} frames" in out
    assert _frames("v.mp4").shape[2] == 1 + 40 * chunks
    metadata = PACK.core("files.video_reader").read_metadata("v.mp4")
    assert (metadata["prompts"], metadata["plan"]) == (["a"] * chunks, [[11, 10][:chunks]])
    assert len(_state("s.safetensors").history) == chunks
    with Image.open("v.png") as sheet:  # over what is there, if that is known before decoding begins
        rows = 4 if overlap == "off" else 2 if chunks == 1 else 3
        assert sheet.size == (6 * 160, rows * (80 + 16))


@pytest.mark.parametrize("chunks", [0, 1])
@pytest.mark.parametrize(
    "error, status, words",
    [
        (KeyboardInterrupt(), 130, "Stopped."),
        (PACK.core("errors").ChunkError("It broke."), 1, "It broke."),
        (torch.OutOfMemoryError("no room"), 1, "ran out of memory."),
    ],
    ids=["stop", "error", "memory"],
)
def test_what_ends_sampling_is_said_and_so_is_what_is_kept(sana, monkeypatch, chunks, error, status, words):
    """Before the first chunk there is nothing to write, and nothing else is said."""
    from comfyui_sana_video.command_line import generate

    real = generate.extend

    def ends(*arguments, **options):
        yield from islice(real(*arguments, **options), chunks)
        raise error

    monkeypatch.setattr(generate, "extend", ends)
    ended, out, err = sana("generate", "a", *SMALL, "--steps", 1, "--chunks", 2, "--out", "v.mp4")
    assert ended == status
    assert words in err
    assert ("written now: 1 of 2 chunks." in err, "nothing to decode" in err) == (chunks == 1, False)
    assert "written now: 0" not in err
    assert Path("v.mp4").exists() == ("41 frames" in out) == (chunks == 1)


@pytest.mark.parametrize("overlap", ["on", "off"])
def test_a_decoder_that_fails_keeps_the_frames_before_it(sana, monkeypatch, overlap):
    """And the film says what it shows, which isn't all that was sampled."""
    wan_vae = PACK.core("vae.wan_vae").WanVAE
    real, made = wan_vae.decode_frame, []

    def broken(self, latent, cache, run=None):
        made.append(1)
        pixels, kept = real(self, latent, cache, run)
        return (pixels * float("nan") if len(made) == 13 else pixels), kept

    monkeypatch.setattr(wan_vae, "decode_frame", broken)
    words = [*SMALL, "--steps", 1, "--chunks", 4, "--state-out", "s.safetensors", "--out", "v.mp4"]
    status, out, err = sana("generate", "a", *words, "--overlap", overlap)
    assert (status, out) == (1, "")
    assert "NaN or Inf in chunk 2 of 4" in err
    assert "Traceback" not in err
    assert "written now" not in err  # the third or fourth chunk finds no decoder any more
    assert _frames("v.mp4").shape[2] == 45
    metadata = PACK.core("files.video_reader").read_metadata("v.mp4")
    assert (metadata["prompts"], metadata["plan"]) == (["a", "a"], [[11, 10]])
    assert len(_state("s.safetensors").history) > 2


def test_a_folder_that_is_gone_after_the_work_costs_nothing(sana, monkeypatch, caplog):
    from comfyui_sana_video.command_line import generate

    def gone(*arguments):
        Path("disk").rename("unplugged")
        return real(*arguments)

    real = generate.Pipeline.finish
    monkeypatch.setattr(generate.Pipeline, "finish", gone)
    Path("disk").mkdir()
    status, out, _ = sana("generate", "a", *SMALL, "--out", "disk/v.mp4")
    assert status == 0
    assert "wrote" in out
    assert all(words in caplog.text for words in ("there is no folder", "v.mp4” instead"))
    assert _frames("v.mp4").shape[2] == 41


def test_a_state_whose_folder_is_gone_is_kept_elsewhere(sana, monkeypatch, caplog):
    def gone(*arguments):
        Path("disk").exists() and Path("disk").rename("unplugged")
        return real(*arguments)

    from comfyui_sana_video.command_line import generate

    real = generate.keep_state
    monkeypatch.setattr(generate, "keep_state", gone)
    Path("disk").mkdir()
    words = [*SMALL, "--steps", 1, "--chunks", 2, "--state-out", "disk/s.safetensors"]
    assert sana("generate", "a", *words)[0] == 0
    assert "s.safetensors” instead" in caplog.text
    assert len(_state("s.safetensors").history) == 2


@pytest.mark.skipif(os.name != "posix", reason="sends SIGINT")
def test_ctrl_c_in_a_real_process(tmp_path):
    """A long run, interrupted once its first chunk is saved: status 130, a playable file, no traceback."""
    code = (
        "import signal, sys; sys.path.insert(0, sys.argv[1]); import conftest;"
        # a shell that runs the tests in the background makes processes ignore SIGINT
        "signal.signal(signal.SIGINT, signal.default_int_handler);"
        "from comfyui_sana_video.command_line.cli import main; sys.exit(main(sys.argv[2:]))"
    )
    words = ["generate", "a", *SMALL, "--chunks", "90", "--out", "v.mp4", "--state-out", "s.safetensors"]
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(ROOT / "tests"), *words],
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        text=True,
    )
    until((tmp_path / "s.safetensors").exists, 60)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=limit(60))
    assert process.returncode == 130, err
    assert "Traceback" not in err
    assert _frames(tmp_path / "v.mp4").shape[2] % 40 == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["s.safetensors", "v.mp4"]
    trained = PACK.module("demo.model_set").demo_set().transformer
    made_by = PACK.core("checkpoints.checkpoint").load_transformer(trained).fingerprint
    assert _state(tmp_path / "s.safetensors").identity.fingerprint == made_by


def test_what_the_model_reads(sana, demo):
    """The system prompt and the motion score reach the prompts and not the negative; the digest holds all."""
    from comfyui_sana_video.command_line.cli import _parser
    from comfyui_sana_video.command_line.models import choose_models, encode_prompts

    system_prompt = "Write well. User Prompt: "
    words = ["generate", " a Ball ", "--negative", "bad", "--instruction", system_prompt]
    options = _parser().parse_args([*words, "--motion-score", "30", "--device", "cpu"])
    positive, negative = encode_prompts(choose_models(options), options, options.prompts, negative=True)
    encoder = PACK.core("text.encoder").load_text_encoder(demo.text_encoder)
    expected = encoder.encode("a Ball", system_prompt=system_prompt, motion_score=30)
    assert same(positive.embeddings, expected[0])
    assert same(positive.mask, expected[1])
    assert same(negative.embeddings, encoder.encode("bad", system_prompt=False)[0])
    assert positive.text == "a Ball"
    digest = PACK.core("text.prompt").prompt_digest
    assert positive.digest == digest("a Ball", system_prompt=system_prompt, motion_score=30)
    options.instruction = None  # the demo reads prompts as they are, whatever is installed
    (plain,) = encode_prompts(choose_models(options), options, options.prompts)
    assert plain.digest == digest("a Ball", system_prompt=None, motion_score=30)


def test_tiles_also_encode(sana):
    Image.linear_gradient("L").save("grey.png")
    for tiling, name in ((["--tile", "4"], "tiled"), ([], "whole")):
        words = ["--steps", 1, "--image", "grey.png", *tiling, "--state-out", f"{name}.safetensors"]
        sana("generate", "a", "--size", "64x16", *words)
    tiled, whole = (_state(f"{name}.safetensors").history[0].latents for name in ("tiled", "whole"))
    assert tiled.shape == whole.shape
    assert not torch.equal(tiled, whole)
