"""Sound in a video: where it belongs, as long as the video, and never a reason to lose pictures."""

import math
import wave
from fractions import Fraction

import av
import numpy as np
import pytest
import torch
from comfyui_sana_video.sana_video_core.errors import Cancelled, FileError, InputError
from comfyui_sana_video.sana_video_core.files import audio as audio_module
from comfyui_sana_video.sana_video_core.files import growing_file
from comfyui_sana_video.sana_video_core.files.audio import Audio, read_audio
from comfyui_sana_video.sana_video_core.files.film_file import FilmFile
from comfyui_sana_video.sana_video_core.files.segments import encode_segment
from comfyui_sana_video.sana_video_core.files.video_reader import read_frames
from comfyui_sana_video.sana_video_core.files.video_writer import VideoWriter
from support.video_files import grey, names, numbers_in

RATE = 44100


def tones(seconds, rate=RATE, channels=1):
    """A tone of 440 Hz [channels, samples], on each channel an octave higher."""
    time = torch.arange(round(seconds * rate)) / rate
    pitches = 440 * 2.0 ** torch.arange(channels)
    return 0.5 * torch.sin(2 * math.pi * pitches[:, None] * time)


def tone(seconds, channels=1):
    return Audio(tones(seconds, RATE, channels), RATE)


def click(second, seconds, rate=RATE):
    """Silence with a short burst that begins at `second`."""
    waveform = torch.zeros(1, round(seconds * rate))
    begin = round(second * rate)
    waveform[:, begin : begin + 200] = 0.9 * torch.cos(torch.arange(200) * 0.3)
    return Audio(waveform, rate)


def written(path, audio, frames=20, fps=16):
    with VideoWriter(path, fps=fps, audio=audio) as writer:
        writer.write(grey(*range(frames)))
    return path


def streams(path):
    """Seconds of pictures and of sound, and when each begins."""
    with av.open(str(path)) as file:
        kinds = {stream.type: stream for stream in file.streams}
        return {
            kind: (float(s.duration * s.time_base), float((s.start_time or 0) * s.time_base))
            for kind, s in kinds.items()
        }


def heard(path):
    return read_audio(path).waveform


def pitch(waveform, rate=RATE):
    spectrum = np.abs(np.fft.rfft(waveform.numpy() * np.hanning(len(waveform))))
    return np.argmax(spectrum) * rate / len(waveform)


# --- what is heard


@pytest.mark.parametrize("channels", [1, 2, 6])
def test_every_channel_is_heard_in_its_place(tmp_path, channels):
    sound = heard(written(tmp_path / "a.mp4", tone(2, channels=channels)))
    assert len(sound) == channels
    for channel, waveform in enumerate(sound):
        if channel != 3:  # the fourth of 5.1 is for low notes only
            assert pitch(waveform) == pytest.approx(440 * 2**channel, abs=2)
    assert numbers_in(read_frames(tmp_path / "a.mp4")) == list(range(20))


@pytest.mark.parametrize("fps", [16, 24, 29.97])
def test_longer_sound_is_cut_to_the_pictures(tmp_path, fps):
    found = streams(written(tmp_path / "a.mp4", tone(9, channels=2), fps=fps))
    assert found["video"] == (pytest.approx(20 / fps, abs=1e-3), 0)
    assert found["audio"] == (pytest.approx(20 / fps, abs=1e-3), 0)


def test_shorter_sound_ends_early(tmp_path):
    found = streams(written(tmp_path / "a.mp4", tone(0.5)))
    assert found["video"][0] == pytest.approx(1.25, abs=1e-3)
    assert found["audio"][0] == pytest.approx(0.5, abs=1e-3)


def test_sound_of_one_sample(tmp_path):
    assert streams(written(tmp_path / "a.mp4", Audio(torch.zeros(2, 1), RATE)))["video"][0] == 1.25


@pytest.mark.parametrize("rate", [8000, 22000, 44100, 48000, 192000])
def test_it_is_heard_when_it_sounds_at_every_rate(tmp_path, rate):
    """Encoders begin with silence of their own, which the file has to leave out."""
    path = written(tmp_path / "a.mp4", click(0.75, 3, rate))
    again = read_audio(path)
    loud = (again.waveform[0].abs() > 0.25).nonzero()
    assert loud[0].item() / again.sample_rate == pytest.approx(0.75, abs=0.003)
    assert loud[-1].item() / again.sample_rate == pytest.approx(0.75 + 200 / rate, abs=0.004)


def test_what_is_too_loud_is_clipped(tmp_path):
    loud = Audio(100 * tone(1).waveform, RATE)
    assert heard(written(tmp_path / "a.mp4", loud)).abs().max() < 2


def test_a_film_of_segments_has_its_sound(tmp_path):
    with FilmFile(tmp_path / "a.mp4", fps=16, audio=click(0.75, 30)) as film:
        for numbers in (range(10), range(10, 20)):
            film.append(encode_segment([grey(*numbers)], fps=16))
    found = streams(tmp_path / "a.mp4")
    assert found["video"][0] == found["audio"][0] == pytest.approx(1.25, abs=1e-3)
    loud = (heard(tmp_path / "a.mp4")[0].abs() > 0.25).nonzero()
    assert loud[0].item() / RATE == pytest.approx(0.75, abs=0.003)
    assert numbers_in(read_frames(tmp_path / "a.mp4")) == list(range(20))


