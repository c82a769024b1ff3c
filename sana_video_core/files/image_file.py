"""Image files, and pictures as tensors.

Pixels are tensors [3, H, W] in [-1, 1]; bytes are uint8 arrays [H, W, 3], as in Pillow and PyAV.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageOps
from torch import Tensor

from ..errors import InputError
from .atomic import atomic_path
from .image_reader import HEADROOM, opened_image, pixel_aspect, square_pixels, upright
from .transfer import arriving

logger = logging.getLogger("sana_video")

SHEET_FRAMES = 24  # of a video on its contact sheet
TOLERATED = 0.1  # beyond 0 to 1 without a word: sharp resampling overshoots
LABEL_HEIGHT = 16  # pixels under a thumbnail, room for one line of Pillow's built-in font


def to_bytes(pixels: Tensor) -> np.ndarray:
    """Bytes [H, W, 3] of one frame [3, H, W] in [-1, 1], of any float dtype, on any device."""
    if pixels.dim() != 3 or pixels.shape[0] != 3 or not pixels.is_floating_point():
        raise InputError(
            f"A frame of shape {tuple(pixels.shape)} and type {pixels.dtype} was given; "
            "it has to be [3, height, width] in a floating-point type, with values in [-1, 1]."
        )
    return _eight_bits(pixels.movedim(0, -1)).cpu().numpy()


def frame_bytes(pixels: Tensor) -> Tensor:
    """Bytes [n, H, W, 3] of a video's frames [1, 3, n, H, W] in [-1, 1], on the same device."""
    return _eight_bits(pixels[0].movedim(0, -1))


def _eight_bits(pixels: Tensor) -> Tensor:
    # float32 first: bfloat16 has too few digits for 127.5·x + 127.5. The cast truncates, as the original's
    # does; the values that from_bytes makes of 0 … 255 still come back exactly.
    scaled = (127.5 * pixels.detach().to(torch.float32) + 127.5).clamp(0, 255)
    return scaled.to(torch.uint8).contiguous()


def from_bytes(array: np.ndarray) -> Tensor:
    """Pixels [3, H, W] float32 in [-1, 1] of bytes [H, W, 3]."""
    return torch.from_numpy(array.astype(np.float32)).permute(2, 0, 1) / 127.5 - 1


def fill_and_crop(picture: Image.Image, width: int, height: int) -> Image.Image:
    """`picture` scaled (Lanczos) until it covers `width` x `height` pixels, and center-cropped."""
    if width < 1 or height < 1:
        raise InputError(
            f"A picture of {width}x{height} pixels was asked for; both sides have to be at least 1."
        )
    return ImageOps.fit(picture, (width, height), Image.Resampling.LANCZOS)


def fitted(picture: Image.Image, size: tuple[int, int]) -> Image.Image:
    """`picture` itself if it has that size (width, height), else filled and cropped."""
    return picture if picture.size == size else fill_and_crop(picture, *size)


def stack_pictures(pictures: Iterable[Image.Image], size: tuple[int, int] | None) -> Tensor:
    """Pixels [1, 3, n, H, W] float32 of n RGB pictures, each filled and cropped to `size` (width, height).

    Without a size all get the first one's. Pictures are taken one at a time and kept as bytes, so that there
    is only one copy in floats.
    """
    arrays: list[np.ndarray] = []
    for picture in pictures:
        size = size or picture.size
        arrays.append(np.asarray(fitted(picture, size)))
    pixels = torch.empty(1, 3, len(arrays), *arrays[0].shape[:2])
    for index, array in enumerate(arrays):
        pixels[0, :, index] = from_bytes(array)
    return pixels


def fit_images(images: Tensor, *, width: int, height: int) -> Tensor:
    """A host's pictures [n, H, W, 3 or 4] in [0, 1] as cropped frames [1, 3, n, height, width] in [-1, 1]."""
    _check_images(images)
    pictures = (Image.fromarray(to_bytes(picture[..., :3].movedim(-1, 0) * 2 - 1)) for picture in images)
    return stack_pictures(pictures, (width, height))


def _check_images(images: Tensor) -> None:
    """Raises InputError unless these are a host's pictures; warns of values that will be clipped."""
    if images.ndim != 4 or images.shape[-1] not in (3, 4) or not images.numel():
        raise InputError(
            f"Pictures of shape {list(images.shape)} were given; "
            "they have to be [pictures, rows, columns, 3]."
        )
    if not images.is_floating_point() or not images.isfinite().all():
        raise InputError(
            f"Pictures of type {images.dtype} were given, or some of their values aren't finite (NaN); "
            "they have to be floating-point numbers from 0 to 1. Look at the node that made them."
        )
    low, high = float(images.min()), float(images.max())
    if high > HEADROOM and images.float().median() > 1:
        raise InputError(
            f"Pictures with values up to {high:g} were given; white is 1, so they would be all white. "
            "Divide them by 255 (or by their largest value) first."
        )
    if low < -TOLERATED or high > 1 + TOLERATED:
        logger.warning("Pictures hold values from %g to %g; what isn't in 0 to 1 is clipped.", low, high)


