"""`from comfy_api.latest import io, ui, Input, InputImpl, Types, ComfyExtension`."""

import errno
import json
import os
from enum import Enum
from fractions import Fraction
from types import SimpleNamespace

import av

from . import io as io
from . import ui as ui


class VideoFromFile:
    """A video that stays on disk until somebody asks for its frames."""

    def __init__(self, file):
        self._file = str(file)

    def _ask(self, question):
        with av.open(self._file) as container:
            return question(container, container.streams.video[0])

    def get_stream_source(self):
        return self._file

    def get_active_trim_window(self):
        return 0.0, 0.0

    def get_dimensions(self):
        return self._ask(lambda _, video: (video.width, video.height))

    def get_frame_count(self):
        return self._ask(lambda container, video: video.frames or sum(1 for _ in container.decode(video)))

    def get_frame_rate(self):
        return self._ask(lambda _, video: Fraction(video.average_rate or 1))

    def save_to(self, path, format="auto", codec="auto", metadata=None):
        """Copies packets, so nothing is encoded twice. Keeps the old metadata and adds the new."""
        kind, options = None if format == "auto" else format, {"movflags": "use_metadata_tags"}
        with av.open(self._file) as source, av.open(path, "w", format=kind, options=options) as target:
            for key, value in (source.metadata | (metadata or {})).items():
                target.metadata[key] = value if isinstance(value, str) else json.dumps(value)
            streams = {stream.index: target.add_stream_from_template(stream) for stream in source.streams}
            for packet in source.demux():
                if packet.dts is not None:
                    packet.stream = streams[packet.stream.index]
                    target.mux(packet)
        if _packets(path) != _packets(self._file):  # FFmpeg doesn't report every failure at the end of a file
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)


def _packets(path):
    """How many packets a file really holds, whatever its index says."""
    try:
        with av.open(path) as container:
            return sum(packet.size > 0 and not packet.is_corrupt for packet in container.demux())
    except av.FFmpegError:
        return 0


class VideoFromComponents:
    """A video in memory. Nothing here makes sound for one."""

    def __init__(self, components, bit_depth=8):
        self._components, self._deep = components, bit_depth >= 10

    def get_components(self):
        return self._components

    def get_dimensions(self):
        _, height, width, _ = self._components.images.shape
        return width, height

    def save_to(self, path, format="auto", codec="auto", metadata=None):
        """Encodes H.264, in 10 bits where the video was made so."""
        kind, options = None if format == "auto" else format, {"movflags": "use_metadata_tags"}
        coded, source = ("yuv420p10le", "rgb48le") if self._deep else ("yuv420p", "rgb24")
        white, dtype = (65535, "uint16") if self._deep else (255, "uint8")
        with av.open(path, "w", format=kind, options=options) as target:
            target.metadata.update({key: json.dumps(value) for key, value in (metadata or {}).items()})
            rate = Fraction(round(self._components.frame_rate * 1000), 1000)
            video = target.add_stream("h264", rate=rate)
            (video.width, video.height), video.pix_fmt = self.get_dimensions(), coded
            for image in self._components.images:
                pixels = (image.float() * white).clamp(0, white).cpu().numpy().astype(dtype)
                target.mux(
                    video.encode(av.VideoFrame.from_ndarray(pixels, format=source).reformat(format=coded))
                )
            target.mux(video.encode(None))
        if _packets(path) != len(self._components.images):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)


class ComfyExtension:
    async def on_load(self):
        """Called once, before get_node_list."""


class Input:
    Video = VideoFromFile


class InputImpl:
    VideoFromFile = VideoFromFile
    VideoFromComponents = VideoFromComponents


class Types:
    VideoComponents = SimpleNamespace
    VideoContainer = Enum("VideoContainer", {"AUTO": "auto", "MP4": "mp4"}, type=str)
    VideoCodec = Enum("VideoCodec", {"AUTO": "auto", "H264": "h264"}, type=str)
