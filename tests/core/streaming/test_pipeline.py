"""A film decoded while it is sampled is that decoded afterwards; whatever fails, what is finished stays."""

import threading
import time

import pytest
import torch
from support.checks_stream import begin, prompt, run
from support.pack import Pack, same

PACK = Pack()
DEVICES = dict.fromkeys(("sampling", "decoding"), torch.device("cpu"))
decoding, errors, pipeline, stream, wan_vae, callbacks, image_file = (
    PACK.core(name)
    for name in (
        "streaming.decoding",
        "errors",
        "streaming.pipeline",
        "streaming.stream",
        "vae.wan_vae",
        "callbacks",
        "files.image_file",
    )
)


@pytest.fixture(scope="module")
def vae():
    return PACK.module("demo.model_set").seeded(wan_vae.WanVAE(wan_vae.VAEConfig(base_width=8)), 0)


@pytest.fixture(scope="module")
def model():
    return PACK.tiny_model(depth=1)


def _shots(model, state, plans=((3, 2), (2,)), change="cut"):
    """The states of two shots, one after the other."""
    for text, plan in zip("ab", plans, strict=True):
        sampling = stream.Sampling(seed=7, steps=1, on_prompt_change=change)
        for newer in stream.extend(model, state, prompt(PACK, text), sampling, plan=plan):
            state = newer
            yield state


def _film(vae, states, *, from_chunk=0, overlap="on", total=3, write=None, **options):
    """(bytes of the whole film, the pipeline)"""
    written = []
    with pipeline.Pipeline(
        vae,
        write or written.append,
        **DEVICES,
        from_chunk=from_chunk,
        total=total,
        overlap=overlap,
        **options,
    ) as film:
        for state in states:
            film.add(state)
        film.finish(state)
    return torch.cat(written) if written else None, film


@pytest.mark.parametrize("change", ["cut", "keep"])
def test_overlapped_is_sequential_bit_for_bit(vae, model, change):
    on, off = (
        _film(vae, _shots(model, begin(PACK, model), change=change), overlap=overlap)[0]
        for overlap in ("on", "off")
    )
    *_, last = _shots(model, begin(PACK, model), change=change)
    pixels = torch.cat(list(decoding.decode_history(vae, last)), dim=2)
    assert same(on, off)
    assert same(on, image_file.frame_bytes(pixels))
    assert len(on) == last.frames == (22 if change == "cut" else 25)


@pytest.mark.parametrize("from_chunk", [0, 1, 2])
@pytest.mark.parametrize("overlap", ["on", "off"])
def test_a_continued_stream_shows_its_new_chunks(vae, model, from_chunk, overlap):
    """Earlier chunks of the scene are decoded for the cache, and dropped; primed ones are shown."""
    image = torch.randn(1, 16, 1, 4, 6, generator=torch.Generator().manual_seed(0))
    past = stream.prime(model, begin(PACK, model), prompt(PACK, "a"), image)
    past = run(PACK, model, past, "a", plan=(2,), steps=1)
    *_, last = states = list(_shots(model, past, ((2,), (2,)), "keep"))
    shown, _ = _film(vae, states, from_chunk=from_chunk, overlap=overlap, total=4)
    expected = torch.cat(list(decoding.decode_history(vae, last, from_chunk=from_chunk)), dim=2)
    assert same(shown, image_file.frame_bytes(expected))
    assert len(shown) == last.frames_from(from_chunk)


def test_a_scene_that_ended_before_is_not_decoded_again(vae, model):
    past = run(PACK, model, begin(PACK, model), "x", plan=(3,), steps=1)
    states = list(_shots(model, past, ((2,), (2,)), "cut"))
    seen = []
    watched = callbacks.Callbacks(progress=lambda news: seen.append(news.chunk))
    shown, _ = _film(vae, states, from_chunk=1, callbacks=watched)
    assert len(shown) == 5 + 5
    assert seen == [2, 2, 3, 3]


def test_tiles_and_progress(vae, model):
    tiling, seen = PACK.core("vae.tiling").Tiling(tile=4, overlap=1), []
    options = {"tiling": tiling, "callbacks": callbacks.Callbacks(progress=seen.append)}
    on, off = (
        _film(vae, _shots(model, begin(PACK, model)), overlap=overlap, **options)[0]
        for overlap in ("on", "off")
    )
    assert same(on, off)
    steps = [(1, 1), (1, 2), (1, 3), (2, 1), (2, 2), (3, 1), (3, 2)]
    assert [(news.chunk, news.step) for news in seen] == steps * 2
    assert {news.chunks for news in seen} == {3}


def test_a_chunk_is_decoded_while_the_next_is_sampled(vae, model):
    """The second chunk isn't begun before the first one's frames have come, and they come."""
    came = threading.Event()

    def states():
        for number, state in enumerate(_shots(model, begin(PACK, model))):
            yield state
            assert number > 0 or came.wait(30), "nothing was decoded meanwhile"

    threads = set()

    def write(frames):
        threads.add(threading.current_thread())
        came.set()

    _, film = _film(vae, states(), write=write)
    assert film.overlapped
    assert threading.current_thread() not in threads


