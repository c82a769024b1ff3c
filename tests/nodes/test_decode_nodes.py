"""Decode and Decode Stream: a continued chunk's frames, interrupted files that are kept, an empty temp."""

import logging
import threading

import comfy.model_management as management
import comfy.sd
import pytest
import torch
from comfy import utils
from comfyui_sana_video.bridge import decoding
from comfyui_sana_video.bridge.vaes import HostedVae
from comfyui_sana_video.sana_video_core.errors import FileError
from comfyui_sana_video.sana_video_core.files import encoders
from comfyui_sana_video.sana_video_core.files.audio import read_audio
from comfyui_sana_video.sana_video_core.files.video_reader import read_frames, read_metadata
from comfyui_sana_video.sana_video_core.files.video_writer import VideoWriter
from support.artist import (
    DEMO,
    decoded,
    demo,
    folders,
    node,
    one_chunk,
    picture,
    refused,
    run,
    sample,
    start,
    two_chunks,
)
from support.pack import same
from support.vae_socket import ASKED


@pytest.fixture(autouse=True)
def base(tmp_path):
    with folders(tmp_path):
        yield tmp_path


def _files(folder):
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


# --- the socket


@pytest.fixture
def watched(monkeypatch):
    """The stand-in's VAE class, and the names of what was asked of its objects."""
    asked = set()

    class Watched(comfy.sd.VAE):
        def __getattribute__(self, name):
            if not name.startswith("__"):
                asked.add(name)
            return super().__getattribute__(name)

    demo()  # kept for other tests, so it is loaded before
    monkeypatch.setattr(comfy.sd, "VAE", Watched)
    return asked


def test_the_stand_ins_vae_has_exactly_what_is_asked_for(watched):
    """tests/comfy holds the same list against the real one."""
    vae = run("VAELoader", DEMO)
    has = set(vars(vae))
    watched.clear()
    run("Decode", vae, {"samples": torch.zeros(1, 16, 1, 4, 6)})
    primed = run("Prime", demo().model, vae, demo().positive, start(), image=picture())
    run("DecodeStream", vae, primed, 0, 16.0, "h264", 0)
    run("EmptyLatent", demo().bidirectional, 64, 48, 9, 1, vae, picture())
    assert watched == has == set(ASKED)
    assert all(isinstance(getattr(vae, name), kind) for name, kind in ASKED.items())


# --- images


def test_a_continuing_latent_with_its_state_is_the_tail_of_the_whole():
    latent, state, _ = sample(one_chunk()[1])
    images = run("Decode", demo().vae, latent, state)
    assert images.shape == (40, 32, 48, 3)
    assert same(images, decoded()[41:])
    alone = run("Decode", demo().vae, latent)
    assert alone.shape == (37, 32, 48, 3)
    assert not torch.allclose(alone, decoded()[44:], atol=0.01)  # the seam


def test_a_first_latent_needs_no_state():
    images = run("Decode", demo().vae, one_chunk()[0])
    assert same(images, decoded()[:41])
    assert same(run("Decode", demo().vae, *one_chunk()[:2]), images)
    assert (images.min() >= 0) & (images.max() <= 1)
    assert images.std() > 0.01


def test_a_new_scene_decodes_from_its_own_first_frame():
    latent, state, _ = sample(one_chunk()[1], positive=demo().other, on_prompt_change="cut")
    images = run("Decode", demo().vae, latent, state)
    assert images.shape[0] == 41
    assert same(images, run("Decode", demo().vae, latent))


def test_a_batch_lies_one_video_after_the_other():
    latent, state, _ = sample(start(2, 32, 32))
    images = run("Decode", demo().vae, latent, state)
    assert images.shape == (82, 32, 32, 3)
    second = run("Decode", demo().vae, {"samples": latent["samples"][1:]})
    assert torch.allclose(images[41:], second, atol=1e-4)
    assert not torch.allclose(images[:41], second, atol=0.1)


def test_a_latent_and_a_state_of_different_samplers_are_refused():
    with refused("one and the same sampler"):
        run("Decode", demo().vae, one_chunk()[0], two_chunks()[1])
    with refused("one and the same sampler"):
        run("Decode", demo().vae, sample(one_chunk()[1], seed=4)[0], two_chunks()[1])


@pytest.mark.parametrize("shape", [(1, 128, 2, 4, 4), (1, 4, 8, 8)])
def test_latents_of_another_vae_are_refused(shape):
    with refused(str(list(shape)), "LTX-2 VAE"):
        run("Decode", demo().vae, {"samples": torch.zeros(shape)})


# --- files


def _film(state=None, *, from_chunk=0, fps=16.0, row=0):
    video = run("DecodeStream", demo().vae, state or two_chunks()[1], from_chunk, fps, "h264", row)
    return video, (read_frames(video.get_stream_source(), fps=None)[0].permute(1, 2, 3, 0) + 1) / 2


