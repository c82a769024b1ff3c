"""The file of a video that isn't finished: playable fragments in a hidden folder, then its name at once."""

from __future__ import annotations

import heapq
import json
import logging
import struct
from abc import abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from fractions import Fraction
from pathlib import Path
from threading import Lock

import av
from av.container import InputContainer
from av.video.stream import VideoStream

from ..errors import FileError, InputError
from ..shapes import checked_fps
from .atomic import check_place, flush
from .audio import Audio, add_sound, check_audio, sound_packets
from .claims import keep_elsewhere
from .hidden import hidden_folder

logger = logging.getLogger("sana_video")
METADATA_KEY = "comment"  # the one free text that MP4 has and every player knows


class GrowingFile(AbstractContextManager):
    """An MP4 file that grows; use it in a `with` block.

    Frames go to a hidden file beside `path`, in fragments that play by themselves. At the end they are copied
    to an ordinary MP4, with its sound, which takes the final name in one rename; until then an older file
    stays. If the block raises, the finished frames are kept. On a full disk the whole fragments are kept. If
    the name can't be taken at the end, the video is kept elsewhere. A killed process leaves only a hidden
    folder, which the next writer of this name removes.
    """

    def __init__(
        self,
        path: Path | str,
        *,
        fps: float | Fraction,
        metadata: Mapping[str, object] | None,
        audio: Audio | None,
        tags: Mapping[str, str] | None = None,
    ) -> None:
        """`metadata` is kept as JSON; `audio` is cut to the video's length, and ends before it if shorter.

        `tags` are a host's own, as they are: MP4's players pass over names that they don't know.
        Everything that can be checked before the first frame is checked here, so that no sampling is wasted.
        """
        # absolute: FFmpeg takes “a:b.mp4” for a protocol, and the working folder may change
        self.path = Path(path).absolute()
        if self.path.suffix.lower() != ".mp4":
            raise InputError(f"“{self.path}” was given as the name of a video; it has to end in .mp4.")
        self.fps = checked_fps(fps)
        if audio is not None:
            check_audio()
        self._audio, self._tags = audio, dict(tags or {})
        self.describe(metadata or {})
        self._closed, self._lock = False, Lock()
        check_place(self.path)
        with self._explained("Choose a folder that you may write to."), ExitStack() as hidden:
            folder = hidden.enter_context(hidden_folder(self.path))
            self._partial, self._whole = folder / "partial.mp4", folder / "whole.mp4"
            self._partial.touch()
            self._hidden = hidden.pop_all()

    def describe(self, metadata: Mapping[str, object]) -> None:
        """Take this metadata instead, if the file isn't closed yet."""
        # odd objects become text: metadata must never cost a video
        self._metadata = json.dumps(dict(metadata), skipkeys=True, default=str)

    @property
    @abstractmethod
    def frames(self) -> int:
        """Frames taken so far."""

    @abstractmethod
    def _end(self) -> None:
        """Write what is still to be written to the hidden file, and close it."""

    def close(self) -> None:
        """Finish the file under its final name, or leave nothing if it has no frames. Can be called twice."""
        with self._lock:  # not while a thread is within a frame
            if self._closed:
                return
            self._closed = True
        with self._explained("Close every program that has it open, and try again."):
            try:
                self._finish()
            finally:
                self._hidden.close()

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        try:
            self.close()
        except FileError as failure:
            if error is None:
                raise
            logger.warning("%s", failure)  # the block's own exception is the one to raise

    def _finish(self) -> None:
        """End the fragments and give the file its name. Raises FileError if frames were lost."""
        reason, kept = "the end did not reach the disk", 0
        try:
            self._end()
        except (OSError, av.FFmpegError) as error:
            reason = error.strerror or reason
        finally:  # also after a second Ctrl-C; and FFmpeg doesn't report every failure at the end of a file
            kept = self._take_name() if self.frames else 0
        if kept < self.frames:
            raise FileError(
                f"Only {kept} of the {self.frames} frames could be kept in “{self.path}”: {reason}. "
                "Free some space or choose another folder, and make the rest again."
            )

    def _take_name(self) -> int:
        """Give what is whole the final name; returns how many frames that are. Raises FileError."""
        kept, made = _cut_to_whole_fragments(self._partial), self._partial  # fragments play as well
        if not kept:
            return 0
        audio = self._audio and self._audio.cut(kept / self.fps)
        try:
            tags = self._tags | {METADATA_KEY: self._metadata}
            if _copy_as_ordinary_mp4(self._partial, self._whole, tags, audio) == kept:
                made = self._whole
        finally:
            if audio is not None and made is self._partial:
                logger.warning("“%s” has no sound: the copy that has it could not be finished.", self.path)
            try:
                flush(made)
                made.replace(self.path)
            except OSError as error:
                place = keep_elsewhere(made, self.path)
                raise FileError(
                    f"“{self.path}” could not take its name ({error.strerror}). "
                    f"The video is kept as “{place}”, with {kept} frames."
                ) from error
        return kept

    @contextmanager
    def _explained(self, advice: str) -> Iterator[None]:
        try:
            yield
        except (OSError, av.FFmpegError) as error:
            if isinstance(error, FileError):
                raise
            what = f"Writing “{self.path}” failed after {self.frames} frames: {error.strerror}."
            raise FileError(f"{what} {advice}") from error


