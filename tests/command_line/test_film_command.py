"""`sana-video film` as a person uses it: what is refused, what is kept, what goes on."""

from __future__ import annotations

import logging
import os
import re
import shutil
import signal
import subprocess
import sys
import wave
from pathlib import Path
from unittest.mock import patch

import av
import pytest
import torch
from comfyui_sana_video.bridge.films import Wish
from comfyui_sana_video.command_line import film as command
from comfyui_sana_video.command_line import models
from comfyui_sana_video.command_line.cli import main
from comfyui_sana_video.demo.model_set import write_demo_set
from comfyui_sana_video.sana_video_core.config import FAMILIES
from comfyui_sana_video.sana_video_core.errors import FileError
from comfyui_sana_video.sana_video_core.files.claims import claim
from comfyui_sana_video.sana_video_core.files.tensor_file import read_tensors
from comfyui_sana_video.sana_video_core.files.video_reader import read_metadata
from comfyui_sana_video.sana_video_core.files.video_writer import VideoWriter
from comfyui_sana_video.sana_video_core.films import keeping
from comfyui_sana_video.sana_video_core.films.prune import prune
from comfyui_sana_video.sana_video_core.streaming.state import LightState, StreamState
from comfyui_sana_video.sana_video_core.streaming.state_file import load_state, save_state
from comfyui_sana_video.sana_video_core.vae import colours
from comfyui_sana_video.sana_video_core.vae.wan_vae import WanVAE
from conftest import ROOT
from PIL import Image
from safetensors.torch import save_file
from support.calibration import until
from support.films import pictures
from support.forks import begin, ended
from support.tiny_files import SLIM, tiny_weights
from support.video_files import posix

SMALL = ["--size", "32x16", "--steps", "1"]
SCRIPT = "a ball\nkeep: a star\ncut: a square\n"
STORE = Path("sana_films/store")


@pytest.fixture(scope="module", autouse=True)
def demo(tmp_path_factory):
    """A random set in place of the trained one; previews in rough colours."""
    random_set = write_demo_set(tmp_path_factory.mktemp("demo") / "set")
    with patch.object(models, "demo_set", lambda: random_set), patch.object(colours, "TRIALS", 2):
        yield random_set


@pytest.fixture
def sampled(monkeypatch):
    """The chunks that were sampled since this was last cleared."""
    keep, chunks = keeping.Keeping.chunk, []

    def counted(self, chunk):
        if not chunk.primed:
            chunks.append(chunk.prompt)
        keep(self, chunk)

    monkeypatch.setattr(keeping.Keeping, "chunk", counted)
    return chunks


@pytest.fixture
def decoded(monkeypatch):
    """One number for each latent frame that was decoded."""
    decode, frames = WanVAE.decode_frame, []
    monkeypatch.setattr(WanVAE, "decode_frame", lambda *a, **b: frames.append(1) or decode(*a, **b))
    return frames


@pytest.fixture
def sana(tmp_path, monkeypatch, capsys):
    """Makes a film of script.txt in an empty folder; returns (status, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)
    Path("script.txt").write_text(SCRIPT, encoding="utf-8")

    def run(*words, script="script.txt", small=SMALL, seconds=7.5):
        status = main(["film", str(script), "--seconds", str(seconds), *small, *map(str, words)])
        said = capsys.readouterr()
        return status, said.out, said.err

    return run


@pytest.fixture(scope="module")
def made(demo, tmp_path_factory):
    """A folder with a film of three chunks, its state and its store."""
    folder = tmp_path_factory.mktemp("made")
    (folder / "script.txt").write_text(SCRIPT, encoding="utf-8")
    words = ["--seconds", "7.5", *SMALL, "--out", folder / "f.mp4", "--state-out", folder / "s.safetensors"]
    assert main(["film", *map(str, (folder / "script.txt", *words))]) == 0
    return folder


@pytest.fixture
def again(made, tmp_path, sana):
    """The same in the test's folder, under the name by default."""
    shutil.copytree(made / "sana_films", tmp_path / "sana_films")
    return sana


def same_state(a, b):
    return a.plan == b.plan and all(torch.equal(x, y) for x, y in zip(a.tensors(), b.tensors(), strict=True))


