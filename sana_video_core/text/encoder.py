"""Text to the embeddings that SANA-Video reads: Gemma-2-2B-it, last hidden state, 300 positions.

A system prompt is put before the prompt, Gemma reads both, and only the beginning-of-text token and the last
299 positions are kept. Gemma is causal, so these have seen everything.

Sources for the window and the motion score: NVlabs/Sana, inference_video_scripts/inference_sana_video.py, and
diffusers, pipelines/sana_video/pipeline_sana_video.py. diffusers also lower-cases prompts; the original
doesn't, and neither do we.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import FileError, InputError
from ..files.places import is_file
from ..files.tensor_file import read_json
from .advice import warn_of_unread
from .gemma_file import load_gemma_file
from .gemma_folder import folders_of, load_gemma_folder
from .prompt import motion_suffix, without_size
from .system_prompt import find_system_prompt

logger = logging.getLogger("sana_video")
STORED = "sana_instruction"  # of config.json: a system prompt of the encoder's own


@functools.cache  # one warning per process: a long video encodes many prompts
def _warn_no_system_prompt() -> None:
    logger.warning(
        "The system prompt that SANA-Video was trained to read before every prompt was not found, "
        "so your prompts will be followed less closely. "
        "To give it, put the model's original yaml file (it contains `chi_prompt`) in the folder "
        "of the model or the text encoder, or install diffusers, or pass your own text as the instruction."
    )


def resolved_system_prompt(asked: bool | str | None, known: str | None) -> str | None:
    """What is put before a prompt: True is the system prompt that is known, False or None is nothing."""
    if asked is True:
        if known is None:
            _warn_no_system_prompt()
        return known or None
    if asked is False or asked is None:
        return None
    if not isinstance(asked, str):
        raise InputError(f"The instruction must be on, off or a text, and {asked!r} is none of these.")
    return asked or None


class TextEncoder:
    """A tokenizer and a Gemma-2 without its head. Holds no state between calls.

    `system_prompt` is the original's, or None if it wasn't found (see `find_system_prompt`). It is "" for an
    encoder that reads prompts as they are.
    """

    def __init__(self, tokenizer: Any, model: Any, *, system_prompt: str | None = None) -> None:
        self.tokenizer = tokenizer
        self.model = model.eval()
        stored = getattr(model.config, STORED, None)  # ours only if it is text
        self.system_prompt = stored if isinstance(stored, str) else system_prompt
        self._bos = _special_id(tokenizer, model, "bos_token_id")
        self._pad = _special_id(tokenizer, model, "pad_token_id")

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        return next(self.model.parameters()).dtype

    def resolve_system_prompt(self, system_prompt: bool | str | None) -> str | None:
        """What `encode` puts before a prompt: True is the original's, False or None is nothing."""
        return resolved_system_prompt(system_prompt, self.system_prompt)

    @torch.no_grad()  # not inference_mode: the output may be used in training
    def encode(
        self,
        prompts: str | Sequence[str],
        *,
        system_prompt: bool | str | None = True,
        motion_score: int | None = None,
        max_tokens: int = 300,
    ) -> tuple[Tensor, Tensor]:
        """Prompts to (embeddings [B, L, D] in the model's dtype, mask [B, L] bool, True where there is text).

        L is max_tokens (the network's 300), D the encoder's width (2304). A negative prompt takes no system
        prompt: encode it with system_prompt=False. What is too long loses its end, the motion score first.
        """
        texts = _checked_prompts(prompts)
        suffix = motion_suffix(motion_score)
        if isinstance(max_tokens, bool) or not isinstance(max_tokens, int) or max_tokens < 1:
            raise InputError(
                f"max_tokens must be a whole number of at least 1, and {max_tokens!r} was given."
            )
        prefix = self.resolve_system_prompt(system_prompt) or ""
        total = max_tokens
        if prefix:
            # The system prompt ends with a space, which before a word becomes part of that word's token. So
            # minus one for it, and one for the beginning of text, which is kept separately: then the last
            # positions start exactly at the first word.
            total += len(self._token_ids(prefix)) - 2
        texts = [without_size(text) for text in texts]
        before = total - max_tokens  # tokens of the system prompt

        def count(text: str) -> int:
            return len(self._token_ids(prefix + text)) - before

        for text in texts:
            warn_of_unread(text, suffix, count, max_tokens)
        ids, mask = self._padded([prefix + text + suffix for text in texts], total)
        hidden = self.model(input_ids=ids, attention_mask=mask.long(), use_cache=False).last_hidden_state
        kept = torch.tensor([0, *range(total - max_tokens + 1, total)], device=ids.device)
        return hidden[:, kept], mask[:, kept]

    def _token_ids(self, text: str) -> list[int]:
        """Token ids of one text after a beginning-of-text token, whatever the tokenizer itself would add."""
        ids = self.tokenizer(text, add_special_tokens=False, padding=False, truncation=False, verbose=False)
        return [self._bos, *ids["input_ids"]]

    def _padded(self, texts: list[str], length: int) -> tuple[Tensor, Tensor]:
        """Token ids [B, length] and mask [B, length] bool, cut and padded on the right.

        The tokenizer doesn't do it because Gemma's pad on the left unless told otherwise.
        """
        ids = torch.full((len(texts), length), self._pad, dtype=torch.long)
        mask = torch.zeros(len(texts), length, dtype=torch.bool)
        for row, text in enumerate(texts):
            tokens = self._token_ids(text)[:length]
            ids[row, : len(tokens)] = torch.tensor(tokens)
            mask[row, : len(tokens)] = True
        return ids.to(self.device), mask.to(self.device)


def _special_id(tokenizer: Any, model: Any, name: str) -> int:
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
                f"The prompt contains half a character at position {error.start}, "
                "probably an emoji that was cut in two. Delete it and type it again."
            ) from error
    return texts


def system_prompt_of(path: str | Path, system_prompt: str | None = None) -> str | None:
    """The one that `load_text_encoder` would give its encoder, without loading it. Raises FileError."""
    path = Path(path).absolute()
    near = [path.parent] if is_file(path) else folders_of(path)
    stored = None if is_file(path) else (read_json(near[0] / "config.json") or {}).get(STORED)
    return stored if isinstance(stored, str) else system_prompt or find_system_prompt(near=near)


def load_text_encoder(
    path: str | Path,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
    system_prompt: str | None = None,
) -> TextEncoder:
    """A Gemma-2 from a local file or folder; nothing is downloaded and no code of the folder is run.

    `path` is a safetensors file with the tokenizer inside (ComfyUI's form), a complete folder in Hugging Face
    layout, a diffusers pipeline (text_encoder/ beside tokenizer/), or the text_encoder/ in it. The language
    head is optional. dtype None keeps the stored dtype. If there is no `system_prompt`, the original's is
    looked for in the yaml files of these folders and in an installed diffusers.
    """
    path = Path(path).absolute()
    if is_file(path):
        tokenizer, model = load_gemma_file(path, device=device, dtype=dtype)
        near = [path.parent]
    else:
        tokenizer, model, near = load_gemma_folder(path, dtype=dtype)
    system_prompt = system_prompt or find_system_prompt(near=near)
    return TextEncoder(tokenizer, model.to(device), system_prompt=system_prompt)
