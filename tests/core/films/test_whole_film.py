"""A film is one decode of its story, however it was made: at once, after a stop, or of what a store has."""

from __future__ import annotations

import shutil
import threading
from dataclasses import replace

import pytest
import torch
from comfyui_sana_video.sana_video_core.callbacks import Callbacks
from comfyui_sana_video.sana_video_core.errors import Cancelled, ChunkError, FileError
from comfyui_sana_video.sana_video_core.files import film_file
from comfyui_sana_video.sana_video_core.files.video_reader import read_metadata
from comfyui_sana_video.sana_video_core.films.layout import DAMAGED, entry_path
from comfyui_sana_video.sana_video_core.films.manifest import read_manifests
from comfyui_sana_video.sana_video_core.films.store import Store
from comfyui_sana_video.sana_video_core.streaming.stream import primed
from support.calibration import until
from support.checks_stream import begin, prompt
from support.films import (
    FRAMES,
    PACK,
    SCRIPT,
    SIZE,
    Decoding,
    Studio,
    Toy,
    expected,
    pictures,
    shot,
    tiny_vae,
)

LATENTS = [11, 10, 10, 11, 10]


@pytest.fixture(scope="module")
def model():
    return PACK.tiny_model(heads=1, depth=1)


@pytest.fixture(scope="module")
def counted():
    return Decoding(Toy())


@pytest.fixture(scope="module")
def made(model, counted, tmp_path_factory):
    """A film with its store; its state and its pictures."""
    studio = Studio(model, counted.vae, tmp_path_factory.mktemp("made"))
    state = studio.make()
    return studio, state, pictures(studio.path)


@pytest.fixture
def studio(made, tmp_path):
    """One whose store has all of that film."""
    shutil.copytree(made[0].store.folder, tmp_path / "store")
    return Studio(made[0].model, made[0].vae, tmp_path)


@pytest.fixture
def fresh(made, tmp_path):
    return Studio(made[0].model, made[0].vae, tmp_path)


@pytest.fixture(autouse=True)
def _no_thread_stays(counted):
    counted.decoded()
    before = threading.active_count()
    yield
    for thread in threading.enumerate():
        if thread.name.startswith("sana_video"):
            thread.join(10)
    assert threading.active_count() <= before


def segments(studio, state) -> list:
    """The files of the film's segments, in their order."""
    ((film,), _) = read_manifests(studio.store.folder)
    keys = read_manifests(studio.store.folder)[0][film].keys["segments"]
    assert len(keys) == len(state.history) - studio.from_chunk
    return [entry_path(studio.store.folder, "segments", key) for key in keys]


def test_a_film_is_one_decode_of_its_story(made, tmp_path):
    studio, state, shown = made
    assert shown == expected(studio.vae, state, tmp_path / "expected.mp4")
    assert len(shown) == sum(FRAMES)
    about = read_metadata(studio.path)
    assert about["prompts"] == ["a", "a", "b", "c", "d"]
    ((film,), unread) = read_manifests(studio.store.folder)
    assert not unread
    listed = read_manifests(studio.store.folder)[0][film]
    assert listed.finished
    assert [len(listed.keys[kind]) for kind in ("chunks", "segments", "embeddings")] == [5, 5, 4]


def test_a_film_of_the_real_decoder(model, tmp_path):
    studio = Studio(model, tiny_vae(), tmp_path)
    state = studio.make(shot("a"), shot("b", opens=True))
    assert pictures(studio.path) == expected(studio.vae, state, tmp_path / "expected.mp4")


@pytest.mark.parametrize("overlap", [True, False])
def test_in_turn_and_overlapped_are_the_same(made, fresh, overlap):
    fresh.overlap = overlap
    fresh.make()
    assert pictures(fresh.path) == made[2]


def test_what_is_in_the_store_is_not_decoded(made, studio, counted):
    studio.make()
    assert counted.decoded() == 0
    assert pictures(studio.path) == made[2]


GAPS = [[2], [0, 2], [1, 3], [0, 4]]