def _close(film, images):
    """Whether a film shows these images: their brightness correlates (noisy colours do not survive H.264)."""
    brightness = torch.stack([pixels.mean(dim=-1).flatten() for pixels in (film, images)])
    return torch.corrcoef(brightness)[0, 1].item() > 0.8


def test_a_stream_becomes_a_file_of_all_its_frames(base):
    video, frames = _film()
    assert video.get_stream_source().startswith(str(base / "temp"))
    assert video.get_frame_count() == 81
    assert video.get_dimensions() == (48, 32)
    assert video.get_frame_rate() == 16
    assert _close(frames, decoded())
    assert not _close(frames[1:], decoded()[:-1])  # so the tolerance sees a shift by one frame
    metadata = read_metadata(video.get_stream_source())
    assert metadata == {"prompts": ["a red ball rolls"] * 2, "seeds": [3, 3], "plan": [[11, 10]]}
    assert len(_files(base / "temp")) == 1


def test_from_chunk_shows_the_end_of_the_whole():
    video, frames = _film(from_chunk=1)
    assert video.get_frame_count() == 40
    assert _close(frames, decoded()[41:])
    assert not _close(frames[:37], decoded()[44:])


def test_two_scenes_are_two_decodes():
    _, state, frames = sample(one_chunk()[1], positive=demo().other, on_prompt_change="cut")
    assert _film(state)[0].get_frame_count() == frames == 82


def test_a_row_of_a_batch():
    latent, state, _ = sample(start(2, 32, 32))
    images = run("Decode", demo().vae, latent)
    for row in (0, 1):
        assert _close(_film(state, row=row)[1], images[41 * row : 41 * (row + 1)])
    assert not _close(images[:41], images[41:])
    with refused("Row 2", "batch of 2"):
        _film(state, row=2)


def test_fps():
    check = node("DecodeStream").validate_inputs
    assert [check(fps) for fps in (None, 16.0, 0.01)] == [True] * 3
    for impossible in (0.0, -1.0, float("nan"), 2000.0):
        assert "has to be 0.01 to 1000" in check(impossible)
    assert _film(one_chunk()[1], fps=12.5)[0].get_frame_rate() == 12.5


def test_a_codec_that_this_machine_lacks_is_refused_before_anything_runs(base, monkeypatch):
    check = node("DecodeStream").validate_inputs
    assert check(fps=16.0, codec="h264") is check(fps=16.0) is True
    assert "“vp9”" in check(fps=16.0, codec="vp9")
    assert "fps is 0" in check(fps=0.0, codec="vp9")
    monkeypatch.setattr(encoders, "_trial", lambda encoder: f"no engine for {encoder}")
    assert "no engine for h264_nvenc" in check(fps=16.0, codec="h264_nvenc")
    with refused("no engine for h264_nvenc", "Choose h264."):
        run("DecodeStream", demo().vae, one_chunk()[1], 0, 16.0, "h264_nvenc", 0)
    assert not _files(base)


# --- sound


def _sound(*shape, rate=8000):
    """As ComfyUI's AUDIO; row b is b + 1 periods of a wave every 40 samples."""
    wave = torch.sin(2 * torch.pi * torch.arange(shape[-1]) / 40)
    rows = torch.arange(1, shape[0] + 1).view(-1, *[1] * (len(shape) - 1))
    return {"waveform": (0.2 * rows * wave).expand(shape).contiguous(), "sample_rate": rate}


def _loudness(video):
    """Channels, seconds, and the loudest sample."""
    sound = read_audio(video.get_stream_source()).waveform
    return sound.shape[0], sound.shape[1] / 8000, sound.abs().amax(1)[0].item()


def _with_sound(audio, state=None, row=0):
    return run("DecodeStream", demo().vae, state or two_chunks()[1], 0, 16.0, "h264", row, audio)


def test_sound_is_cut_to_the_film(base):
    video = _with_sound(_sound(1, 2, 8000 * 60))
    channels, seconds, loud = _loudness(video)
    assert (channels, loud) == (2, pytest.approx(0.2, abs=0.04))
    assert seconds == pytest.approx(81 / 16, abs=0.15)  # as decoded, in AAC's parts of 0.128 s
    video.save_to(str(base / "saved.mp4"))
    assert torch.equal(
        read_audio(base / "saved.mp4").waveform, read_audio(video.get_stream_source()).waveform
    )
    assert _with_sound(None).get_frame_count() == video.get_frame_count() == 81


def test_each_row_has_its_sound_or_all_have_one():
    _, state, _ = sample(start(2, 32, 32))
    for sound, row, loud in (
        (_sound(1, 1, 999), 1, 0.2),
        (_sound(2, 1, 30000), 1, 0.4),
        (_sound(3, 1, 30000), 0, 0.2),
    ):
        assert _loudness(_with_sound(sound, state, row))[2] == pytest.approx(loud, abs=0.06)


