"""Gemma's tokenizer from the sentencepiece model inside a file of weights."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import FileError
from .gemma_folder import NEEDED

BOS, PAD = 2, 0  # Gemma's, in every version
TOKENIZER = "spiece_model"


class SentencePieceTokenizer:
    """What `TextEncoder` uses of a tokenizer, around a sentencepiece processor.

    Names of special tokens in a text become these tokens, as in Gemma's Hugging Face tokenizer.
    """

    bos_token_id, pad_token_id = BOS, PAD

    def __init__(self, processor: Any):
        self._processor = processor
        ids = list(range(len(self)))
        columns = (of(ids) for of in (processor.IdToPiece, processor.IsControl, processor.IsUnknown))
        rows = zip(ids, *columns, strict=True)
        self._special = {piece: i for i, piece, control, unknown in rows if control or unknown}
        self._split = re.compile(f"({'|'.join(map(re.escape, self._special))})")

    def __len__(self) -> int:
        return self._processor.GetPieceSize()

    def __call__(self, text: str, **_: object) -> dict[str, list[int]]:
        """Token ids of one text. Nothing is added, padded or cut, whatever else is asked for."""
        ids: list[int] = []
        for part in filter(None, self._split.split(text)):
            ids += [self._special[part]] if part in self._special else self._processor.EncodeAsIds(part)
        return {"input_ids": ids}


def read_tokenizer(path: Path, tensors: Mapping[str, Tensor]) -> SentencePieceTokenizer:
    """The tokenizer stored as bytes among the `tensors` of the file `path`."""
    stored = next((tensors[name] for name in sorted(tensors) if name.split(".")[-1] == TOKENIZER), None)
    if stored is None:
        raise FileError(
            f"“{path.name}” holds Gemma-2 without its tokenizer (there is no {TOKENIZER}). "
            f"If it is part of a folder with a config.json, give that folder. {NEEDED}"
        )
    try:
        import sentencepiece  # folders in Hugging Face layout don't need it
    except ImportError as error:
        raise FileError(
            f"The tokenizer in “{path.name}” is read by the package sentencepiece, which cannot be imported "
            f"({error}). Install it into ComfyUI's Python: python -m pip install sentencepiece."
        ) from error
    processor = sentencepiece.SentencePieceProcessor()
    try:
        if stored.dtype != torch.uint8:
            raise ValueError(f"it is stored as {str(stored.dtype).removeprefix('torch.')} and not as bytes")
        processor.LoadFromSerializedProto(stored.numpy().tobytes())
        if processor.bos_id() != BOS:
            raise ValueError(f"its texts begin with token {processor.bos_id()} and not with {BOS}")
    except (RuntimeError, ValueError) as error:
        reason = error if isinstance(error, ValueError) else "it is damaged, or isn't a sentencepiece model"
        raise FileError(f"The tokenizer in “{path.name}” is not Gemma's: {reason}. {NEEDED}") from error
    return SentencePieceTokenizer(processor)