@pytest.mark.parametrize(
    "how, missing", [*(("gone", gap) for gap in GAPS), ("damaged", [0, 2]), ("damaged", [4])]
)
def test_missing_segments_alone_are_made_again(made, studio, counted, missing, how):
    paths = segments(made[0], made[1])
    for number in missing:
        path = studio.store.folder / paths[number].relative_to(made[0].store.folder)
        if how == "gone":
            path.unlink()
        else:
            path.write_bytes(path.read_bytes()[:-7])
    studio.make()
    assert pictures(studio.path) == made[2]
    scenes = [[n for n in missing if n < 3], [n for n in missing if n >= 3]]
    begins = (0, 3)  # the decoder looks back further than these scenes are long
    assert counted.decoded() == sum(
        sum(LATENTS[begins[scene] : numbers[-1] + 1]) for scene, numbers in enumerate(scenes) if numbers
    )
    studio.make()
    assert counted.decoded() == 0


def test_a_decoder_that_begins_in_mid_scene_shows_the_same(model, counted, tmp_path):
    """It looks back 12 latent frames: two chunks."""
    studio = Studio(model, counted.vae, tmp_path)
    state = studio.make(shot("a", 5))
    whole = pictures(studio.path)
    assert counted.decoded() == 51
    path = segments(studio, state)[4]
    path.unlink()
    studio.make(shot("a", 5))
    assert counted.decoded() == 30
    assert pictures(studio.path) == whole


OTHERS = {
    "fps": {"fps": 24},
    "vae": {"content": "another"},
    "tiling": {"tiling": "tiles of 4"},
    "resume": {"resume": False},
}


@pytest.mark.parametrize("change", OTHERS.values(), ids=OTHERS)
def test_another_look_is_decoded_anew(made, studio, counted, change):
    again = replace(studio, **change)
    again.make()
    assert counted.decoded() == sum(LATENTS)
    anew = expected(counted.vae, made[1], studio.folder / "expected.mp4", fps=again.fps)
    assert pictures(again.path) == anew
    counted.decoded()
    studio.make()
    assert counted.decoded() == 0


EDITS = {
    "the last line": ((*SCRIPT[:3], shot("new", on_prompt_change="keep", seed=8)), 21),
    "the second scene": ((*SCRIPT[:2], shot("new", opens=True, seed=8), SCRIPT[3]), 21),
    "a line of the first scene": ((SCRIPT[0], shot("new"), *SCRIPT[2:]), 31),
    "no second scene": (SCRIPT[:2], 0),
    "scenes change places": (
        (replace(SCRIPT[2], opens=False), SCRIPT[3], replace(SCRIPT[0], opens=True), SCRIPT[1]), 0,
    ),
}  # fmt: skip


@pytest.mark.parametrize("shots, latents", EDITS.values(), ids=EDITS)
def test_an_edit_decodes_its_scene_alone(studio, counted, shots, latents, tmp_path):
    state = studio.make(*shots)
    assert counted.decoded() == latents
    assert pictures(studio.path) == expected(counted.vae, state, tmp_path / "expected.mp4")


# --- what ends a film


class Stop(BaseException):
    """As KeyboardInterrupt; another kind, so that pytest isn't told to stop."""


def at(number: int, error: type[BaseException] = Stop):
    """Callbacks that raise at the call of this number."""
    calls = []

    def call(*news):
        calls.append(1)
        if len(calls) == number:
            raise error("stopped")
        return False

    return call


def check_rest(studio, made):
    """What a stopped film left is its beginning, in whole chunks; and the same call makes the rest."""
    _, state, whole = made
    left = pictures(studio.path) if studio.path.exists() else []
    assert left == whole[: len(left)]
    ends = [sum(FRAMES[:n]) for n in range(6)]
    assert len(left) in ends
    if left:
        assert len(read_metadata(studio.path)["prompts"]) == ends.index(len(left))
    chunks = len(list((studio.store.folder / "chunks").rglob("*.safetensors")))
    assert ends.index(len(left)) <= chunks
    again = studio.make()
    assert pictures(studio.path) == whole
    assert all(torch.equal(a.latents, b.latents) for a, b in zip(again.history, state.history, strict=True))
    assert not [path for path in studio.folder.iterdir() if path.name.startswith(".")]
    return ends.index(len(left)), chunks