def _cut_to_whole_fragments(path: Path) -> int:
    """Cut a fragmented MP4 after its last whole fragment; returns how many frames it then holds."""
    end = position = 0
    with path.open("r+b") as file:
        size = path.stat().st_size
        while len(header := file.read(8)) == 8:
            length, kind = struct.unpack(">I4s", header)
            position += max(length, 8)
            if kind in (b"mdat", b"mfra") and position <= size:
                end = position
            file.seek(position)
        file.truncate(end)
    return _whole_frames(path)


def _copy_as_ordinary_mp4(source: Path, target: Path, tags: Mapping[str, str], audio: Audio | None) -> int:
    """Copy a fragmented MP4 to one with its index in front, for seeking; returns how many frames arrived."""
    own_tags = "+use_metadata_tags" if tags.keys() - {METADATA_KEY} else ""  # names that MP4 doesn't know
    flags = {"movflags": f"faststart{own_tags}"}
    sound = 0
    try:
        with (
            av.open(str(source)) as fragments,
            av.open(str(target), "w", format="mp4", options=flags) as copy,
        ):
            copy.metadata.update(fragments.metadata | tags)
            # without `opaque`, PyAV before 15 opens an encoder for the copy and writes empty packets
            film = copy.add_stream_from_template(fragments.streams.video[0], opaque=True)
            film.time_base = fragments.streams.video[0].time_base  # in PyAV 16 it would be 1/90000
            heard = () if audio is None else sound_packets(audio, add_sound(copy, audio))
            packets = heapq.merge(_film_packets(fragments, film), heard, key=_moment)
            for packet in packets:
                copy.mux(packet)
                sound += packet.stream.type == "audio"
    except av.FFmpegError:
        return 0
    return _whole_frames(target) if _whole_packets(target, "audio") == sound else 0


def _film_packets(source: InputContainer, stream: VideoStream) -> Iterator[av.Packet]:
    """The packets of a file's film, for another file's stream."""
    for packet in source.demux(video=0):
        if packet.size:  # PyAV ends with an empty packet
            packet.stream = stream
            yield packet


def _moment(packet: av.Packet) -> Fraction:
    assert packet.dts is not None
    assert packet.time_base is not None
    return packet.dts * packet.time_base


def _whole_frames(path: Path) -> int:
    """How many frames an MP4 of ours really holds, whatever its index says."""
    return _whole_packets(path, "video")


def _whole_packets(path: Path, kind: str) -> int:
    try:
        with av.open(str(path)) as container:
            streams = [stream for stream in container.streams if stream.type == kind]
            packets = container.demux(streams) if streams else ()
            return sum(packet.size > 0 and not packet.is_corrupt for packet in packets)
    except av.FFmpegError:
        return 0
