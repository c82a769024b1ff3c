"""Text to the embeddings that SANA-Video reads: Gemma-2-2B-it, last hidden state, 300 positions.

Source: NVlabs/Sana, inference_video_scripts/inference_sana_video.py (the rule of the window and of the motion
score), and diffusers, pipelines/sana_video/pipeline_sana_video.py (the same rule; it also lower-cases prompts, which
the original does not do and neither do we). In short: an instruction is put before a prompt, Gemma reads both, and
only the beginning-of-text token and the last 299 positions are kept. Gemma is causal, so these have seen it all.
"""

import functools
import hashlib
import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .errors import FileError, InputError
from .instruction import find_instruction

logger = logging.getLogger("sana_video")

_WHERE = (
    "Needed is Gemma-2-2B-it: either the text_encoder and tokenizer folders of a SANA-Video diffusers download, "
    "or the folder of google/gemma-2-2b-it."
)


@functools.cache  # once per process: a long video encodes many prompts, and one warning is enough
def _warn_no_instruction() -> None:
    logger.warning(
        "The wording that SANA-Video was trained to read before every prompt was not found, so your prompts will "
        "be followed less closely. To give it, put the model's original yaml file (it contains `chi_prompt`) in the "
        "folder of the model or the text encoder, or install diffusers, or pass your own wording as the instruction."
    )


def prompt_digest(text: str, *, instruction: str | None, motion_score: int | None) -> str:
    """sha256 (hex) of everything that decides what a prompt encodes to, apart from the encoder itself.

    `instruction` is the wording really used, as `TextEncoder.resolve_instruction` returns it.
    """
    used = hashlib.sha256(instruction.encode("utf-8", "surrogatepass")).hexdigest() if instruction else ""
    # JSON quotes the text, so no text can imitate the fields that follow it.
    return hashlib.sha256(json.dumps([text.strip(), used, motion_score or 0]).encode("ascii")).hexdigest()


class TextEncoder:
    """A tokenizer and a Gemma-2 without its head. Holds no state between calls.

    `instruction` is the original wording if somebody found it (see `find_instruction`); None if nobody did.
    """

    def __init__(self, tokenizer, model, *, instruction: str | None = None):
        self.tokenizer = tokenizer
        self.model = model.eval()
        self.instruction = instruction or None
        self._bos = _special_id(tokenizer, model, "bos_token_id")
        self._pad = _special_id(tokenizer, model, "pad_token_id")

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        return next(self.model.parameters()).dtype

    def resolve_instruction(self, instruction: bool | str | None) -> str | None:
        """What `encode` puts before a prompt: True is the original, False or None is nothing, a text is itself."""
        if instruction is True:
            if self.instruction is None:
                _warn_no_instruction()
            return self.instruction
        if instruction is False or instruction is None:
            return None
        if not isinstance(instruction, str):
            raise InputError(
                f"The instruction must be on, off or a text, and {instruction!r} is none of these."
            )
        return instruction or None

    @torch.no_grad()  # not inference_mode: what comes out may be used to train
    def encode(
        self,
        prompts: str | Sequence[str],
        *,
        instruction: bool | str | None = True,
        motion_score: int | None = None,
        max_tokens: int = 300,
    ) -> tuple[Tensor, Tensor]:
        """Prompts to (embeddings [B, L, D] in the model's dtype, mask [B, L] bool, True where there is text).

        L is max_tokens (the network's 300), D the width of the encoder (2304). A negative prompt takes no
        instruction: encode it with instruction=False. A prompt too long loses its end, the motion score first.
        """
        texts = _checked_prompts(prompts)
        suffix = _motion_suffix(motion_score)
        if isinstance(max_tokens, bool) or not isinstance(max_tokens, int) or max_tokens < 1:
            raise InputError(
                f"max_tokens must be a whole number of at least 1, and {max_tokens!r} was given."
            )
        prefix = self.resolve_instruction(instruction) or ""
        total = max_tokens
        if prefix:
            # The instruction ends with a space: alone a token of its own, but before a word it melts into that word's
            # token. So minus one for it, and one for the beginning of text, which is kept apart: then the window of
            # the last positions starts exactly at the first word.
            total += len(self._token_ids(prefix)) - 2
        ids, mask = self._padded([prefix + text.strip() + suffix for text in texts], total)
        hidden = self.model(input_ids=ids, attention_mask=mask.long(), use_cache=False).last_hidden_state
        kept = torch.tensor([0, *range(total - max_tokens + 1, total)], device=ids.device)
        return hidden[:, kept], mask[:, kept]

    def _token_ids(self, text: str) -> list[int]:
        """Token ids of one text after a beginning-of-text token, whatever the tokenizer itself would add."""
        ids = self.tokenizer(text, add_special_tokens=False, padding=False, truncation=False, verbose=False)
        return [self._bos, *ids["input_ids"]]

    def _padded(self, texts: list[str], length: int) -> tuple[Tensor, Tensor]:
        """Token ids [B, length] and mask [B, length] bool, cut and padded on the right.

        Done here and not by the tokenizer: Gemma's tokenizers pad on the left unless told otherwise.
        """
        ids = torch.full((len(texts), length), self._pad, dtype=torch.long)
        mask = torch.zeros(len(texts), length, dtype=torch.bool)
        for row, text in enumerate(texts):
            tokens = self._token_ids(text)[:length]
            ids[row, : len(tokens)] = torch.tensor(tokens)
            mask[row, : len(tokens)] = True
        return ids.to(self.device), mask.to(self.device)