# model calls of the film: 2 a chunk, one for the recache
@pytest.mark.parametrize("number", [1, 2, 3, 4, 6, 8, 11])
def test_a_stop_between_two_model_calls(made, fresh, number):
    fresh.overlap = number % 2 == 0
    with pytest.raises(Stop):
        fresh.make(sampling=Callbacks(cancelled=at(number)))
    shown, chunks = check_rest(fresh, made)
    sampled = [0, 0, 1, 1, 2, 2, 2, 3, 3, 4, 4][number - 1]
    assert chunks == sampled
    if not fresh.overlap:  # else what is being decoded and encoded is dropped: the store has it
        assert shown == sampled


@pytest.mark.parametrize("number", [1, 12, 50])
@pytest.mark.parametrize("where", ["decoding", "see"])
def test_an_error_while_frames_are_decoded(made, fresh, where, number):
    """It is in the decoder's thread, and ends the sampling, too."""
    how = {"decoding": {"decoding": Callbacks(progress=at(number, RuntimeError))}}
    with pytest.raises(RuntimeError, match="stopped"):
        fresh.make(**how.get(where, {"see": at(number, RuntimeError)}))
    shown, chunks = check_rest(fresh, made)
    assert chunks - shown in (1, 2)


@pytest.mark.parametrize("overlap, number", [(True, 1), (False, 3), (True, 5)])
def test_a_full_disk_under_the_film(made, fresh, monkeypatch, overlap, number):
    fresh.overlap, full = overlap, at(number, OSError)
    write = film_file.FilmFile._write

    def limited(self, fragment):
        full()
        write(self, fragment)

    with monkeypatch.context() as patched:
        patched.setattr(film_file.FilmFile, "_write", limited)
        with pytest.raises(FileError, match="What was finished is kept"):
            fresh.make()
    assert check_rest(fresh, made)[0] == number - 1


def test_the_last_chunk_is_shown_although_the_next_fails(made, fresh):
    """Its last frames don't wait for the next chunk."""
    shown = []
    fresh.overlap = True

    def cancelled():
        until(lambda: not any(called) or len(shown) == 41, 10)
        return bool(shown)

    called = []
    work = Callbacks(cancelled=cancelled, progress=lambda news: called.append(news.step == news.steps))
    with pytest.raises(Cancelled):
        fresh.make(sampling=work, see=shown.extend)
    assert len(pictures(fresh.path)) == 41


@pytest.mark.parametrize("kind", ["segments", "chunks"])
def test_a_store_that_cannot_be_written(made, studio, fresh, monkeypatch, caplog, kind):
    """One warning, and the film is made; what the store has already is read still."""
    paths = segments(made[0], made[1])
    (studio.store.folder / paths[1].relative_to(made[0].store.folder)).unlink()
    write = Store.write

    def full(self, what, *entry):
        if what == kind:
            raise FileError("The disk is full.")
        return write(self, what, *entry)

    monkeypatch.setattr(Store, "write", full)
    studio.make()
    assert pictures(studio.path) == made[2]
    assert len([r for r in caplog.records if "disk is full" in r.getMessage()]) == (kind == "segments")


def test_a_second_stop_ends_the_waiting(made, fresh, monkeypatch):
    """The first one waits for the decoder; the second doesn't."""
    gate, seen = threading.Event(), []

    def slow(frames):
        seen.append(1)
        assert gate.wait(20)

    join, joins = threading.Thread.join, []

    def joined(self, timeout=None):
        if self.name == "sana_video decoding" and not joins:
            joins.append(1)
            raise Stop("the second")
        join(self, timeout)

    def cancelled():
        if seen:
            raise Stop("the first")
        return False

    fresh.overlap = True
    monkeypatch.setattr(threading.Thread, "join", joined)
    with pytest.raises(Stop) as stopped:
        fresh.make(sampling=Callbacks(cancelled=cancelled), see=slow)
    monkeypatch.undo()
    gate.set()
    assert str(stopped.value) == "the second"
    for thread in threading.enumerate():
        if thread.name.startswith("sana_video"):
            join(thread, 10)
    check_rest(fresh, made)