def test_sampling_waits_for_a_slow_decoder(vae, model):
    gate, sampled = threading.Event(), []

    def states():
        for state in _shots(model, begin(PACK, model), ((2, 2, 2, 2), (2, 2))):
            sampled.append(state)
            yield state

    main = threading.Thread(target=_film, args=(vae, states()), kwargs={"write": lambda frames: gate.wait()})
    main.start()
    time.sleep(0.5)
    assert len(sampled) <= 3 + pipeline.ROOM  # decoded, waiting, added, made
    gate.set()
    main.join()
    assert len(sampled) == 6


# --- what fails, and what stays


def _stopped(model, chunks, error):
    states = _shots(model, begin(PACK, model))
    yield from (next(states) for _ in range(chunks))
    raise error


@pytest.mark.parametrize("overlap", ["on", "off"])
def test_a_stop_in_sampling_finishes_the_chunks_that_are_whole(vae, model, overlap):
    written, state = [], None
    with pipeline.Pipeline(vae, written.append, **DEVICES, from_chunk=0, total=3, overlap=overlap) as film:
        try:
            for state in _stopped(model, 2, KeyboardInterrupt):
                film.add(state)
        except KeyboardInterrupt:
            film.finish(state)
    expected = torch.cat(list(decoding.decode_history(vae, state)), dim=2)
    assert same(torch.cat(written), image_file.frame_bytes(expected))
    assert film.error is None


@pytest.mark.parametrize("overlap", ["on", "off", "auto"])
def test_a_stop_before_the_first_chunk_is_handed_over_keeps_it(vae, model, overlap):
    """Its state is written first."""
    written = []
    with pipeline.Pipeline(vae, written.append, **DEVICES, from_chunk=0, total=3, overlap=overlap) as film:
        state = next(_shots(model, begin(PACK, model)))
        film.finish(state)
    assert len(torch.cat(written)) == state.frames


@pytest.mark.parametrize("overlap", ["on", "auto"])
def test_a_stop_while_the_decoder_moves_keeps_the_first_chunk(vae, model, monkeypatch, overlap):
    monkeypatch.setattr(pipeline, "has_room", lambda *_: True)
    written, state = [], next(_shots(model, begin(PACK, model)))
    with pipeline.Pipeline(vae, written.append, **DEVICES, from_chunk=0, total=3, overlap=overlap) as film:
        monkeypatch.setattr(vae, "to", _stop)
        with pytest.raises(KeyboardInterrupt):
            film.add(state)
        monkeypatch.undo()
        assert not film.begun
        film.finish(state)
    assert len(torch.cat(written)) == state.frames


def _stop(*_):
    raise KeyboardInterrupt


def test_a_decoder_that_fails_ends_it_and_keeps_the_frames_before(vae, model, monkeypatch):
    real, made = type(vae).decode_frame, []

    def broken(self, latent, cache, run=None):
        made.append(1)
        pixels, kept = real(self, latent, cache, run)
        return (pixels * float("nan") if len(made) == 3 else pixels), kept

    monkeypatch.setattr(type(vae), "decode_frame", broken)
    written = []
    with pytest.raises(errors.ChunkError, match="NaN or Inf in chunk 1 of 3"):
        _film(vae, _shots(model, begin(PACK, model)), write=written.append)
    assert torch.cat(written).shape[0] == 5


def test_the_error_that_ended_it_is_named(vae, model, monkeypatch):
    """So that a caller knows it from an error of sampling."""

    def full(frames):
        raise errors.FileError("the disk is full")

    films = []
    real = pipeline.Pipeline.__enter__
    monkeypatch.setattr(pipeline.Pipeline, "__enter__", lambda self: films.append(self) or real(self))
    with pytest.raises(errors.FileError) as raised:
        _film(vae, _shots(model, begin(PACK, model)), write=full)
    assert raised.value is films[0].error


def test_a_second_ctrl_c_stops_the_decoder_within_a_frame(vae, model, monkeypatch):
    gate, written = threading.Event(), []

    def write(frames):
        written.append(frames)
        gate.wait(30)

    def second(self):
        gate.set()
        raise KeyboardInterrupt

    worker = PACK.core("files.background").Worker
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):  # noqa: SIM117, PT012
        with pipeline.Pipeline(vae, write, **DEVICES, from_chunk=0, total=3, overlap="on") as film:
            for state in _shots(model, begin(PACK, model), ((3,), (3,))):
                film.add(state)
            real = worker.finish
            patch.setattr(worker, "finish", second)
            try:
                film.finish(state)
            finally:
                patch.setattr(worker, "finish", real)
    assert torch.cat(written).shape[0] < 9, "it went on to the end"


