"""Errors that a person can cause. A message says what was given, what is possible, and what to do."""

PACK = "SANA-Video"


class SanaVideoError(Exception):
    """Base of this pack's errors. An artist sees the message as it is."""

    __module__ = PACK  # ComfyUI writes it before the message, and its own name for a pack is a folder's path

    def __init_subclass__(cls) -> None:
        cls.__module__ = PACK


class InputError(SanaVideoError, ValueError):
    """A size, a count, a tensor or an option that cannot work."""


class FileError(SanaVideoError, OSError):
    """A file that is missing, damaged, of another kind, or cannot be written."""


class OtherKindError(FileError):
    """A file in which nothing tells that it is of the kind that was asked for."""


class StateError(SanaVideoError, ValueError):
    """A state that does not fit the model, the size or the request."""


class ChunkError(SanaVideoError, RuntimeError):
    """A chunk that could not be finished; the state before it is still good."""


class Cancelled(SanaVideoError):  # noqa: N818  stopping on request isn't an error
    """The host asked to stop; what was finished is kept."""
