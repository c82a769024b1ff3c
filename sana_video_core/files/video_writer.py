"""Writes frames to a video file as they come, so that finished frames are kept.

Frames are pixels [1, 3, n, H, W] in [-1, 1], or bytes [n, H, W, 3]; n counts frames.
"""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.container import OutputContainer
from torch import Tensor

from ..errors import InputError
from .audio import Audio
from .frame_encoder import FrameEncoder, pictures
from .growing_file import METADATA_KEY, GrowingFile


class VideoWriter(GrowingFile):
    """Writes pixels to an H.264 MP4 file as they come; use it in a `with` block.

    A full disk costs the last seconds, which the encoder and the fragment in work hold.
    """

    def __init__(
        self,
        path: Path | str,
        *,
        fps: float | Fraction = 16,
        codec: str = "h264",
        crf: int = 18,
        metadata: Mapping[str, object] | None = None,
        audio: Audio | None = None,
    ) -> None:
        """`crf` is H.264's quality, 0 (lossless) to 51; `audio` is cut to the video's length."""
        self._encoder = FrameEncoder(fps=fps, codec=codec, crf=crf)
        self._container: OutputContainer | None = None
        super().__init__(path, fps=fps, metadata=metadata, audio=audio)

    @property
    def frames(self) -> int:
        """Frames written so far."""
        return self._encoder.frames

    def write(self, frames: Tensor) -> None:
        """Append frames [3, n, H, W] or [1, 3, n, H, W] in [-1, 1], of any float dtype, on any device.

        Or bytes [n, H, W, 3], uint8 on the CPU. The first call sets the size; both sides have to be even.
        """
        for picture in pictures(frames):
            with self._lock:
                self._write(picture)

    def _write(self, picture: np.ndarray) -> None:
        """Append one frame [H, W, 3]."""
        if self._closed:
            raise InputError(f"“{self.path}” is already closed; open a new writer to write more frames.")
        if self._container is None:
            self._container = self._open(picture)
        with self._explained("What was finished is kept if it can be; free some space."):
            self._encoder.write(picture)

    def _open(self, picture: np.ndarray) -> OutputContainer:
        """The hidden file, ready for frames of this picture's size."""
        # without delay_moov the file starts two frames late, at the first B-frame's decoding time
        flags = {"movflags": "frag_keyframe+delay_moov+default_base_moof"}
        container = av.open(str(self._partial), "w", format="mp4", options=flags)
        container.metadata[METADATA_KEY] = self._metadata
        with self._explained("Free some space, or choose another size."):
            self._encoder.begin(container, picture.shape[1], picture.shape[0])
        return container

    def _end(self) -> None:
        self._encoder.stop()
        if self._container is not None and self.frames:
            with self._container:  # closes it
                self._encoder.end()
