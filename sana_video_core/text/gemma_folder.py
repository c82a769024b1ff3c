"""Gemma-2 from a folder in Hugging Face layout, loaded by transformers."""

import logging
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import FileError
from ..files.finite import check_finite
from ..files.parts import read_parts
from ..files.places import is_file, is_folder
from ..files.quantised import refuse_quantised
from ..files.tensor_file import read_json

logger = logging.getLogger("sana_video")

NEEDED = (
    "Needed is Gemma-2-2B-it: the file gemma_2_2b_it_elm_bf16.safetensors (Comfy-Org/PixelDiT, "
    "text_encoders), or the text_encoder and tokenizer folders of a SANA-Video diffusers download, "
    "or the folder of google/gemma-2-2b-it."
)


def folders_of(path: Path) -> list[Path]:
    """The folders that may hold files of one download, that of the model first. Raises FileError."""
    folder, tokenizer_folder = _find_folders(path)
    return list(dict.fromkeys((folder, folder.parent, tokenizer_folder)))


def load_gemma_folder(path: Path, *, dtype: torch.dtype | None) -> tuple[Any, Any, list[Path]]:
    """Tokenizer, Gemma2Model on the CPU, and `folders_of` the path.

    `path` is absolute, else as in `load_text_encoder`. Nothing is downloaded, and no code in it is run.
    """
    folder, tokenizer_folder = _find_folders(path)
    _check_config(folder)
    tokenizer = _load_tokenizer(tokenizer_folder)
    model = _load_model(folder, dtype)
    if len(tokenizer) > model.config.vocab_size:
        raise FileError(
            f"The tokenizer in {tokenizer_folder} knows {len(tokenizer)} tokens, "
            f"but the text encoder in {folder} only {model.config.vocab_size}: they do not belong together. "
            "Take both from one download."
        )
    return tokenizer, model, folders_of(path)


def _find_folders(path: Path) -> tuple[Path, Path]:
    """The folder of the model and the folder of the tokenizer."""
    if not is_folder(path):
        raise FileError(f"There is no file or folder {path}. {NEEDED}")
    inner = path / "text_encoder"
    folder = inner if is_folder(inner) and not is_file(path / "config.json") else path
    if not is_file(folder / "config.json"):
        raise FileError(
            f"{folder} has no config.json, so it is not a text encoder in Hugging Face layout. {NEEDED}"
        )
    for candidate in (folder, folder.parent / "tokenizer"):
        if any(is_file(candidate / name) for name in ("tokenizer.json", "tokenizer.model")):
            return folder, candidate
    raise FileError(
        f"There is no tokenizer for the text encoder in {folder}: neither tokenizer.json nor tokenizer.model "
        f"is in it or in {folder.parent / 'tokenizer'}. Copy the tokenizer files of the same download there."
    )


def _check_config(folder: Path) -> None:
    path = folder / "config.json"
    config = read_json(path) or {}
    kind = config.get("model_type")
    if kind != "gemma2":
        raise FileError(
            "SANA-Video reads text with Gemma-2 (model_type gemma2), "
            f"but {path} says {kind or 'nothing about its kind'}. {NEEDED}"
        )
    refuse_quantised(folder.name, {}, config=config, instead=f". {NEEDED.removesuffix('.')}")


def _load_tokenizer(folder: Path):
    from transformers import AutoTokenizer  # takes seconds to import

    try:
        return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # of many types, all about this folder
        raise FileError(
            f"The tokenizer in {folder} cannot be read ({_first_line(error)}). Download its files again."
        ) from error


def _weights_in(folder: Path) -> dict[str, Tensor]:
    """The weights of a folder, mapped.

    Transformers would read NaN and scales without a word, and finds neither every variant nor parts without
    an index.
    """
    weights = read_parts(folder, "model.safetensors (nor its parts)", NEEDED)
    refuse_quantised(folder.name, weights)
    check_finite(weights, folder)
    return weights


def _load_model(folder: Path, dtype: torch.dtype | None):
    """Gemma2Model on the CPU. A checkpoint with the language head loads too; the head is left out."""
    weights = _weights_in(folder)
    import transformers

    # "auto" is the dtype of the file. The argument's old name still works in transformers 5, with a warning.
    major = int(transformers.__version__.split(".")[0])
    options: dict[str, Any] = {"dtype" if major >= 5 else "torch_dtype": dtype or "auto"}
    try:
        # a pair, because of output_loading_info
        model, info = transformers.Gemma2Model.from_pretrained(  # pyright: ignore[reportGeneralTypeIssues]
            None,
            config=transformers.Gemma2Config.from_pretrained(folder, local_files_only=True),
            state_dict=weights,
            attn_implementation="eager",  # the others may skip the soft-capping of the attention logits
            output_loading_info=True,
            **options,
        )
    except MemoryError:
        raise
    except Exception as error:  # of many types, all about this folder
        raise FileError(
            f"The weights in {folder} cannot be read ({_first_line(error)}). "
            "A file is probably incomplete or missing; download it again."
        ) from error
    _check_loading_info(folder, info)
    mapped = {tensor.data_ptr() for tensor in weights.values()}
    for parameter in model.parameters():
        if parameter.data_ptr() in mapped:  # it would change with the file
            parameter.data = parameter.data.clone()
    return model


def _check_loading_info(folder: Path, info: dict) -> None:
    """Refuse what transformers only warns about: it fills missing tensors with random numbers."""
    missing = sorted(info["missing_keys"])
    if missing:
        raise FileError(
            f"The weights in {folder} are not complete: {missing[0]} is missing ({len(missing)} in all). "
            "Download the folder again."
        )
    extra = sorted(key for key in info["unexpected_keys"] if key.removeprefix("model.").startswith("layers."))
    if extra:
        raise FileError(
            f"The weights in {folder} do not fit their config.json: {extra[0]} has no place in it "
            f"({len(extra)} in all). Take both from one download."
        )


def _first_line(error: Exception) -> str:
    return next(
        (line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__
    ).rstrip(".")
