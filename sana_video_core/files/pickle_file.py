"""Reads what torch.save wrote, without running code and without unpacking what a file only claims."""

from __future__ import annotations

import io
import pickle
import pickletools
import re
import struct
import zipfile
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext, suppress
from pathlib import Path

import numpy as np
import torch

from ..errors import FileError
from .quantised import quantised_sentence
from .refusals import damaged

ZIP = b"PK\x03\x04"  # how files of torch.save begin since torch 1.6
LARGEST_PROGRAM = 4 << 20  # bytes of instructions; those of 2,000 tensors are a few hundred kilobytes
MOST_INSTRUCTIONS = 300_000  # some 35 for each tensor
MOST_IN_TUPLE = 300_000  # objects, also in tuples inside: a key's hash visits each, as often as it is there
LARGEST_DIRECTORY = 4 << 20  # bytes of a zip
MOST_RECORDS = 20_000  # a training's dump of three networks and their optimisers has some thousands
OLD_PICKLES = 4  # before torch 1.6 a file began with this many: magic, version, system, content
# torch's errors about an object that needs code to be run, and its name
FOREIGN_OBJECT = re.compile(r"(?:Unsupported class |GLOBAL |but got <class ')([\w.]+)")
# allowed by torch, but they can make gigabytes of a few bytes, and no checkpoint needs them
INFLATING = (b"bytearray", b"_rebuild_device_tensor_from", b"_rebuild_wrapper_subclass")
QUANTISERS = {"torchao": "torchao", "bitsandbytes": "bitsandbytes", "quanto": "optimum-quanto", "hqq": "HQQ"}


def read_pickle(path: Path) -> object:
    """The content of a .pth file. Raises FileError if it isn't plain data, or is larger than it seems."""
    with path.open("rb") as file:
        new = file.read(len(ZIP)) == ZIP
    try:
        program = _zip_program(path) if new else _old_program(path)
        with _numpy_allowed() if b"numpy" in program else nullcontext():
            return _load(path, mapped=new)
    except FileError:
        raise
    except Exception as error:  # damaged pickles raise errors of many types
        match = FOREIGN_OBJECT.search(str(error)) if isinstance(error, pickle.UnpicklingError) else None
        if match is None:
            raise damaged(path, error) from error
        raise FileError(_foreign(path, match[1])) from error


def _load(path: Path, *, mapped: bool) -> object:
    """Torch's loader. It maps only its newer format, and takes what ends so for safetensors."""
    if path.suffix.lower() != ".safetensors":
        return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    with path.open("rb") as file:
        return torch.load(file, map_location="cpu", weights_only=True)


def _foreign(path: Path, name: str) -> str:
    maker = next((maker for module, maker in QUANTISERS.items() if module in name.split(".")[:2]), None)
    if maker:
        return quantised_sentence(path.name, maker, name)
    return (
        f"“{path.name}” holds Python objects ({name}) and not only tensors, so it was "
        "not opened: such a file can run code. Use the published checkpoint, or a .safetensors file; "
        "whoever made this one can save its weights alone."
    )


def _zip_program(path: Path) -> bytes:
    """The instructions in a zip, after a look at its directory."""
    size = path.stat().st_size
    with path.open("rb") as file:
        file.seek(max(0, size - (1 << 16) - 200))
        if _directory_size(file.read()) > LARGEST_DIRECTORY:
            raise _oversized(path, "more records than a checkpoint has")
    with zipfile.ZipFile(path) as archive:
        records = archive.infolist()
        if len(records) > MOST_RECORDS:
            raise _oversized(path, f"it has {len(records):,} records")
        packed = [record.file_size for record in records if record.compress_type != zipfile.ZIP_STORED]
        if packed:
            raise _oversized(path, f"it is compressed, and would unpack to {sum(packed):,} bytes")
        if sum(record.file_size for record in records) > size:
            raise _oversized(path, "its records overlap")
        programs = [record for record in records if record.filename.endswith("data.pkl")]
        if sum(record.file_size for record in programs) > LARGEST_PROGRAM:
            raise _oversized(path, "its list of tensors has more than 4 MB")
        contents = [archive.read(record) for record in programs]
    for content in contents:
        _check_program(path, content, pickles=1)
    return b"".join(contents)