@pytest.mark.parametrize(
    "audio, words",
    [
        (_sound(2, 9), "[batch, channels, samples]"),
        (_sound(1, 3, 9), "3 channels"),
        (_sound(1, 2, 0), "is empty"),
        (_sound(1, 2, 9, rate=0), "0 samples a second"),
        ({"waveform": torch.full((1, 1, 9), float("nan")), "sample_rate": 8000}, "NaN"),
    ],
)
def test_impossible_sound_is_refused_before_anything_is_decoded(base, monkeypatch, audio, words):
    monkeypatch.setattr(decoding, "_history", lambda *_, **__: pytest.fail("decoded"))
    with refused(words):
        _with_sound(audio)
    assert not _files(base)


def test_sound_for_fewer_rows_than_asked_for_is_refused():
    _, state, _ = sample(start(3, 32, 32))
    with refused("Sound for 2 videos", "row 2"):
        _with_sound(_sound(2, 1, 9), state, 2)


def test_frames_are_encoded_in_a_thread_while_the_next_are_decoded(monkeypatch):
    main, real, threads = threading.current_thread(), VideoWriter._write, set()

    def watched(self, *arguments):
        threads.add(threading.current_thread())
        real(self, *arguments)

    monkeypatch.setattr(VideoWriter, "_write", watched)
    assert _film()[0].get_frame_count() == 81
    assert len(threads) == 1
    assert main not in threads


def test_an_encoder_that_fails_keeps_what_was_written(base, monkeypatch):
    real = VideoWriter._write

    def full(self, *arguments):
        if self.frames == 9:
            raise FileError("the disk is full")
        real(self, *arguments)

    monkeypatch.setattr(VideoWriter, "_write", full)
    with refused("the disk is full"):
        _film()
    assert read_frames(_rescued(base), fps=None).shape[2] == 9


def test_impossible_requests_leave_no_file(base):
    with refused("chunk 7", "Choose 0 to 1"):
        _film(from_chunk=7)
    with refused("stream is empty"):
        _film(start())
    assert not _files(base)


# --- stopped in the middle


def _stop_after(steps, monkeypatch):
    """ComfyUI's interrupt when the progress bar reaches `steps`."""

    def listen(value, total, preview, node_id):
        if value == steps:
            management.interrupt_current_processing()

    monkeypatch.setattr(utils, "_hook", listen)
    monkeypatch.setattr(management, "_stop", type(management._stop)())


def _rescued(base):
    return base / "output" / "video" / "interrupted_00001_.mp4"


def test_an_interrupt_keeps_what_was_finished(base, monkeypatch, caplog):
    _stop_after(10 + 5, monkeypatch)  # in the second chunk: 11 + 5 latent frames are decoded
    with caplog.at_level(logging.WARNING), pytest.raises(management.InterruptProcessingException):
        _film()
    assert _files(base) == ["interrupted_00001_.mp4"]
    kept = read_frames(_rescued(base), fps=None)
    assert kept.shape[2] == 41 + 4 * 5
    assert _close((kept[0].permute(1, 2, 3, 0) + 1) / 2, decoded()[:61])
    assert "interrupted_00001_.mp4" in caplog.text
    _stop_after(3, monkeypatch)
    with pytest.raises(management.InterruptProcessingException):
        _film()
    assert _files(base) == ["interrupted_00001_.mp4", "interrupted_00002_.mp4"]
    monkeypatch.setattr(utils, "_hook", None)
    assert _film()[0].get_frame_count() == 81  # nothing is left in the way


def _fails_after(pieces, monkeypatch):
    whole = HostedVae.decode_stream

    def broken(self, *arguments, **options):
        for number, frames in enumerate(whole(self, *arguments, **options)):
            yield frames if number < pieces else frames * float("nan")

    monkeypatch.setattr(HostedVae, "decode_stream", broken)


def test_an_error_keeps_what_was_finished(base, monkeypatch):
    _fails_after(3, monkeypatch)
    with refused("NaN or Inf", "chunk 1 of 2"):
        _film()
    assert _files(base) == ["interrupted_00001_.mp4"]
    assert read_frames(_rescued(base), fps=None).shape[2] == 9


def test_an_error_before_the_first_frame_leaves_nothing(base, monkeypatch):
    _fails_after(0, monkeypatch)
    with refused("NaN or Inf"):
        _film()
    assert not _files(base)


def test_a_rescue_that_fails_does_not_hide_the_reason(base, monkeypatch, caplog):
    def full(*_):
        raise OSError(28, "No space left on device")

    _fails_after(3, monkeypatch)
    monkeypatch.setattr(decoding, "move", full)
    with caplog.at_level(logging.WARNING), refused("NaN or Inf"):
        _film()
    (left,) = _files(base / "temp")
    assert left in caplog.text
    assert "No space left" in caplog.text