def test_ctrl_c_while_a_failed_block_waits_stops_the_decoder(vae, model, monkeypatch):
    gate, written = threading.Event(), []

    def write(frames):
        written.append(frames)
        gate.wait(30)

    worker = PACK.core("files.background").Worker
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):  # noqa: SIM117, PT012
        with pipeline.Pipeline(vae, write, **DEVICES, from_chunk=0, total=1, overlap="on") as film:
            film.add(next(_shots(model, begin(PACK, model), ((5,), (2,)))))
            patch.setattr(worker, "finish", _stop)
            raise errors.ChunkError("sampling failed")
    gate.set()
    with pytest.raises(errors.Cancelled):
        film._worker.finish()
    assert len(written) <= 2, "it went on to the end"


@pytest.mark.parametrize("overlap", ["on", "off"])
def test_the_caller_s_own_stop_reaches_the_decoder(vae, model, overlap):
    written = []
    asked = callbacks.Callbacks(cancelled=lambda: len(written) > 0)
    with pytest.raises(errors.Cancelled, match="while chunk 1 of 3 was decoded"):
        _film(vae, _shots(model, begin(PACK, model)), overlap=overlap, write=written.append, callbacks=asked)
    assert len(written) == 2  # the frames that were on their way are kept


def test_a_chunk_that_was_added_and_not_counted_is_decoded_once(vae, model):
    """Ctrl-C may come in between."""
    written = []
    with pipeline.Pipeline(vae, written.append, **DEVICES, from_chunk=0, total=3, overlap="on") as film:
        for state in _shots(model, begin(PACK, model)):
            film.add(state)
            film._added -= 1
        film.finish(state)
    assert len(torch.cat(written)) == state.frames


# --- whether there is room


def _room(vae, sampling, device, free=0, monkeypatch=None):
    identity = PACK.core("streaming.state").Identity(
        fingerprint="", family="longsana_480p", channels=16, rows=60, columns=104, batch=1
    )
    if monkeypatch is not None:
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free, 80 * 2**30))
    return pipeline.has_room(vae, identity, torch.device(sampling), torch.device(device))


def test_room_is_asked_for_on_one_gpu_only(vae, monkeypatch):
    assert not _room(vae, "cpu", "cpu")
    assert not _room(vae, "mps:0", "mps:0")
    assert _room(vae, "cuda:0", "cuda:1")
    assert _room(vae, "cuda:0", "cpu")
    needed = 60 * 104 * 4 * 480_000 + sum(x.nbytes for x in vae.state_dict().values())
    assert _room(vae, "cuda:0", "cuda:0", needed + pipeline.SPARE + 1, monkeypatch)
    assert not _room(vae, "cuda:0", "cuda:0", needed + pipeline.SPARE, monkeypatch)


def test_the_sampler_s_device_is_asked_and_not_the_states(vae, model, monkeypatch):
    """States for a file lie on the CPU, wherever the model is."""
    asked = []
    monkeypatch.setattr(pipeline, "has_room", lambda vae, identity, *devices: asked.append(devices))
    devices = {"sampling": torch.device("meta"), "decoding": torch.device("cpu")}
    with pipeline.Pipeline(vae, lambda frames: None, **devices, from_chunk=0, total=3) as film:
        for state in _shots(model, begin(PACK, model)):
            film.add(state)
        film.finish(state)
    assert asked == [tuple(devices.values())]
    assert not film.overlapped


@pytest.mark.parametrize("overlap", ["auto", "on"])
@pytest.mark.parametrize("piece", [1, 3, 4])
def test_without_room_after_all_the_rest_is_decoded_at_the_end(
    vae, model, monkeypatch, caplog, overlap, piece
):
    """Each frame once, in order; but who asked for overlapping is told that it can't be."""
    expected, _ = _film(vae, _shots(model, begin(PACK, model)), overlap="off")
    real, made = type(vae).decode_frame, []

    def full(self, latent, cache, run=None):
        made.append(1)
        if len(made) == piece:
            raise torch.OutOfMemoryError("no room")
        return real(self, latent, cache, run)

    monkeypatch.setattr(type(vae), "decode_frame", full)
    monkeypatch.setattr(pipeline, "has_room", lambda *_: True)
    written = []
    if overlap == "on":
        with pytest.raises(torch.OutOfMemoryError):
            _film(vae, _shots(model, begin(PACK, model)), write=written.append)
        return
    _, film = _film(vae, _shots(model, begin(PACK, model)), overlap=overlap, write=written.append)
    assert same(torch.cat(written), expected)
    assert not film.overlapped
    assert film.error is None
    assert "no room for decoding" in caplog.text


def test_on_a_cpu_the_models_take_turns(vae, model):
    _, film = _film(vae, _shots(model, begin(PACK, model)), overlap="auto")
    assert not film.overlapped
    with pytest.raises(errors.InputError, match="overlap is “maybe”"):
        _film(vae, [], overlap="maybe")
