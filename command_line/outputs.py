"""What `generate` writes: the mp4 with its contact sheet, or latents where another program has the VAE."""

from __future__ import annotations

import logging
from argparse import Namespace
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor

from ..sana_video_core.config import Family
from ..sana_video_core.errors import FileError
from ..sana_video_core.files.claims import claim, first_free, numbered, written_elsewhere
from ..sana_video_core.files.image_file import SHEET_FRAMES, contact_sheet
from ..sana_video_core.files.tensor_file import write_tensors
from ..sana_video_core.files.video_writer import VideoWriter
from ..sana_video_core.streaming.decoding import decode_history
from ..sana_video_core.streaming.state import StreamState
from ..sana_video_core.streaming.state_file import save_state
from ..sana_video_core.vae.statistics import to_vae_space
from ..sana_video_core.vae.tiling import Tiling
from ..sana_video_core.vae.wan_vae import WanVAE
from .console import Bar

logger = logging.getLogger("sana_video")
Result = TypeVar("Result")
LATENT = ".latent"  # what ComfyUI's Load Latent reads


def tiling_of(options: Namespace) -> Tiling | None:
    """Tiles of the size asked for, overlapping by a quarter as the published ones do (32 by 8)."""
    return None if options.tile is None else Tiling(tile=options.tile, overlap=options.tile // 4)


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


def hold_latents(options: Namespace, family: Family, targets: ExitStack) -> None:
    """Where only latents can be written, they go to a new file of the video's name."""
    if not family.vae.built_in and options.out.suffix.lower() != LATENT:
        options.out = targets.enter_context(first_free(numbered(options.out.with_suffix(LATENT))))


def write_stream(options: Namespace, vae: WanVAE, state: StreamState, from_chunk: int) -> None:
    """Write the chunks of a stream from number `from_chunk` (counted from 0) on."""
    tiling = tiling_of(options)
    metadata = {
        "prompts": [chunk.prompt for chunk in state.history[from_chunk:]],
        "seeds": [chunk.seed for chunk in state.history[from_chunk:]],
        "plan": state.plan,
        "from_chunk": from_chunk,
        "model": {"family": state.identity.family, "fingerprint": state.identity.fingerprint},
    }
    with Bar("decode") as bar:
        frames = decode_history(vae, state, from_chunk=from_chunk, tiling=tiling, callbacks=bar.callbacks())
        _write_video(options, frames, state.frames_from(from_chunk), metadata)


@torch.no_grad()
def write_clip(options: Namespace, vae: WanVAE, latents: Tensor) -> None:
    """Write clean latents [1, C, F, H, W] of one clip, in model space."""
    metadata = {
        "prompts": options.prompts,
        "negative": options.negative,
        "seed": options.seed,
        "steps": options.steps,
    }
    frames = vae.decode_stream([to_vae_space(latents, vae.spec)], tiling=tiling_of(options))
    _write_video(options, frames, options.frames, metadata)


def write_latents(options: Namespace, latents: Tensor) -> None:
    """Write latents as for ComfyUI's Load Latent node, because the 720p family's VAE is ComfyUI's."""
    empty = torch.zeros(0)  # marks the values as unscaled for Load Latent
    tensors = {"latent_tensor": latents.cpu(), "latent_format_version_0": empty}
    _safely(options, lambda path: write_tensors(path, tensors, {"prompt": options.prompts[0]}))
    print(
        f"wrote {options.out}: latents only, because the VAE of the 720p family (LTX-2) is ComfyUI's. "
        "Load them there with Load Latent and decode them with the LTX-2 VAE."
    )


def keep_state(options: Namespace, state: StreamState) -> None:
    """Save the state under --state-out, or from now on elsewhere, if that can't be written any more."""
    try:
        save_state(state, options.state_out)
    except FileError as error:
        options.state_out, _ = written_elsewhere(options.state_out, lambda path: save_state(state, path))
        logger.warning("%s The state goes to “%s” instead.", error, options.state_out)


def _safely(options: Namespace, write: Callable[[Path], Result]) -> Result:
    """What `write` gives for --out; for another place, if the disk that was tried is gone after the work."""
    try:
        return write(options.out)
    except FileError as error:
        options.out, result = written_elsewhere(options.out, write)
        logger.warning("%s It goes to “%s” instead.", error, options.out)
        return result


def _write_video(options: Namespace, frames: Iterable[Tensor], total: int, metadata: dict) -> None:
    """Write `total` frames, in pieces [1, 3, n, H, W], to the mp4 as they come, and a contact sheet."""
    stride = -(-total // SHEET_FRAMES)
    sheet: list[tuple[str, Tensor]] = []
    with _safely(options, lambda path: VideoWriter(path, fps=options.fps, metadata=metadata)) as writer:
        for pixels in frames:
            for offset in range(-writer.frames % stride, pixels.shape[2], stride):
                seconds = float((writer.frames + offset) / options.fps)
                sheet.append((f"{seconds:.1f} s", pixels[0, :, offset].cpu()))
            writer.write(pixels)
    print(f"wrote {options.out}: {writer.frames} frames, {float(writer.frames / options.fps):.1f} s")
    if options.sheet is not None:
        contact_sheet(sheet, options.sheet)
        print(f"wrote {options.sheet}")