def test_a_film_has_the_script_s_name_and_is_made_once(sana, sampled, decoded):
    status, out, _ = sana()
    assert status == 0
    assert "wrote script.mp4: 3 chunks, 122 frames, 7.6 s" in out
    assert sampled == ["a ball", "a star", "a square"]
    assert len(decoded) == 32
    shown = pictures(Path("script.mp4"))
    assert len(shown) == 122
    status, out, err = sana()
    assert "3 chunks from the store" in out
    assert "100%" in err, "the bar is full though nothing was decoded"
    assert (len(sampled), len(decoded)) == (3, 32)
    assert pictures(Path("script.mp4")) == shown
    assert {path.name for path in Path().iterdir()} == {"script.txt", "script.mp4", "sana_films"}


def test_an_edit_makes_its_line_and_what_follows_in_its_scene(again, sampled, decoded, made):
    Path("script.txt").write_text(SCRIPT.replace("a star", "a fox"), encoding="utf-8")
    status, out, _ = again("--out", "f.mp4")
    assert (status, sampled) == (0, ["a fox"])
    assert len(decoded) == 21
    assert "3 chunks, 2 of them from the store" in out
    Path("script.txt").write_text(SCRIPT, encoding="utf-8")
    assert again("--out", "f.mp4")[0] == 0
    assert (len(sampled), len(decoded)) == (1, 21)
    assert pictures(Path("f.mp4")) == pictures(made / "f.mp4")


def test_no_resume_makes_everything(again, sampled, decoded, made):
    assert again("--no-resume")[0] == 0
    assert (len(sampled), len(decoded)) == (3, 32)
    assert pictures(Path("script.mp4")) == pictures(made / "f.mp4")
    assert again("--resume", "--anywhere", "--store", STORE)[0] == 0
    assert len(sampled) == 3


def test_another_folder_has_the_same_names(made, sana, sampled):
    Path("deep").mkdir()
    Path("deep/other.txt").write_text(SCRIPT, encoding="utf-8")
    words = ["--store", made / STORE, "--out", "deep/o.mp4"]
    assert sana(*words, script="deep/other.txt")[0] == 0
    assert not sampled
    assert pictures(Path("deep/o.mp4")) == pictures(made / "f.mp4")


def test_the_motion_score_is_the_node_s():
    """So that both share LongSANA's chunks. (The demo model's is 0, which its workflows set.)"""
    assert FAMILIES["longsana_480p"].motion_score == Wish(width=1, height=1, fps=16).motion_score


# --- refusals


MISTAKES = [
    ("0:00 a\n0:05 b\n0:04 c\n", "Line 3"),
    ("", "empty"),
]


@pytest.mark.parametrize("text, words", MISTAKES)
def test_mistakes_of_a_script_are_said_before_anything_is_imported(text, words, tmp_path):
    (tmp_path / "s.txt").write_text(text, encoding="utf-8")
    code = (
        f"import sys; sys.path.insert(0, {str(ROOT / 'tests')!r}); import conftest;"
        "from comfyui_sana_video.command_line.cli import main; status = main(['film', 's.txt']);"
        "print('torch' in sys.modules); sys.exit(status)"
    )
    run = [sys.executable, "-c", code]
    done = subprocess.run(run, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "False\n"), done.stderr
    assert words.lower() in done.stderr.lower()
    assert [path.name for path in tmp_path.iterdir()] == ["s.txt"]