def test_nan_in_frames(made, fresh, monkeypatch):
    step, calls = fresh.vae.decode_frame, []

    def broken(*arguments, **options):
        pixels, cache = step(*arguments, **options)
        calls.append(1)
        return (pixels * float("nan") if len(calls) == 15 else pixels), cache

    with monkeypatch.context() as patched:
        patched.setattr(fresh.vae, "decode_frame", broken)
        with pytest.raises(ChunkError, match="chunk 2 of 5"):
            fresh.make()
    assert check_rest(fresh, made)[0] == 1


def test_nan_in_latents(made, fresh, model):
    """The chunk isn't in the store, and those before it are."""
    calls = []

    def broken(module, arguments, velocity):
        calls.append(1)
        return velocity * float("nan") if len(calls) == 3 else velocity

    hook = model.register_forward_hook(broken)
    try:
        with pytest.raises(ChunkError):
            fresh.make()
    finally:
        hook.remove()
    assert check_rest(fresh, made) == (2, 2)


# --- what a film begins with


def begun(model, kind):
    text = prompt(PACK, "a")
    frames = {"image": 1, "video": 21}[kind]
    latents = torch.randn(1, 16, frames, 2, 4, generator=torch.Generator().manual_seed(frames))
    return primed(model, begin(PACK, model, **SIZE), text, latents)


@pytest.mark.parametrize("kind, frames", [("image", 1), ("video", 81)])
def test_a_picture_or_a_video_at_the_beginning_is_shown(model, fresh, counted, kind, frames):
    fresh.story = begun(model, kind)
    state = fresh.make(shot("a"), shot("b"))
    whole = pictures(fresh.path)
    assert len(whole) == frames + 80
    assert whole == expected(fresh.vae, state, fresh.folder / "expected.mp4")
    counted.decoded()
    fresh.make(shot("a"), shot("b"))
    assert counted.decoded() == 0
    assert pictures(fresh.path) == whole


@pytest.mark.parametrize("light", [True, False])
@pytest.mark.parametrize("opens", [True, False])
def test_a_film_that_continues_a_state_shows_what_is_new(model, studio, made, light, opens, counted):
    story = made[1].light() if light else made[1]
    again = replace(studio, story=story, from_chunk=5)
    last = shot("e", opens=opens, seed=9)
    state = again.make(last)
    shown = pictures(again.path)
    assert len(shown) == 40 + opens
    assert counted.decoded() == (11 if opens else 31)
    assert shown == expected(again.vae, state, again.folder / "expected.mp4", from_chunk=5)
    counted.decoded()
    assert pictures(again.path) == shown
    again.make(last)
    assert counted.decoded() == 0
    assert read_metadata(again.path)["prompts"] == ["e"]
    whole = studio.make(*SCRIPT, last)
    assert all(torch.equal(a.latents, b.latents) for a, b in zip(whole.history, state.history, strict=True))
    assert counted.decoded() == 0  # the film before and the one after share their parts


def test_damaged_chunks_and_parts_together(made, studio, caplog):
    paths = segments(made[0], made[1])
    for path in (paths[1], entry_path(made[0].store.folder, "chunks", made[1].history[1].key)):
        mine = studio.store.folder / path.relative_to(made[0].store.folder)
        mine.write_bytes(mine.read_bytes()[:100])
    studio.make()
    assert pictures(studio.path) == made[2]
    assert len(list(studio.store.folder.rglob(f"*{DAMAGED}"))) == 2
    assert len(caplog.records) == 2
