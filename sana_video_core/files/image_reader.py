"""Image files as people have them: any mode, any depth, cameras' orientation, pixels that aren't square."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from ..errors import FileError, SanaVideoError
from .places import is_file

logger = logging.getLogger("sana_video")

LARGEST = 256 * 2**20  # bytes of a picture in memory: 89 million pixels in RGB
BYTES = {"RGBA": 4, "LA": 4, "PA": 4, "P": 4, "CMYK": 7, "I": 8, "F": 8}  # of a pixel on its way to RGB(A)
ORIENTATION, SIDEWAYS = 0x0112, range(5, 9)  # EXIF's tag, and its values that swap rows and columns
NARROWEST, WIDEST = 0.2, 5  # of a pixel's width over its height; anything else is a mistake in the file
HEADROOM = 4  # up to here, floats above 1 are highlights
MOVING = ("GIF", "PNG", "WEBP", "AVIF")  # formats whose further pictures are an animation


@contextmanager
def opened_image(
    source: Path | str | BytesIO, *, near: tuple[int, int] | None = None
) -> Iterator[Image.Image]:
    """An image file, open; pixels are read when they are used. What Pillow refuses becomes a FileError.

    With `near` (width, height) a JPEG may come smaller, but not smaller than that: it is read faster.
    """
    name = "The picture" if isinstance(source, BytesIO) else f"“{source}”"
    if not isinstance(source, BytesIO) and not is_file(source):
        raise FileError(f"There is no image file {name}. Check the name and the folder.")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore"
            )  # Pillow's on damaged tags, and on sizes, of which the limit is ours
            with Image.open(source) as image:
                if near:
                    image.draft(None, near)
                _check_size(image, name)
                yield image
    except SanaVideoError:
        raise
    except Image.DecompressionBombError as error:
        raise FileError(f"{name} is too large to be read ({error}). Save it smaller.") from error
    except PermissionError as error:
        raise FileError(f"{name} may not be read. Ask its owner, or copy it.") from error
    except Exception as error:  # Pillow has no common class for what a damaged file raises
        raise FileError(f"{name} cannot be read as an image ({error}). {_advice(source, error)}") from error


def _check_size(image: Image.Image, name: str) -> None:
    width, height = image.size
    if width * height * BYTES.get(image.mode, 3) > LARGEST:
        raise FileError(
            f"{name} is too large to be read: it has {width}x{height} pixels ({image.mode}). "
            "Save it smaller; a video needs no more than 4096 pixels a side."
        )


def _advice(source: Path | str | BytesIO, error: Exception) -> str:
    if "truncated" in str(error).lower():
        why = "It ends early: copy or download it again,"
    elif not isinstance(source, BytesIO) and _is_of_a_phone(source):
        why = "It is a HEIC or AVIF picture, as phones make them;"
    else:
        why = "It may be damaged or of another kind;"
    return f"{why} or open it in an image program and save it as PNG or JPEG.".replace("; or", ";")


def _is_of_a_phone(path: Path | str) -> bool:
    with Path(path).open("rb") as file:
        start = file.read(12)
    return start[4:8] == b"ftyp" and start[8:11] in (b"hei", b"hev", b"mif", b"msf", b"avi")


def upright(image: Image.Image, name: str) -> Image.Image:
    """The first picture of an open file, turned as its camera says, in 8 bits: RGB, or RGBA if clear."""
    if image.format in MOVING and getattr(image, "is_animated", False):
        logger.warning("%s moves; its first picture is used. Give it as a video to use them all.", name)
    turned = ImageOps.exif_transpose(image)
    if turned.mode[0] in "IF":  # Pillow's own conversion clips at 255
        turned = Image.fromarray(_bytes(turned, image.format, name))
    return turned.convert("RGBA" if turned.has_transparency_data else "RGB")


def pixel_aspect(image: Image.Image) -> float:
    """A pixel's width over its height in the upright picture; 1 where an open file says nothing of use."""
    info = image.info
    # JFIF without a unit names the ratio itself; all others the pixels per unit of length
    if "jfif_density" in info and not info.get("jfif_unit"):
        width, height = map(float, info["jfif_density"])
    else:
        height, width = map(float, info.get("aspect") or info.get("dpi") or (1, 1))
    if not height or not width:
        return 1
    aspect = width / height
    return 1 / aspect if image.getexif().get(ORIENTATION) in SIDEWAYS else aspect


def square_pixels(picture: Image.Image, aspect: float) -> Image.Image:
    """`picture` with square pixels: drawn out where a pixel's width over its height isn't 1."""
    if not NARROWEST <= aspect <= WIDEST or abs(aspect - 1) < 0.01:
        return picture
    width, height = picture.size
    size = (round(width * aspect), height) if aspect > 1 else (width, round(height / aspect))
    return picture.resize(size, Image.Resampling.LANCZOS)


def _bytes(image: Image.Image, kind: str | None, name: str) -> np.ndarray:
    """Grey levels [H, W] of any depth as bytes; `kind` is the file's format."""
    values = np.asarray(image)
    if image.mode.startswith("I;16"):
        return (values >> 8).astype(np.uint8)
    if not np.isfinite(values).all():
        raise FileError(f"{name} holds numbers that aren't finite (NaN). Save it again, as PNG or JPEG.")
    white = 65535 if kind in ("PNG", "PPM") else _white(values, name)
    return (values * (255 / white)).clip(0, 255).astype(np.uint8)


def _white(values: np.ndarray, name: str) -> float:
    """The number that means white: that of the smallest usual range that holds the picture."""
    peak = float(values.max())
    if values.dtype.kind == "f" and peak <= HEADROOM:
        return 1
    white = next((white for white in (255, 65535, 2**31 - 1) if peak <= white), peak)
    logger.warning("%s holds numbers up to %g; %g is taken for white.", name, peak, white)
    return white