REFUSALS = [
    (["--out", "v.avi"], "has to end with .mp4"),
    (["--out", "no/folder/v.mp4"], "no folder"),
    (["--out", "film.mp4"], "is what --video reads"),
    (["--out", "sound.mp4", "--audio", "sound.mp4"], "is what --audio reads"),
    (["--image", "i.png", "--video", "film.mp4"], "use one of them"),
    (["--image", "i.png", "--state-in", "s.safetensors"], "use one of them"),
    (["--video", "script.txt"], "script.txt"),
    (["--image", "script.txt"], "script.txt"),
    (["--state-in", "script.txt"], "script.txt"),
    (["--state-in", "s.safetensors", "--size", "64x64"], "of 32 x 16"),
    (["--state-in", "s.safetensors", "--window", "2"], "keeps its window"),
    (["--state-in", "two.safetensors"], "batch"),
    (["--audio", "film.mp4"], "no sound"),
    (["--audio", "gone.wav"], "gone.wav"),
    (["--light"], "--state-out"),
    (["--sheet", "s.jpg"], "end with .png"),
    (["--sheet", "x.png", "--preview", "x.png"], "both name"),
    (["--state-out", "s.pt"], "end with .safetensors"),
    (["--lora", "gone.safetensors"], "no LoRA"),
    (["--family", "sana_video_480p"], "needs a block-causal one"),
    (["--steps", "0"], "choose 1 to"),
    (["--sampler", "euler", "--rule", "original"], "few_step"),
    (["--motion-score", "-1"], "motion score"),
    (["--tile", "0"], "ile"),
    (["--seed", "-1"], "seed"),
    (["--window", "-1"], "window"),
    (["--vae", "v"], "without --model"),
    (["--model", "nowhere.pth"], "--text-encoder is missing"),
    (["--device", "toaster"], "--device cpu"),
    (["--store", "script.txt"], "script.txt"),
    (["--store", "newer"], "Update the pack"),
    (["--store", "odd"], "doesn't say of which version"),
]


@pytest.fixture(scope="module")
def files(made, tmp_path_factory):
    """What options name."""
    folder = tmp_path_factory.mktemp("files")
    with VideoWriter(folder / "film.mp4", fps=16) as writer:
        writer.write(torch.linspace(-1, 1, 10)[None, :, None, None].expand(3, -1, 16, 32))
    shutil.copy(folder / "film.mp4", folder / "sound.mp4")
    Image.new("RGB", (32, 16)).save(folder / "i.png")
    state = load_state(made / "s.safetensors")
    save_state(state, folder / "s.safetensors")
    one = state.identity
    empty = StreamState(
        identity=type(one)(**{name: getattr(one, name) for name in one.__slots__} | {"batch": 2})
    )
    save_state(empty, folder / "two.safetensors")
    for name, text in (("newer", '{"sana_video_store": 2}'), ("odd", "?")):
        (folder / name).mkdir()
        (folder / name / "store.json").write_text(text, encoding="utf-8")
    return folder


