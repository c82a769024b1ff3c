"""What `generate` writes: the mp4 with its contact sheet, or a clip's latents for another program."""

from __future__ import annotations

import logging
from argparse import Namespace
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from ..sana_video_core.config import VAESpec
from ..sana_video_core.errors import FileError, InputError, StateError
from ..sana_video_core.files.atomic import check_place
from ..sana_video_core.files.background import Worker, encoding
from ..sana_video_core.files.claims import claim, first_free, numbered, written_elsewhere
from ..sana_video_core.files.encoders import check_codec
from ..sana_video_core.files.image_file import SHEET_FRAMES, contact_sheet, frame_bytes
from ..sana_video_core.files.places import same_file
from ..sana_video_core.files.tensor_file import write_tensors
from ..sana_video_core.files.video_writer import VideoWriter
from ..sana_video_core.streaming.decoding import decode_clip
from ..sana_video_core.streaming.live import FilmPreview
from ..sana_video_core.streaming.state import LightState, State
from ..sana_video_core.streaming.state_file import check_light, save_state
from ..sana_video_core.vae.decoders import VideoDecoder
from ..sana_video_core.vae.statistics import to_vae_space
from ..sana_video_core.vae.tiling import Tiling
from .console import Bar
from .preview import film_preview

logger = logging.getLogger("sana_video")
Result = TypeVar("Result")
LATENT = ".latent"  # what ComfyUI's Load Latent reads
# files that are only read; a state may be continued in its own file
SOURCES = ("script", "image", "video", "audio", "noise", "model", "text_encoder", "vae", "config")


