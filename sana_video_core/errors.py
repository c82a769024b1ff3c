"""Every error that a person can cause.

Each message is a sentence: what was given, what is possible, what to do.
"""


class SanaVideoError(Exception):
    """Base of all errors of this pack; the message is meant to be shown to an artist as it is."""


class InputError(SanaVideoError, ValueError):
    """A size, a count, a tensor or an option that cannot work."""


class FileError(SanaVideoError, OSError):
    """A file that is missing, damaged, of another kind, or cannot be written."""


class StateError(SanaVideoError, ValueError):
    """A state that does not fit the model, the size or the request."""


class ChunkError(SanaVideoError, RuntimeError):
    """A chunk that could not be finished; the state before it is still good."""


class Cancelled(SanaVideoError):  # noqa: N818  stopping on request is no error
    """The host asked to stop; what was finished before stays."""
