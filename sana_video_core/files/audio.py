"""Sound: what a video's file takes, and what files hold."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from math import floor
from pathlib import Path

import av
import numpy as np
import torch
from av.audio.resampler import AudioResampler
from av.audio.stream import AudioStream
from av.container import InputContainer, OutputContainer
from torch import Tensor

from ..errors import FileError, InputError
from .places import is_file

LAYOUTS = {1: "mono", 2: "stereo", 6: "5.1"}  # by channels, in FFmpeg's names and order
# samples a second that AAC has
RATES = (7350, 8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000, 64000, 88200, 96000)
USUAL_RATE = 48000
LOWEST, HIGHEST = 1000, 768_000  # samples a second that can be meant
BITS = 96_000  # a second and channel
MOST_BITS = 6  # a sample, of AAC
BLOCK = 1 << 16  # samples encoded at once


@dataclass(frozen=True, eq=False)
class Audio:
    """A waveform [channels, samples], float32 in [-1, 1] (what is louder is clipped), at `sample_rate` Hz.

    Mono, stereo or 5.1. Raises InputError for any other.
    """

    waveform: Tensor
    sample_rate: int

    def __post_init__(self) -> None:
        shape = tuple(self.waveform.shape)
        if len(shape) != 2 or not self.waveform.is_floating_point():
            raise InputError(
                f"Sound of shape {list(shape)} and type {self.waveform.dtype} was given; "
                "it has to be [channels, samples] in a floating-point type."
            )
        if shape[0] not in LAYOUTS:
            raise InputError(
                f"Sound with {shape[0]} channels was given; a video takes 1 (mono), 2 (stereo) or 6 (5.1). "
                "Mix it down to stereo."
            )
        if not shape[1]:
            raise InputError("The sound that was given is empty. Choose another, or disconnect it.")
        if isinstance(self.sample_rate, bool) or not _is_rate(self.sample_rate):
            raise InputError(
                f"Sound with {self.sample_rate} samples a second was given; it has to be a whole number "
                f"from {LOWEST} to {HIGHEST}; 44100 and 48000 are usual."
            )
        if not torch.isfinite(self.waveform).all():
            raise InputError(
                "The sound that was given has NaN or Inf in it. Look at the node or program that made it."
            )
        object.__setattr__(self, "sample_rate", int(self.sample_rate))
        object.__setattr__(self, "waveform", self.waveform.detach().to("cpu", torch.float32))

    @property
    def seconds(self) -> float:
        return self.waveform.shape[1] / self.sample_rate

    def cut(self, seconds: Fraction) -> Audio | None:
        """Its beginning, this long if it is longer; None if that holds no sample."""
        samples = floor(seconds * self.sample_rate)
        return Audio(self.waveform[:, :samples], self.sample_rate) if samples else None


def _is_rate(rate: object) -> bool:
    return isinstance(rate, int | float) and LOWEST <= rate <= HIGHEST and rate == int(rate)


def check_audio() -> None:
    """Raises FileError unless sound can be written on this machine."""
    if "aac" not in av.codecs_available:
        raise FileError("PyAV cannot write sound, because it was built without AAC; pip install av.")


def add_sound(container: OutputContainer, audio: Audio) -> AudioStream:
    """A new AAC stream in a container that isn't started."""
    given, channels = audio.sample_rate, len(audio.waveform)
    rate = next((rate for rate in RATES if rate >= given), USUAL_RATE)
    stream = container.add_stream("aac", rate=rate, layout=LAYOUTS[channels])
    stream.codec_context.bit_rate = min(BITS, MOST_BITS * rate) * channels
    return stream


def sound_packets(audio: Audio, stream: AudioStream) -> Iterator[av.Packet]:
    """The packets of the whole sound, in order, encoded as they are taken."""
    for start in range(0, audio.waveform.shape[1], BLOCK):
        block = audio.waveform[:, start : start + BLOCK].clamp(-1, 1).contiguous()
        frame = av.AudioFrame.from_ndarray(block.numpy(), format="fltp", layout=LAYOUTS[len(block)])
        frame.sample_rate, frame.pts = audio.sample_rate, start
        frame.time_base = Fraction(1, audio.sample_rate)
        yield from stream.encode(frame)
    yield from stream.encode(None)


def read_audio(path: Path | str) -> Audio:
    """The sound of a sound or video file, at its own rate; other layouts than mono and 5.1 become stereo.

    Raises FileError where there is no sound to read.
    """
    path = Path(path).absolute()  # FFmpeg takes “a:b.wav” for a protocol
    if not is_file(path):
        raise FileError(f"There is no sound file “{path}”. Check the name and the folder.")
    try:
        with av.open(str(path), metadata_errors="replace") as container:
            if not container.streams.audio:
                raise FileError(f"“{path}” has no sound in it. Choose another file.")
            stream = container.streams.audio[0]
            if stream.codec_context is None:
                raise FileError(
                    f"The sound of “{path}” is in a format that the installed FFmpeg doesn't know. "
                    "Export it again as WAV."
                )
            blocks = [frame.to_ndarray() for frame in _frames(container, stream, path)]
    except av.FFmpegError as error:
        raise FileError(
            f"“{path}” cannot be read as sound: {error.strerror}. It may be damaged, cut off or of another "
            "kind; see whether a player plays it to the end, and export it again as WAV."
        ) from error
    if not blocks:
        raise FileError(
            f"The sound of “{path}” is empty, or cut off before its beginning. Choose another file."
        )
    return Audio(torch.from_numpy(np.concatenate(blocks, 1)), stream.rate)


def _frames(container: InputContainer, stream: AudioStream, path: Path) -> Iterator[av.AudioFrame]:
    """The decoded sound, in a layout that Audio takes."""
    layout = LAYOUTS.get(stream.codec_context.channels, "stereo")
    resampler, found = AudioResampler(format="fltp", layout=layout, rate=stream.rate), 0
    for packet in container.demux(stream):
        found += packet.size > 0
        if packet.is_corrupt or (not packet.size and found < stream.frames):  # an MP4's index says how many
            raise FileError(f"“{path}” is cut off or damaged. Copy or download it again.")
        for frame in packet.decode():
            yield from resampler.resample(frame)
    yield from resampler.resample(None)