@pytest.mark.parametrize("words, said", REFUSALS, ids=[" ".join(words) for words, _ in REFUSALS])
def test_refusals_come_before_the_work_and_leave_nothing(sana, files, tmp_path, monkeypatch, words, said):
    shutil.copytree(files, tmp_path, dirs_exist_ok=True)
    before = {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    monkeypatch.setattr(command, "FilmFile", lambda *_, **__: pytest.fail("work began"))
    words = [*words, "--video", "film.mp4"] if "--video reads" in said else words
    status, _, err = sana(*words)
    assert status == 1, err
    assert said in err
    assert "Traceback" not in err
    assert "are kept" not in err
    after = {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir() if path.name != "sana_films"}
    assert after == {name: when for name, when in before.items() if name in after}
    assert set(after) == set(before)


def test_a_folder_that_nobody_may_write_to(sana):
    if os.name != "posix" or os.geteuid() == 0:
        pytest.skip("root may")
    Path("closed").mkdir(mode=0o500)
    status, _, err = sana("--store", "closed/store")
    assert status == 1
    assert "a folder that you may write to" in err


def test_a_name_that_another_program_writes(sana):
    with claim(Path("script.mp4")):
        status, _, err = sana()
    assert status == 1
    assert "is being written by another program" in err


# --- options


def test_a_state_in_and_out_is_a_longer_film(again, sampled, made, tmp_path):
    """Also of a light state, and of one whose chunks are all in the store."""
    Path("more.txt").write_text("a square\n", encoding="utf-8")
    last = ["--state-in", made / "s.safetensors", "--out", "m.mp4", "--state-out", "m.safetensors"]
    status, out, _ = again(*last, script="more.txt", seconds=2.5)
    assert status == 0
    assert "1 chunk, 40 frames" in out
    assert sampled == ["a square"]
    Path("script.txt").write_text(SCRIPT + "a square\n", encoding="utf-8")
    words = ["--seed", "0", "--state-out", "w.safetensors"]
    assert again(*words, seconds=10)[0] == 0
    whole, more = (load_state(Path(name)) for name in ("w.safetensors", "m.safetensors"))
    assert isinstance(more, StreamState)
    assert whole.plan == more.plan
    again(*words, "--light", seconds=10)
    light = load_state(Path("w.safetensors"))
    assert isinstance(light, LightState)
    assert all(torch.equal(a.latents, b.latents) for a, b in zip(whole.history, light.history, strict=True))
    count = len(sampled)
    assert again(*words, seconds=10)[0] == 0
    assert len(sampled) == count
    assert same_state(load_state(Path("w.safetensors")), whole)  # rebuilt


def test_a_script_that_begins_with_a_cut_on_a_state(again, sampled, made):
    Path("more.txt").write_text("cut: a square\nanother\n", encoding="utf-8")
    words = ["--state-in", made / "s.safetensors", "--seed", "0", "--state-out", "m.safetensors"]
    status, out, _ = again(*words, script="more.txt", seconds=5)
    assert status == 0
    assert "81 frames" in out
    assert sampled == ["a square", "another"]
    assert load_state(Path("m.safetensors")).plan == ((11, 10), (11,), (11, 10))
    assert read_metadata("more.mp4")["prompts"] == ["a square", "another"]


def test_a_draft_decoder(again, demo, sampled, monkeypatch):
    monkeypatch.setattr("comfyui_sana_video.sana_video_core.vae.tiny_decoder.WIDTHS", SLIM)
    save_file(tiny_weights(dtype=torch.float16, widths=SLIM), "taew2_1.safetensors")
    words = ["--model", demo.transformer, "--text-encoder", demo.text_encoder, "--vae", "taew2_1.safetensors"]
    words += ["--motion-score", "0", "--store", STORE]
    shown = []
    for more in (["--state-out", "s.safetensors"], [], ["--no-resume"], ["--overlap", "on", "--no-resume"]):
        status, _, err = again(*words, *more, "--out", "draft.mp4")
        assert status == 0, err
        shown.append(pictures(Path("draft.mp4")))
    assert len(shown[0]) == 122
    assert shown[0] == shown[1] == shown[2] == shown[3]
    assert len(sampled) == 6  # none at first: the chunks are those of the film before


@pytest.mark.parametrize("overlap", ["on", "off"])
def test_what_else_is_asked_for(again, sana, made, overlap, sampled):
    words = ["--no-resume", "--overlap", overlap, "--sheet", "s.png", "--preview", "p.png"]
    status, out, _ = again(*words)
    assert status == 0
    assert len(sampled) == 3
    assert pictures(Path("script.mp4")) == pictures(made / "f.mp4")
    assert "wrote s.png" in out
    assert Image.open("s.png").size[0] > 64
    assert Image.open("p.png").size[0] >= 32


def test_tiles_are_another_look(again, sampled, decoded):
    for _ in range(2):
        assert again("--tile", "4")[0] == 0
    assert not sampled
    assert len(decoded) % 32 == 0
    assert decoded


@pytest.mark.parametrize("kind", ["--image", "--video"])
def test_what_a_film_begins_with_is_shown(again, files, kind, sampled):
    name, frames = {"--image": ("i.png", 1), "--video": ("film.mp4", 9)}[kind]
    status, out, _ = again(kind, files / name)
    assert status == 0
    assert f" {frames + 121} frames" in out
    assert sampled == ["a ball", "a star"]  # the second scene is as before
    assert again(kind, files / name)[0] == 0
    assert len(sampled) == 2


def test_sound(again, tmp_path):
    with wave.open("tone.wav", "wb") as file:
        file.setnchannels(1), file.setsampwidth(2), file.setframerate(8000)
        file.writeframes(b"\0\1" * 8000 * 9)
    assert again("--audio", "tone.wav")[0] == 0
    with av.open("script.mp4") as film:
        seconds = [float(s.duration * s.time_base) for s in (*film.streams.video, *film.streams.audio)]
    assert seconds == pytest.approx([7.625, 7.625], abs=0.07)


def test_a_lora_makes_another_film(again, demo, sampled):
    weights, _ = read_tensors(demo.transformer)
    name = next(key for key in weights if key.endswith("attn.proj.weight"))
    width = len(weights[name])
    module = name.removesuffix(".weight")
    pair = {"lora_A": torch.ones(2, width), "lora_B": torch.ones(width, 2)}
    save_file({f"{module}.{part}.weight": tensor for part, tensor in pair.items()}, "snow.safetensors")
    Path("ball.txt").write_text("a ball\n", encoding="utf-8")
    for words, count in (
        (["--lora", "snow.safetensors:0.5"], 1),
        (["--lora", "snow.safetensors:0.5"], 0),
        (["--lora", "snow.safetensors:0.6"], 1),
        ([], 0),
    ):
        sampled.clear()
        status, _, err = again(*words, script="ball.txt", seconds=2.5)
        assert status == 0, err
        assert len(sampled) == count


# --- others at the same time, and the end


def test_a_store_is_not_pruned_under_a_film(again, monkeypatch):
    said, chunk = [], keeping.Keeping.chunk

    def pruned(self, made):
        if not said:
            with pytest.raises(FileError) as refused:
                prune(STORE, size=0, ask=lambda plan: True)
            said.append(str(refused.value))
        chunk(self, made)

    monkeypatch.setattr(keeping.Keeping, "chunk", pruned)
    assert again("--seed", "1", "--out", "f.mp4")[0] == 0
    assert "a film is being made" in said[0]


def process(folder, *words):
    """The command as a process of its own; what it says is in a file beside its folder."""

    def work():
        signal.signal(signal.SIGINT, signal.default_int_handler)
        logging.root.handlers.clear()  # pytest's: here warnings are printed
        return main(["film", *map(str, words)])

    return begin(work, folder, f"{folder}.said")


@posix
def test_two_films_over_one_store(tmp_path):
    """They begin alike, and at the same moment."""
    running = []
    for name, last in (("one", "a square"), ("two", "a star")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "s.txt").write_text(f"a ball\n{last}\n", encoding="utf-8")
        words = ["--seconds", 10, "--store", tmp_path / "store", "--state-out", "s.safetensors"]
        running.append(process(tmp_path / name, "s.txt", *SMALL, *words))
    for name, each in zip(("one", "two"), running, strict=True):
        status, said = ended(each), (tmp_path / f"{name}.said").read_text(encoding="utf-8")
        assert status == 0, said
        assert "law" not in said
    states = [load_state(tmp_path / name / "s.safetensors") for name in ("one", "two")]
    pairs = list(zip(*(state.history for state in states), strict=True))
    assert [a.key == b.key for a, b in pairs] == [True, True, False, False]
    assert [torch.equal(a.latents, b.latents) for a, b in pairs] == [True, True, False, False]
    assert len(list((tmp_path / "store/chunks").rglob("*.safetensors"))) == 6


@posix
@pytest.mark.parametrize(
    "name, status, resume, advice",
    [
        ("SIGINT", 130, "--resume", "the same command goes on"),
        ("SIGTERM", 143, "--no-resume", "the same command with --resume goes on"),
    ],
)
def test_a_stopped_process_says_what_is_kept(tmp_path, monkeypatch, name, status, resume, advice):
    folder = tmp_path / "film"
    folder.mkdir()
    monkeypatch.chdir(folder)
    Path("s.txt").write_text("a ball\ncut: a star\n", encoding="utf-8")
    words = ["s.txt", *SMALL, "--seconds", "60", resume]
    running, chunks = process(folder, *words), STORE / "chunks"
    until(lambda: len(list(chunks.rglob("*.safetensors"))) >= 2, 60)
    os.kill(running, getattr(signal, name))
    ending, err = ended(running), (tmp_path / "film.said").read_text(encoding="utf-8")
    assert ending == status, err
    assert "Traceback" not in err
    kept = re.search(r"“s\.mp4” holds what is finished, (\d+) frames\. (\d+) of 24 chunks are kept", err)
    assert kept, err
    assert advice in err
    assert "was decoded" not in err
    assert len(pictures(Path("s.mp4"))) == int(kept[1])
    stored = len(list(chunks.rglob("*.safetensors")))
    assert int(kept[2]) <= stored <= int(kept[2]) + 1
    assert {path.name for path in Path().iterdir()} == {"s.txt", "s.mp4", "sana_films"}
    assert not list(Path().rglob(".*"))
