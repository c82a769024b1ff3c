"""The encoders of a video file: what they take, and whether one works on this machine."""

from __future__ import annotations

from fractions import Fraction
from functools import cache

import av
from av.video.codeccontext import VideoCodecContext

from ..config import CODECS
from ..errors import FileError, InputError

ENCODERS = dict(zip(CODECS, ("libx264", "h264_nvenc"), strict=True))  # what FFmpeg calls them
# libx264's; 1.4 to 1.7 times as fast as its default, medium, for files of that size and quality (docs/log.md)
PRESET = "faster"
TRIAL = 256  # pixels, each way


def encoder_options(encoder: str, crf: int) -> dict[str, str]:
    """FFmpeg's options for a quality of H.264, 0 to 51."""
    if encoder == "h264_nvenc":
        return {"preset": "p5", "rc": "vbr", "cq": str(max(1, crf))}  # 0 would mean any
    # x264's tree of macroblocks reads memory that nobody wrote (its AVX-512 code, where B-frames are), so one
    # film gives other bytes each time; without it the files are no larger for their quality (docs/log.md)
    return {"preset": PRESET, "crf": str(crf), "mbtree": "0"}


def check_crf(crf: int) -> None:
    if not 0 <= crf <= 51:
        raise InputError(f"crf is {crf}; it has to be 0 (lossless) to 51 (poor); 18 is usual.")


def check_codec(codec: str) -> None:
    """Raises InputError or FileError unless a video can be written with this codec on this machine."""
    if codec not in ENCODERS:
        raise InputError(f"The codec “{codec}” was asked for; choose one of: {', '.join(ENCODERS)}.")
    encoder = ENCODERS[codec]
    if encoder not in av.codecs_available:
        raise FileError(f"PyAV cannot write {codec}, because it was built without {encoder}; pip install av.")
    reason = _trial(encoder) if encoder == "h264_nvenc" else ""
    if reason:
        raise FileError(
            f"The codec “{codec}” needs an NVIDIA GPU with a video encoder, and its driver, but a trial "
            f"failed ({reason}). GeForce and RTX cards have one, A100 and H100 have none. Choose {CODECS[0]}."
        )


@cache
def _trial(encoder: str) -> str:
    """Why two frames can't be encoded with this encoder; empty if they can."""
    try:
        context = VideoCodecContext.create(encoder, "w")
        assert isinstance(context, VideoCodecContext)
        context.width, context.height, context.pix_fmt = TRIAL, TRIAL, "yuv420p"
        context.time_base = Fraction(1, 16)
        context.options = encoder_options(encoder, 18)
        frame, packets = av.VideoFrame(TRIAL, TRIAL, "yuv420p"), []
        for frame.pts in range(2):
            packets += context.encode(frame)
        return "" if packets + context.encode(None) else "it made nothing"
    except (av.FFmpegError, ValueError) as error:
        return getattr(error, "strerror", None) or str(error)
