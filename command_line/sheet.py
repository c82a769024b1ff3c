"""--sheet: a picture with frames of a finished video."""

from __future__ import annotations

from pathlib import Path

import av

from ..sana_video_core.files.image_file import SHEET_FRAMES, contact_sheet
from ..sana_video_core.files.video_reader import read_frames


def write_sheet(video: Path, sheet: Path) -> None:
    """A contact sheet of frames that are spread over the video."""
    with av.open(str(video)) as opened:
        fps = min(16, SHEET_FRAMES * av.time_base / (opened.duration or av.time_base))
    frames = read_frames(video, fps=fps)[0].unbind(1)
    contact_sheet([(f"{index / fps:.1f} s", frame) for index, frame in enumerate(frames)], sheet)
