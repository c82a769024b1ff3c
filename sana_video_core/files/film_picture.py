"""Decoded frames as pictures: RGB in the colours of an ordinary screen, square pixels, upright."""

from __future__ import annotations

import logging
import struct
from fractions import Fraction

import av
from av.filter import Graph
from PIL import Image

from .film import Tags
from .image_reader import square_pixels

logger = logging.getLogger("sana_video")

UNTAGGED = 2  # FFmpeg's number of a colour tag that isn't there
HD = (1280, 720)  # from this width or height on, players take untagged colours for BT.709
BRIGHT = {16: "smpte2084", 18: "arib-std-b67"}  # transfers of films brighter than a screen: PQ and HLG
WIDE = {9: "bt2020", 11: "smpte431", 12: "smpte432"}  # primaries of more colours than a screen has
HORIZONTALLY, VERTICALLY = Image.Transpose.FLIP_LEFT_RIGHT, Image.Transpose.FLIP_TOP_BOTTOM


class FilmPictures:
    """Makes pictures of one film's frames."""

    def __init__(self, name: str) -> None:
        """`name` is what a warning calls the film."""
        self.name = name
        self._graphs: dict[tuple[object, ...], Graph | None] = {}

    def picture(self, frame: av.VideoFrame, tags: Tags) -> Image.Image:
        """A frame as RGB, as wide and as upright as its file says."""
        picture = self._as_on_a_screen(frame, tags) or _rgb(frame)
        return _upright(square_pixels(picture, float(tags.aspect)), frame)

    def _as_on_a_screen(self, frame: av.VideoFrame, tags: Tags) -> Image.Image | None:
        """HDR and wide colours in BT.709, by FFmpeg's own filter; None where there is nothing to do."""
        if tags.transfer not in BRIGHT and tags.primaries not in WIDE:
            return None
        kind = (frame.format.name, frame.width, frame.height, int(frame.colorspace), tags)
        if kind not in self._graphs:
            self._graphs[kind] = self._graph(frame, tags)
        graph = self._graphs[kind]
        if graph is None:
            return None
        graph.push(frame)
        made = graph.pull()
        assert isinstance(made, av.VideoFrame)
        return made.to_image()

    def _graph(self, frame: av.VideoFrame, tags: Tags) -> Graph | None:
        """A filter for frames of this kind; None, with a warning, where FFmpeg is older than 8."""
        graph = Graph()
        try:
            source = graph.add_buffer(
                width=frame.width, height=frame.height, format=frame.format, time_base=Fraction(1, 1000)
            )
            steps = [graph.add("scale", _to_bt709(frame, tags)), graph.add("format", "rgb24")]
            graph.link_nodes(source, *steps, graph.add("buffersink")).configure()
        except (av.FFmpegError, ValueError):
            if tags.transfer in BRIGHT:
                words = "is an HDR film (HLG or PQ), and its colours will look washed out"
            else:
                words = "has more colours than a screen (BT.2020 or P3), and they will look pale"
            logger.warning(
                "%s %s: the installed PyAV is too old to convert them. Install PyAV 16 (pip install -U av), "
                "or export the film in BT.709.",
                self.name,
                words,
            )
            return None
        return graph


def _to_bt709(frame: av.VideoFrame, tags: Tags) -> str:
    """The options of FFmpeg's scale filter. A bright film is tone-mapped; others keep their curve."""
    bright = BRIGHT.get(tags.transfer)
    primaries = WIDE.get(tags.primaries, "bt2020" if bright and tags.primaries == UNTAGGED else "bt709")
    options = {
        "in_transfer": bright or "bt709",
        "in_primaries": primaries,
        "out_transfer": "bt709",
        "out_primaries": "bt709",
        "intent": "perceptual" if bright else "relative_colorimetric",
    }
    if frame.colorspace == UNTAGGED and primaries == "bt2020":
        options["in_color_matrix"] = "bt2020"
    elif frame.colorspace == UNTAGGED:
        options["in_color_matrix"] = _matrix(frame).lower().replace("itu", "bt")
    return ":".join(f"{name}={value}" for name, value in options.items())


def _rgb(frame: av.VideoFrame) -> Image.Image:
    # RGB has no matrix; but PyAV before 15 uses the wrong one unless source and target differ by name.
    matrix = _matrix(frame) if frame.colorspace == UNTAGGED else None
    return frame.to_image(src_colorspace=matrix, dst_colorspace="ITU601", src_color_range=frame.color_range)


def _matrix(frame: av.VideoFrame) -> str:
    """The matrix that players take for untagged colours."""
    return "ITU709" if frame.width >= HD[0] or frame.height >= HD[1] else "ITU601"


def _upright(picture: Image.Image, frame: av.VideoFrame) -> Image.Image:
    """Turned and mirrored as the file's display matrix says: phones film sideways, mirrors in front."""
    try:
        data = frame.side_data.get("DISPLAYMATRIX")
    except ValueError:  # PyAV stumbles over any side data that it has no name for, such as EXIF
        return picture.rotate(frame.rotation, expand=True)
    if data is None:
        return picture
    # a point (x, y) of the picture is shown at (a·x + c·y, b·x + d·y), from the upper left corner
    a, b, _, c, d, *_ = struct.unpack("=9i", bytes(data))
    if abs(b) + abs(c) > abs(a) + abs(d):  # the nearest of the eight that a picture can have
        picture, a, d = picture.transpose(Image.Transpose.TRANSPOSE), c, b
    if a < 0:
        picture = picture.transpose(HORIZONTALLY)
    if d < 0:
        picture = picture.transpose(VERTICALLY)
    return picture
