"""Lets go of the pages of a mapped file: they count as memory in use once they were looked at.

A file of 18 GB would fill a machine of 16 before its first weight is converted. The system takes such pages
back when it must; on Linux they can be given back, and are read again if anyone asks.
"""

from __future__ import annotations

import ctypes
import mmap
import re
import sys
from pathlib import Path

from torch import Tensor

LEAST = 1 << 20  # bytes; smaller tensors aren't worth the call
MAPS = Path("/proc/self/maps")
# begin-end rights offset device inode: an inode of 0 is memory without a file
FILE_RANGE = re.compile(r"^([0-9a-f]+)-([0-9a-f]+) \S+ \S+ \S+ [1-9]\d*", re.MULTILINE)
DONTNEED = 4  # MADV_DONTNEED


def let_go(tensor: Tensor) -> None:
    """Unmap what of a tensor is mapped from a file. It keeps its values, if nobody has written to it."""
    size = tensor.numel() * tensor.element_size()
    if sys.platform != "linux" or not tensor.is_cpu or not tensor.is_contiguous() or size < LEAST:
        return
    page, begin = mmap.PAGESIZE, tensor.data_ptr()
    first, last = -(-begin // page) * page, (begin + size) // page * page
    if _is_of_a_file(first, last):  # other memory would lose its values
        ctypes.CDLL(None).madvise(ctypes.c_void_p(first), ctypes.c_size_t(last - first), DONTNEED)


def _is_of_a_file(first: int, last: int) -> bool:
    """Whether one mapping of a file holds these addresses."""
    try:
        maps = MAPS.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    return any(int(m[1], 16) <= first and last <= int(m[2], 16) for m in FILE_RANGE.finditer(maps))
