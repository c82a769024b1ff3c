"""Text encoders: ours in a patcher, and ComfyUI's CLIP of the same kind. Imported when one is used."""

from __future__ import annotations

import importlib
import logging
from pathlib import Path
from typing import Any, NamedTuple

import comfy.model_management
import comfy.model_patcher
import comfy.sd
from torch import Tensor, nn

from ..sana_video_core.errors import InputError
from ..sana_video_core.streaming.stream import Prompt
from ..sana_video_core.text.encoder import (
    TextEncoder,
    embedding_digest,
    load_text_encoder,
    motion_suffix,
    prompt_digest,
)
from ..sana_video_core.text.system_prompt import find_instruction
from .stream_model import parking_place

logger = logging.getLogger("sana_video")
PIXELDIT = "comfy.text_encoders.pixeldit"
TOKENS = 300
MEMORY = 1 << 30  # for the activations of one prompt


class _Holder(nn.Module):
    """A patcher sets `device` on its module, which a transformers model does not allow."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model


class Encoded(NamedTuple):
    embeddings: Tensor  # [1, 300, D] float32
    mask: Tensor  # [1, 300] int64, 1 where there is text
    digest: str


class HostedTextEncoder:
    """Our text encoder, moved by ComfyUI."""

    def __init__(self, encoder: TextEncoder) -> None:
        management = comfy.model_management
        self.encoder = encoder
        self.patcher = comfy.model_patcher.ModelPatcher(
            _Holder(encoder.model),
            load_device=management.text_encoder_device(),
            offload_device=management.text_encoder_offload_device(),
        )

    @classmethod
    def load(cls, path: Path) -> HostedTextEncoder:
        dtype = comfy.model_management.text_encoder_dtype(comfy.model_management.text_encoder_device())
        if comfy.model_management.text_encoder_device().type == "cpu":
            dtype = None  # as stored: half precision is slow there, and gains nothing
        near = [path if path.is_dir() else path.parent]
        wording = find_instruction(near=near, extra=filter(None, [_pixeldit("_PIXELDIT_CHI_PROMPT")]))
        return cls(load_text_encoder(path, dtype=dtype, instruction=wording))

    def encode(self, text: str, instruction: bool, motion_score: int) -> Encoded:
        # whole: transformers' layers cannot fetch a part that stayed behind
        comfy.model_management.load_models_gpu([self.patcher], memory_required=MEMORY, force_full_load=True)
        used = self.encoder.resolve_instruction(instruction)
        embeddings, mask = self.encoder.encode(text, instruction=used, motion_score=motion_score)
        return Encoded(embeddings.float(), mask.long(), _digest(text, used, motion_score))


class ClipTextEncoder:
    """ComfyUI's CLIP of type pixeldit: the same Gemma-2. Its own node puts the instruction before negatives, too."""

    def __init__(self, clip: Any) -> None:
        tokenizer = _pixeldit("PixelDiTGemma2Tokenizer")
        if tokenizer is None or not isinstance(clip.tokenizer, tokenizer):
            raise InputError(
                f"This CLIP was loaded for another model ({type(clip.tokenizer).__name__}). SANA-Video reads text with Gemma-2: "
                "choose the type pixeldit in Load CLIP, or use Load SANA-Video Text Encoder."
            )
        self.clip = clip

    def encode(self, text: str, instruction: bool, motion_score: int) -> Encoded:
        used = find_instruction(extra=[_pixeldit("_PIXELDIT_CHI_PROMPT")]) if instruction else None
        gemma = self.clip.tokenizer.gemma2_2b
        # as in TextEncoder.encode: one token of the instruction melts into the first word, one is the beginning of text
        length = TOKENS + (len(gemma.tokenizer(used)["input_ids"]) - 2 if used else 0)
        whole = (used or "") + text.strip() + motion_suffix(motion_score)
        row = gemma.tokenize_with_weights(whole, disable_weights=True, min_length=length)[0][:length]
        ((embeddings, told),) = self.clip.encode_from_tokens_scheduled({"gemma2_2b": [row]})
        return Encoded(embeddings.float(), told["attention_mask"].long(), _digest(text, used, motion_score))


def encode(encoder: Any, text: str, motion_score: int, instruction: bool) -> list[Any]:
    """A prompt as CONDITIONING: embeddings, mask, words and digest."""
    if not text.strip() and instruction:
        logger.warning("The prompt is empty, so the model chooses what to show. Write what the video shows.")
        instruction = False  # as ComfyUI's own encoder does: an instruction without a prompt says nothing
    found = encoder_of(encoder).encode(text, instruction, motion_score)
    told = {"attention_mask": found.mask.to(parking_place()), "pooled_output": None}
    told |= {"sana_words": text.strip(), "sana_digest": found.digest}
    told["sana_embedding"] = embedding_digest(found.embeddings, found.mask)
    return [[found.embeddings.to(parking_place()), told]]


def encoder_of(value: Any) -> HostedTextEncoder | ClipTextEncoder:
    """The encoder behind a socket that takes ours or ComfyUI's."""
    if isinstance(value, HostedTextEncoder):
        return value
    if isinstance(value, comfy.sd.CLIP):
        return ClipTextEncoder(value)
    raise InputError(
        f"A {type(value).__name__} was connected as text encoder; connect Load SANA-Video Text Encoder or Load CLIP."
    )


def _digest(text: str, used: str | None, motion_score: int) -> str:
    return prompt_digest(text, instruction=used, motion_score=motion_score)


def _pixeldit(name: str) -> Any:
    """A name of ComfyUI's PixelDiT text encoder, or None where this ComfyUI has none (its wording is read, not copied)."""
    try:
        return getattr(importlib.import_module(PIXELDIT), name, None)
    except ImportError:
        return None


def prompt_of(conditioning: list[Any]) -> Prompt:
    """A CONDITIONING as a prompt of the core. Raises InputError unless it is one entry."""
    if len(conditioning) != 1:
        raise InputError(
            f"This CONDITIONING has {len(conditioning)} entries; a stream follows one prompt at a time. Connect one text "
            "encode node, and chain block samplers for more prompts."
        )
    embeddings, told = conditioning[0]
    mask = told.get("attention_mask")
    if mask is not None and mask.shape != embeddings.shape[:2]:
        mask = None  # the text was concatenated: read all of it
    digest, words = embedding_digest(embeddings, mask), ""
    if told.get("sana_embedding") == digest:  # nodes that change a text copy our words along with it
        digest, words = told["sana_digest"], told["sana_words"]
    return Prompt(embeddings=embeddings, mask=mask, digest=digest, words=words)
