"""Who works when: which chunks are decoded, whose turn it is, and how the threads end."""

from __future__ import annotations

import threading

import pytest
from comfyui_sana_video.sana_video_core.callbacks import Callbacks
from comfyui_sana_video.sana_video_core.errors import Cancelled
from comfyui_sana_video.sana_video_core.films.layout import entry_path
from comfyui_sana_video.sana_video_core.films.manifest import read_manifests
from comfyui_sana_video.sana_video_core.films.projector import needed_chunks
from support.films import PACK, Studio, Toy, pictures, shot

SCENES, LENGTHS = (0, 0, 0, 0, 1, 1), (11, 10, 10, 10, 1, 10)


@pytest.mark.parametrize(
    "shown, reach, needed",
    [
        ({0}, 10, {0}),
        ({3}, 10, {2, 3}),
        ({3}, 11, {1, 2, 3}),
        ({3}, 30, {0, 1, 2, 3}),
        ({3}, None, {0, 1, 2, 3}),
        ({1, 3}, 10, {0, 1, 2, 3}),
        ({5}, 1, {4, 5}),
        ({5}, 10, {4, 5}),
        ({4}, 10, {4}),
        ({0, 5}, 10, {0, 4, 5}),
        (set(), 10, set()),
    ],
)
def test_chunks_that_have_to_be_decoded(shown, reach, needed):
    assert needed_chunks(SCENES, LENGTHS, shown, reach) == needed


@pytest.fixture(scope="module")
def model():
    return PACK.tiny_model(heads=1, depth=1)


@pytest.fixture
def studio(model, tmp_path):
    """One that writes down whose turn it is."""
    studio = Studio(model, Toy(), tmp_path)
    said = studio.said = []
    decode = studio.vae.decode_frame

    def decoded(*arguments):
        if said[-1] != "decoding":
            said.append("decoding")
        return decode(*arguments)

    studio.vae.decode_frame = decoded
    studio.screen = {
        "to_sample": lambda: said.append("model"),
        "to_decode": lambda: said.append("decoder"),
    }
    return studio


def test_in_turn_each_is_fetched_before_its_work(studio):
    studio.make(shot("a", 3))
    assert studio.said == ["model", "decoder", "decoding"] * 3


def test_beside_each_other_nobody_is_fetched_while_the_other_works(studio):
    """Whoever says that there is room for both has placed them."""
    studio.overlap = True
    studio.make(shot("a", 3))
    assert studio.said == ["model", "decoding"]


@pytest.mark.parametrize("overlap", [True, False])
def test_a_decoder_that_had_to_go_before_sampling_comes_back(studio, overlap):
    """What the store had was decoded first; then the model took the device."""
    studio.make(shot("a", 2))
    for path in (studio.store.folder / "segments").rglob("*.safetensors"):
        path.unlink()
    studio.overlap = overlap
    studio.said.clear()
    studio.make(shot("a", 2), shot("b", 2))
    known = ["decoder", "decoding"] * 2
    rest = ["model", "decoding"] if overlap else ["model", "decoder", "decoding"] * 2
    assert studio.said == known + rest


def test_a_film_without_sampling_fetches_no_model(studio):
    studio.make(shot("a", 2))
    ((film,), _) = map(list, read_manifests(studio.store.folder))
    keys = read_manifests(studio.store.folder)[0][film].keys["segments"]
    entry_path(studio.store.folder, "segments", keys[1]).unlink()
    studio.said.clear()
    studio.make(shot("a", 2))
    assert "model" not in studio.said
    studio.said.clear()
    studio.make(shot("a", 2))
    assert not studio.said


@pytest.mark.parametrize("overlap", [True, False])
def test_a_stop_is_noticed_while_the_decoder_works(studio, overlap, caplog):
    """In turn, and at the end, nobody samples who could notice it. It isn't told of twice."""
    studio.overlap, gate, inside, before = overlap, threading.Event(), [], threading.active_count()

    def see(frames):
        inside.append(1)
        assert gate.wait(20)

    def cancelled():
        stop = bool(inside) and threading.current_thread() is threading.main_thread()
        if stop:
            gate.set()
        return stop

    with pytest.raises(Cancelled):
        studio.make(shot("a", 1), sampling=Callbacks(cancelled), see=see)
    assert not caplog.records
    assert threading.active_count() <= before
    studio.make(shot("a", 1))
    assert len(pictures(studio.path)) == 41


def test_the_host_is_around_all_decoding_and_in_its_thread(studio):
    class Inside:
        def __init__(self):
            self.log = []

        def __enter__(self):
            self.log.append(threading.current_thread().name)

        def __exit__(self, *_):
            self.log.append("out")

    inside = Inside()
    studio.screen["inside"] = lambda: inside
    studio.make(shot("a"))
    assert inside.log == ["sana_video decoding", "out"]