def tiling_of(options: Namespace) -> Tiling | None:
    """Tiles of the size asked for, overlapping by a quarter as the published ones do (32 by 8)."""
    return None if options.tile is None else Tiling(tile=options.tile, overlap=options.tile // 4)


def check_targets(options: Namespace) -> None:
    """Refuse names that nothing can be written under, and a codec without an encoder, whatever the family."""
    check_codec(options.codec)
    for path, suffixes in (
        (options.out, (".mp4", ".latent")),
        (options.sheet, (".png",)),
        (options.preview, (".png",)),
        (options.state_out, (".safetensors",)),
    ):
        if path is None:
            continue
        check_place(path)
        if path.suffix.lower() not in suffixes:
            raise InputError(f"“{path}” has to end with {' or '.join(suffixes)}.")
        for option, source in _sources(options):
            if same_file(path, source):
                raise InputError(f"“{path}” is what {option} reads, and would be lost. Give another name.")
    if options.light and options.state_out is None:
        raise InputError("--light says what --state-out writes: give both, or leave out --light.")
    if sum(value is not None for value in (options.image, options.video, options.state_in)) > 1:
        raise InputError("--image and --video begin a video and --state-in continues one; use one of them.")


def _sources(options: Namespace) -> list[tuple[str, Path]]:
    """Options and files that are only read."""
    given = [(name, getattr(options, name, None)) for name in SOURCES]
    named = [
        (f"--{name.replace('_', '-')}" if name != "script" else "the script", path)
        for name, path in given
        if path
    ]
    return named + [("--lora", lora.path) for lora in options.loras]


def hold_targets(options: Namespace, targets: ExitStack) -> None:
    """Try every file to write before the work, and hold its name until the end.

    Without --out it is a new file. Raises FileError.
    """
    if options.out is None:
        options.out = targets.enter_context(first_free(numbered(Path("video.mp4"))))
    else:
        targets.enter_context(claim(options.out))
    for path in (options.sheet, options.state_out):
        if path is not None:
            targets.enter_context(claim(path))


class Film(AbstractContextManager):
    """The mp4 and its contact sheet. Frames are encoded in a thread as they come; use it in a `with` block.

    The file is begun with the first frames. If the block raises, the finished frames are kept.
    """

    def __init__(self, options: Namespace, frames: int) -> None:
        """`frames` are those that are expected: the sheet's pictures are spread over them."""
        self.expected = frames
        # of its first so many frames: fewer than expected, if it ends early
        self.metadata: Callable[[int], Mapping[str, object]] = lambda frames: {}
        self._options, self._open = options, ExitStack()
        self._writer: VideoWriter | None = None
        self._encoder: Worker[Tensor] | None = None
        self._preview: FilmPreview | None = None
        self._frames, self._sheet = 0, list[tuple[str, Tensor]]()

    def write(self, frames: Tensor) -> None:
        """Append bytes [n, H, W, 3]. Raises what the encoding of earlier ones raised."""
        if self._encoder is None:
            self._begin()
        assert self._encoder is not None
        if self._options.sheet is not None:
            stride = -(-self.expected // SHEET_FRAMES)
            for place in range(-self._frames % stride, len(frames), stride):
                seconds = float((self._frames + place) / self._options.fps)
                self._sheet.append((f"{seconds:.1f} s", frames[place].clone()))
        if self._preview is not None:
            self._preview.frames(frames)
        self._encoder.add(frames)
        self._frames += len(frames)

    def _begin(self) -> None:
        options = {"fps": self._options.fps, "codec": self._options.codec}
        metadata = self.metadata(self.expected)
        writer = _safely(self._options, lambda path: VideoWriter(path, **options, metadata=metadata))
        self._writer = self._open.enter_context(writer)
        self._open.callback(lambda: writer.describe(self.metadata(writer.frames)))  # once all are encoded
        self._encoder = self._open.enter_context(encoding(writer))
        preview = film_preview(self._options)
        self._preview = preview and self._open.enter_context(preview)

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if self._writer is None:
            return
        self._open.__exit__(kind, error, trace)
        if error is not None:
            return
        frames, seconds = self._writer.frames, float(self._writer.frames / self._options.fps)
        print(f"wrote {self._options.out}: {frames} frames, {seconds:.1f} s")
        if self._options.sheet is not None:
            contact_sheet(self._sheet, self._options.sheet)
            print(f"wrote {self._options.sheet}")


def write_clip(options: Namespace, vae: VideoDecoder, latents: Tensor) -> None:
    """Write clean latents [1, C, F, H, W] of one clip, in model space."""
    with Film(options, options.frames) as film, Bar("frames") as bar:
        film.metadata = lambda frames: {
            "prompts": options.prompts,
            "negative": options.negative,
            "seed": options.seed,
            "steps": options.steps,
            "loras": [lora.label for lora in options.loras],
        }
        ready = to_vae_space(latents, vae.spec)
        how = {"form": frame_bytes, "tiling": tiling_of(options), "callbacks": bar.callbacks()}
        for frames in decode_clip(vae, ready, vae.spec, **how):
            film.write(frames)


def write_latents(options: Namespace, latents: Tensor, spec: VAESpec) -> None:
    """Write clean latents [1, C, F, H, W] of one clip, in model space, as for ComfyUI's Load Latent."""
    empty = torch.zeros(0)  # marks the values as unscaled for Load Latent
    tensors = {"latent_tensor": to_vae_space(latents, spec).cpu(), "latent_format_version_0": empty}
    _safely(options, lambda path: write_tensors(path, tensors, {"prompt": options.prompts[0]}))
    print(f"wrote {options.out}: latents of the {spec.name} VAE, which ComfyUI's Load Latent reads.")


def keep_state(options: Namespace, state: State) -> None:
    """Save the state under --state-out, or from now on elsewhere, if that can't be written any more."""
    kept = _kept(options, state)
    try:
        save_state(kept, options.state_out)
    except FileError as error:
        options.state_out, _ = written_elsewhere(options.state_out, lambda path: save_state(kept, path))
        logger.warning("%s The state goes to “%s” instead.", error, options.state_out)


def _kept(options: Namespace, state: State) -> State:
    """What --light leaves of a state; everything, if its memory could not be made again."""
    if not options.light or isinstance(state, LightState):
        return state
    try:
        check_light(state)
    except StateError as error:
        options.light = False
        logger.warning("%s It was saved whole, in spite of --light.", error)
        return state
    return state.light()


def _safely(options: Namespace, write: Callable[[Path], Result]) -> Result:
    """What `write` gives for --out; for another place, if the disk that was tried is gone after the work."""
    try:
        return write(options.out)
    except FileError as error:
        options.out, result = written_elsewhere(options.out, write)
        logger.warning("%s It goes to “%s” instead.", error, options.out)
        return result