def to_images(pieces: Iterable[Tensor], frames: int) -> Tensor:
    """A video of `frames` frames as a host's pictures [B * frames, H, W, 3] in [0, 1].

    The pieces [B, 3, n, H, W] in [-1, 1] are copied one at a time, so that a long video is in memory once.
    """
    images, made = None, 0
    for piece in arriving(((piece + 1) / 2).clamp(0, 1).movedim(1, -1) for piece in pieces):
        batch, count, height, width, _ = piece.shape
        if images is None:
            images = torch.empty(batch, frames, height, width, 3)
        images[:, made : made + count] = piece
        made += count
    if images is None:
        raise InputError(
            "There is nothing to decode: the latents or the state are empty. Sample a chunk first."
        )
    return images.flatten(0, 1)


def read_image(path: Path | str, *, width: int, height: int) -> Tensor:
    """An image file as a frame [1, 3, 1, height, width] in [-1, 1]: upright, on black, filled and cropped."""
    name, side = f"“{path}”", 2 * max(width, height)
    with opened_image(path, near=(side, side)) as image:
        aspect = pixel_aspect(image)
        picture = square_pixels(upright(image, name), aspect)
        return stack_pictures([_on_black(fill_and_crop(picture, width, height), name)], (width, height))


def _on_black(picture: Image.Image, name: str) -> Image.Image:
    """An RGB or RGBA picture without transparency."""
    if picture.mode == "RGB":
        return picture
    if np.asarray(picture)[..., 3].min() < 255:
        logger.warning("%s is transparent in places; these become black.", name)
    black = Image.new("RGBA", picture.size, (0, 0, 0, 255))
    return Image.alpha_composite(black, picture).convert("RGB")


def save_frame(pixels: Tensor, path: Path | str) -> None:
    """Write one frame [3, H, W] in [-1, 1] as a PNG file."""
    save_picture(Image.fromarray(to_bytes(pixels)), path)


def contact_sheet(
    frames: Iterable[tuple[str, Tensor]], path: Path | str, *, columns: int = 6, cell_width: int = 160
) -> None:
    """Write labelled thumbnails of `frames` row by row into one PNG file.

    A frame is (label, pixels [3, H, W] in [-1, 1]) or (label, bytes [H, W, 3]).
    """
    pictures = (
        (label, Image.fromarray(frame.numpy() if frame.dtype == torch.uint8 else to_bytes(frame)))
        for label, frame in frames
    )
    save_picture(sheet_of(pictures, columns=columns, cell_width=cell_width), path)


def sheet_of(
    pictures: Iterable[tuple[str, Image.Image]], *, columns: int = 6, cell_width: int = 160
) -> Image.Image:
    """Labelled thumbnails of (label, picture), row by row in one picture.

    Each is `cell_width` pixels wide and shaped like the first. Pictures are taken one at a time.
    """
    if columns < 1 or cell_width < 1:
        raise InputError(
            f"{columns} columns of {cell_width} pixels were asked for; both have to be at least 1."
        )
    cells: list[Image.Image] = []
    for label, picture in pictures:
        height = (
            cells[0].height - LABEL_HEIGHT
            if cells
            else max(1, round(cell_width * picture.height / picture.width))
        )
        cells.append(_cell(label, fill_and_crop(picture, cell_width, height)))
    if not cells:
        raise InputError("A contact sheet was asked for, but there are no frames; give at least one.")
    rows = -(-len(cells) // columns)
    sheet = Image.new("RGB", (min(columns, len(cells)) * cell_width, rows * cells[0].height))
    for index, cell in enumerate(cells):
        row, column = divmod(index, columns)
        sheet.paste(cell, (column * cell_width, row * cell.height))
    return sheet


def _printable(text: str) -> str:
    """The text in Latin-1: without FreeType, Pillow's font raises on anything else."""
    return text.encode("latin-1", "replace").decode("latin-1")


def _cell(label: str, thumbnail: Image.Image) -> Image.Image:
    """`thumbnail` with its label under it; a label that is too long is cut off at the cell's edge."""
    cell = Image.new("RGB", (thumbnail.width, thumbnail.height + LABEL_HEIGHT))
    cell.paste(thumbnail, (0, 0))
    ImageDraw.Draw(cell).text((2, thumbnail.height + 2), _printable(label), fill=(255, 255, 255))
    return cell


def save_picture(picture: Image.Image, path: Path | str) -> None:
    """Write a PNG file, whole or not at all."""
    path = Path(path)
    if path.suffix.lower() != ".png":
        raise InputError(f"“{path}” was given as the name of a picture; it has to end in .png.")
    with atomic_path(path) as temporary:
        picture.save(temporary, format="PNG")