@pytest.mark.parametrize("error", [KeyboardInterrupt, Cancelled])
def test_a_film_that_ends_early_has_the_sound_of_what_is_kept(tmp_path, error):
    with pytest.raises(error), VideoWriter(tmp_path / "a.mp4", audio=tone(9)) as writer:  # noqa: PT012
        writer.write(grey(*range(8)))
        raise error
    found = streams(tmp_path / "a.mp4")
    assert found["video"][0] == found["audio"][0] == pytest.approx(0.5, abs=1e-3)


def test_the_film_without_sound_is_the_same_film(tmp_path):
    assert set(streams(written(tmp_path / "a.mp4", None))) == {"video"}
    frames = [read_frames(written(tmp_path / "b.mp4", sound)) for sound in (None, tone(1))]
    assert torch.equal(*frames)


def test_without_room_for_the_copy_the_pictures_stay_and_the_sound_is_said_to_be_lost(
    tmp_path, monkeypatch, caplog
):
    monkeypatch.setattr(growing_file, "_copy_as_ordinary_mp4", lambda *_: 0)
    written(tmp_path / "a.mp4", tone(1))
    assert set(streams(tmp_path / "a.mp4")) == {"video"}
    assert "a.mp4” has no sound" in caplog.text
    assert names(tmp_path) == ["a.mp4"]


def test_a_copy_that_lost_sound_at_its_end_counts_as_nothing(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(growing_file, "_whole_packets", lambda path, kind: 20 if kind == "video" else 3)
    written(tmp_path / "a.mp4", tone(1))
    assert "has no sound" in caplog.text
    assert numbers_in(read_frames(tmp_path / "a.mp4")) == list(range(20))


# --- refused before any work


@pytest.mark.parametrize(
    "waveform, rate, words",
    [
        (torch.zeros(1, 0), RATE, "is empty"),
        (torch.zeros(0, 9), RATE, "0 channels"),
        (torch.zeros(3, 9), RATE, "3 channels.*stereo"),
        (torch.zeros(9000, 2), RATE, "9000 channels"),
        (torch.zeros(9), RATE, r"shape \[9\]"),
        (torch.zeros(1, 1, 9), RATE, r"shape \[1, 1, 9\]"),
        (torch.zeros(1, 9, dtype=torch.int16), RATE, "int16"),
        (torch.tensor([[0, float("nan")]]), RATE, "NaN"),
        (torch.tensor([[0, float("inf")]]), RATE, "Inf"),
        (torch.zeros(1, 9), 0, "0 samples a second"),
        (torch.zeros(1, 9), -44100, "-44100 samples"),
        (torch.zeros(1, 9), 10**12, "samples a second"),
        (torch.zeros(1, 9), 44100.5, "44100.5 samples"),
        (torch.zeros(1, 9), float("nan"), "nan samples"),
        (torch.zeros(1, 9), float("inf"), "inf samples"),
        (torch.zeros(1, 9), None, "None samples"),
        (torch.zeros(1, 9), True, "True samples"),
    ],
)
def test_impossible_sound_is_refused(waveform, rate, words):
    with pytest.raises(InputError, match=words):
        Audio(waveform, rate)


def test_sound_may_be_half_precision_and_its_rate_a_whole_float():
    sound = Audio(torch.zeros(2, 9).half().requires_grad_(), 48000.0)
    assert (sound.waveform.dtype, sound.sample_rate, sound.seconds) == (torch.float32, 48000, 9 / 48000)
    assert not sound.waveform.requires_grad


def test_a_machine_that_cannot_write_sound_says_so_before_any_work(tmp_path, monkeypatch):
    monkeypatch.setattr(audio_module.av, "codecs_available", {"libx264"})
    with pytest.raises(FileError, match="without AAC"):
        VideoWriter(tmp_path / "a.mp4", audio=tone(1))
    assert names(tmp_path) == []


def test_cutting_leaves_nothing_to_hear_or_all():
    assert tone(1).cut(Fraction(0)) is None
    assert tone(1).cut(Fraction(9)).seconds == 1
    assert tone(1).cut(Fraction(1, 3)).waveform.shape == (1, RATE // 3)


# --- files


def _wav(path, waveform, rate):
    with wave.open(str(path), "wb") as file:
        file.setnchannels(len(waveform))
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes((waveform.T.numpy() * 32767).round().astype("<i2").tobytes())
    return path


@pytest.mark.parametrize("channels, kept", [(1, 1), (2, 2), (4, 2)])
def test_a_sound_file_is_read_at_its_own_rate(tmp_path, channels, kept):
    given = tones(1, 22050, channels)
    again = read_audio(_wav(tmp_path / "a:b.wav", given, 22050))
    assert again.sample_rate == 22050
    assert again.waveform.shape == (kept, 22050)
    if channels == kept:
        assert (again.waveform - given).abs().max() < 1e-4


def test_files_without_sound_and_other_files_are_refused(tmp_path):
    written(tmp_path / "silent.mp4", None)
    (tmp_path / "text.wav").write_text("no sound" * 99)
    whole = written(tmp_path / "whole.mp4", tone(1)).read_bytes()
    begin = whole.index(b"mdat") + 4
    for name, end in (("index", begin), ("half", (begin + len(whole)) // 2)):
        (tmp_path / f"{name}.mp4").write_bytes(whole[:end])
    _wav(tmp_path / "empty.wav", torch.zeros(1, 0), RATE)
    for name, words in {
        "silent.mp4": "has no sound in it",
        "text.wav": "cannot be read as sound",
        "index.mp4": "is cut off or damaged",
        "half.mp4": "is cut off or damaged",
        "empty.wav": "empty",
        "missing.wav": "There is no sound file",
        ".": "There is no sound file",
        "a\0b.wav": "cannot be opened",
    }.items():
        with pytest.raises(FileError, match=words):
            read_audio(tmp_path / name)
