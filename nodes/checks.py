"""What `validate_inputs` refuses before anything runs. A linked value is None: it isn't known yet.

ComfyUI leaves a widget's limits to a node that names it in `validate_inputs`.
"""

from __future__ import annotations

from functools import partial

from ..sana_video_core.config import FAMILIES, LONGSANA_480P, check_choice
from ..sana_video_core.shapes import ChunkRule, check_picture, checked_fps
from .files import TRANSFORMER, check, check_prefix, path_of, saved_state, sentence

LEAST, MOST = 16, 4096  # pixels of a side
MOST_CHUNKS = ChunkRule().most
LONGEST_CLIP = 8185  # frames: the positions that a model knows, with the longest stride
CHOICES = ["auto", *(name for name in FAMILIES if name != "demo")]  # of a family


def size(width: int | None, height: int | None) -> bool | str:
    """Whether every model could make pictures of this size; the 720p family's step is 32."""
    for name, value in (("width", width), ("height", height)):
        if value is not None and value > MOST:
            return f"The {name} is {value} pixels; choose a multiple of {LEAST} up to {MOST}."
    sides = [LEAST if side is None else side for side in (height, width)]
    fits = sentence(LONGSANA_480P.compression.grid, *sides)
    return fits if fits is not True else sentence(check_picture, *sides)


def chunks(count: int | None) -> bool | str:
    """Whether a scene has room for so many chunks."""
    return count is None or sentence(ChunkRule().check_count, count)


def clip_length(frames: int | None) -> bool | str:
    """Whether every model with the Wan VAE could make a clip of so many frames."""
    if frames is not None and frames > LONGEST_CLIP:
        return f"A clip of {frames} frames is too long; choose up to {LONGEST_CLIP}."
    return frames is None or sentence(LONGSANA_480P.compression.latent_frames, frames)


def script(text: str | None, seconds: float | None, fps: float | None) -> bool | str:
    """Whether a film's script can be planned, as far as it is known."""
    from ..sana_video_core.films.lines import read_lines
    from ..sana_video_core.films.script import parse_script

    if text is None:
        return fps is None or sentence(checked_fps, fps)
    if seconds is None or fps is None:
        return sentence(read_lines, text)
    return sentence(partial(parse_script, seed=0, seconds=seconds, fps=fps), text)


def film(
    text: str | None,
    seconds: float | None,
    fps: float | None,
    width: int | None,
    height: int | None,
    prefix: str | None,
    codec: str | None,
) -> bool | str:
    """Whether a film can be planned and written, as far as it is known."""
    from ..sana_video_core.files.encoders import check_codec

    said = [script(text, seconds, fps), size(width, height)]
    said += [sentence(check_prefix, prefix, ".mp4")] if prefix is not None else []
    said += [sentence(check_codec, codec)] if codec is not None else []
    return next((words for words in said if words is not True), True)


def model(name: str | None, family: str | None) -> bool | str:
    """Whether the file is there, and may be loaded as this family."""
    there = check(TRANSFORMER, name)
    return sentence(_family_fits, name, family) if there is True and family is not None else there


def state_file(name: str | None) -> bool | str:
    """Whether the file is there, and holds a state."""
    return name is None or sentence(_is_state, name)


def _is_state(name: str) -> None:
    from ..sana_video_core.streaming.state_file import check_state_file

    check_state_file(saved_state(name))


def _family_fits(name: str | None, family: str) -> None:
    from ..sana_video_core.checkpoints.said_family import check_family

    check_choice("family", family, CHOICES)
    if name is not None and family != CHOICES[0]:
        check_family(path_of(TRANSFORMER, name), family)