def _directory_size(tail: bytes) -> int:
    """Bytes of a zip's directory, from the end of the file; torch writes the 64-bit record as well."""
    large, small = tail.rfind(b"PK\x06\x06"), tail.rfind(b"PK\x05\x06")
    if 0 <= large <= len(tail) - 48:
        return struct.unpack_from("<Q", tail, large + 40)[0]
    return struct.unpack_from("<L", tail, small + 12)[0] if 0 <= small <= len(tail) - 16 else 0


def _old_program(path: Path) -> bytes:
    """The instructions at the start of a file in torch's old format, with what follows them."""
    with path.open("rb") as file:
        program = file.read(LARGEST_PROGRAM)
    _check_program(path, program, pickles=OLD_PICKLES)
    return program


def _check_program(path: Path, program: bytes, *, pickles: int) -> None:
    """Refuse instructions that would take long or make much of nothing. They are parsed, not followed."""
    stream, count = io.BytesIO(program), 0
    # not instructions, cut off, or nothing to take: torch will say so
    with suppress(ValueError, UnicodeDecodeError, IndexError):
        for _ in range(pickles):
            stack: list[int] = []
            memo: dict[object, int] = {}
            for opcode, argument, _ in pickletools.genops(stream):
                count += 1
                _weigh(opcode, argument, stack, memo)
                if stack and stack[-1] > MOST_IN_TUPLE:
                    raise _oversized(path, "its tuples hold each other again and again")
                if count > MOST_INSTRUCTIONS:
                    raise _oversized(
                        path, f"its list of tensors has more than {MOST_INSTRUCTIONS:,} instructions"
                    )
    inflating = next((name for name in INFLATING if name in program[: stream.tell()]), None)
    if inflating:
        raise FileError(_foreign(path, inflating.decode()))


def _weigh(
    opcode: pickletools.OpcodeInfo, argument: object, stack: list[int], memo: dict[object, int]
) -> None:
    """Do to a stack of weights what an instruction does to objects. A tuple weighs as much as all in it, any
    other object 1 and a mark 0.
    """
    taken, made = opcode.stack_before, opcode.stack_after
    if "PUT" in opcode.name or opcode.name == "MEMOIZE":
        memo[len(memo) if argument is None else argument] = stack[-1]
    elif "GET" in opcode.name:
        stack.append(memo.get(argument, 1))
    elif opcode.name == "DUP":
        stack.append(stack[-1])
    else:
        weight, count = 1, len(taken)
        if pickletools.markobject in taken:
            count = taken.index(pickletools.markobject)
            while top := stack.pop():
                weight += top
        for _ in range(count):
            weight += stack.pop()
        weight = weight if "TUPLE" in opcode.name else 1
        stack.extend(0 if kind is pickletools.markobject else weight for kind in made)


def _oversized(path: Path, what: str) -> FileError:
    return FileError(
        f"“{path.name}” isn't as torch.save writes a checkpoint: {what}. It was not opened. "
        "Use the published file, or a .safetensors file."
    )


def _numpy_allowed() -> AbstractContextManager[object]:
    """Lets a numpy random state through, as the original's training saves it, and nothing else of numpy."""
    reconstruct: Callable[..., object] = np.ndarray(0).__reduce__()[0]  # pyright: ignore[reportAssignmentType]
    types = [np.ndarray, np.dtype, *(type(np.dtype(name)) for name in ("uint32", "uint64"))]
    names = [(reconstruct, f"numpy.{core}.multiarray._reconstruct") for core in ("core", "_core")]
    # what the host allows stays allowed afterwards
    known = torch.serialization.get_safe_globals()
    return torch.serialization.safe_globals([entry for entry in (*types, *names) if entry not in known])
