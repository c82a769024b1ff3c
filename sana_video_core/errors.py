"""Errors that a person can cause. A message says what was given, what is possible, and what to do."""


class SanaVideoError(Exception):
    """Base of this pack's errors. An artist sees the message as it is."""


class InputError(SanaVideoError, ValueError):
    """A size, a count, a tensor or an option that cannot work."""


class FileError(SanaVideoError, OSError):
    """A file that is missing, damaged, of another kind, or cannot be written."""


class StateError(SanaVideoError, ValueError):
    """A state that does not fit the model, the size or the request."""


class ChunkError(SanaVideoError, RuntimeError):
    """A chunk that could not be finished; the state before it is still good."""


class Cancelled(SanaVideoError):  # noqa: N818  stopping on request isn't an error
    """The host asked to stop; what was finished is kept."""