def _special_id(tokenizer, model, name: str) -> int:
    for owner in (tokenizer, model.config):
        value = getattr(owner, name, None)
        if value is not None:
            return int(value)
    raise FileError(
        f"The text encoder is not complete: neither its tokenizer nor its config.json names a {name}."
    )


def _checked_prompts(prompts: str | Sequence[str]) -> list[str]:
    texts = [prompts] if isinstance(prompts, str) else list(prompts)
    if not texts:
        raise InputError("There is no prompt to encode. Give at least one text; an empty text is allowed.")
    for text in texts:
        if not isinstance(text, str):
            raise InputError(f"A prompt must be a text, and {text!r} is of type {type(text).__name__}.")
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise InputError(
                f"The prompt contains half a character at position {error.start}, probably an emoji that was cut in "
                "two. Delete it and type it again."
            ) from error
    return texts


def _motion_suffix(score: int | None) -> str:
    """What follows the prompt. None and 0 add nothing; 30 is strong, and LongSANA was trained with 10."""
    if score is None:
        return ""
    if isinstance(score, bool) or not isinstance(score, int) or score < 0:
        raise InputError(
            f"The motion score must be a whole number from 0 (say nothing about motion) upwards, and {score!r} was "
            "given. Usual values are 10 to 30."
        )
    return f" motion score: {score}." if score else ""


def load_text_encoder(
    path: str | Path,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
    instruction: str | None = None,
) -> TextEncoder:
    """A Gemma-2 from a local folder in Hugging Face layout; nothing is downloaded and no code of the folder is run.

    `path` is one folder with everything, or a diffusers pipeline (text_encoder/ beside tokenizer/), or the
    text_encoder/ in it. With or without the language head. dtype None keeps the weights as they are stored.
    `instruction` is the original wording if a host has it; otherwise it is looked for, in the yaml files of these
    folders and in an installed diffusers.
    """
    folder, tokenizer_folder = _find_folders(Path(path).absolute())
    _check_config(folder)
    tokenizer = _load_tokenizer(tokenizer_folder)
    model = _load_model(folder, dtype)
    if len(tokenizer) > model.config.vocab_size:
        raise FileError(
            f"The tokenizer in {tokenizer_folder} knows {len(tokenizer)} tokens, but the text encoder in {folder} "
            f"only {model.config.vocab_size}: they do not belong together. Take both from one download."
        )
    original = instruction or find_instruction(near=dict.fromkeys((folder, folder.parent, tokenizer_folder)))
    return TextEncoder(tokenizer, model.to(device), instruction=original)


def _find_folders(path: Path) -> tuple[Path, Path]:
    """The folder of the model and the folder of the tokenizer."""
    if path.is_file():
        raise FileError(
            f"{path} is a single file. The text encoder is loaded from a folder here: give the folder that holds "
            "Gemma-2's config.json, its tokenizer and its safetensors files."
        )
    if not path.is_dir():
        raise FileError(f"There is no folder {path}. {_WHERE}")
    inner = path / "text_encoder"
    folder = inner if inner.is_dir() and not (path / "config.json").is_file() else path
    if not (folder / "config.json").is_file():
        raise FileError(
            f"{folder} has no config.json, so it is not a text encoder in Hugging Face layout. {_WHERE}"
        )
    for candidate in (folder, folder.parent / "tokenizer"):
        if any((candidate / name).is_file() for name in ("tokenizer.json", "tokenizer.model")):
            return folder, candidate
    raise FileError(
        f"There is no tokenizer for the text encoder in {folder}: neither tokenizer.json nor tokenizer.model is in it "
        f"or in {folder.parent / 'tokenizer'}. Copy the tokenizer files of the same download there."
    )


def _check_config(folder: Path) -> None:
    path = folder / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise FileError(f"{path} cannot be read ({error}). Download it again.") from error
    kind = config.get("model_type") if isinstance(config, dict) else None
    if kind != "gemma2":
        raise FileError(
            f"SANA-Video reads text with Gemma-2 (model_type gemma2), but {path} says "
            f"{kind or 'nothing about its kind'}. {_WHERE}"
        )
    if not any(folder.glob("*.safetensors")):
        raise FileError(f"There are no weights in {folder}: no file there ends with .safetensors. {_WHERE}")


def _load_tokenizer(folder: Path):
    from transformers import AutoTokenizer  # seconds to import, so only when an encoder is really loaded

    try:
        return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # many kinds, all of them about this folder
        raise FileError(
            f"The tokenizer in {folder} cannot be read ({_first_line(error)}). Download its files again."
        ) from error


def _load_model(folder: Path, dtype: torch.dtype | None):
    """Gemma2Model on the CPU. A checkpoint with the language head loads too; the head is left out."""
    import transformers

    # "auto" is the dtype of the file. The argument's old name still works in transformers 5, with a warning.
    major = int(transformers.__version__.split(".")[0])
    options: dict[str, Any] = {"dtype" if major >= 5 else "torch_dtype": dtype or "auto"}
    try:
        model, info = transformers.Gemma2Model.from_pretrained(  # pyright: ignore[reportGeneralTypeIssues]  a pair, because of output_loading_info
            folder,
            local_files_only=True,
            use_safetensors=True,  # never a pickle
            attn_implementation="eager",  # the others may skip the soft-capping of the attention logits
            output_loading_info=True,
            **options,
        )
    except MemoryError:
        raise
    except Exception as error:  # many kinds, all of them about this folder
        raise FileError(
            f"The weights in {folder} cannot be read ({_first_line(error)}). A file is probably incomplete or "
            "missing; download it again."
        ) from error
    _check_loading_info(folder, info)
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
