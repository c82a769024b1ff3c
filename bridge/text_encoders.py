"""Text encoders: ours in a patcher, and ComfyUI's CLIP of the same kind. Imported when one is used."""

from __future__ import annotations

import importlib
import logging
from importlib.metadata import version
from pathlib import Path
from typing import Any

import comfy.model_management
import comfy.model_patcher
import comfy.sd
import torch
from torch import Tensor, nn

from ..sana_video_core.errors import InputError
from ..sana_video_core.files.places import is_folder
from ..sana_video_core.text.advice import warn_of_unread
from ..sana_video_core.text.encoder import TextEncoder, load_text_encoder
from ..sana_video_core.text.prompt import Prompt, embedding_digest, encode_prompt, motion_suffix
from ..sana_video_core.text.system_prompt import find_system_prompt
from .devices import intermediate_device

logger = logging.getLogger("sana_video")
PIXELDIT = "comfy.text_encoders.pixeldit"
TOKENS = 300
COMBINED, OTHER_TEXT = "combined text", "text of another node"  # in a history, where the words are unknown
# what nodes add to a CONDITIONING for ComfyUI's own sampling
PARTS = frozenset(("area", "mask", "start_percent", "end_percent", "control", "gligen", "hooks"))
MEMORY = 1 << 30  # for the activations of one prompt


class _Holder(nn.Module):
    """Takes the `device` that a patcher sets on its module; a transformers model refuses it."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model


class HostedTextEncoder:
    """Our text encoder, moved by ComfyUI."""

    software = f"transformers {version('transformers')}"

    def __init__(self, encoder: TextEncoder, path: Path | None = None) -> None:
        """`path` is where the encoder came from, if anybody knows."""
        management = comfy.model_management
        self.encoder, self.path = encoder, path
        self.patcher = comfy.model_patcher.ModelPatcher(
            _Holder(encoder.model),
            load_device=management.text_encoder_device(),
            offload_device=management.text_encoder_offload_device(),
        )

    @classmethod
    def load(cls, path: Path) -> HostedTextEncoder:
        dtype = comfy.model_management.text_encoder_dtype(comfy.model_management.text_encoder_device())
        if comfy.model_management.text_encoder_device().type == "cpu":
            dtype = None  # as stored: half precision is only slower there
        near = [path if is_folder(path) else path.parent]
        system_prompt = find_system_prompt(near=near, extra=filter(None, [_pixeldit("_PIXELDIT_CHI_PROMPT")]))
        return cls(load_text_encoder(path, dtype=dtype, system_prompt=system_prompt), path)

    @property
    def dtype(self) -> torch.dtype:
        return self.encoder.dtype

    def resolve_system_prompt(self, system_prompt: bool | str | None) -> str | None:
        return self.encoder.resolve_system_prompt(system_prompt)

    def encode(
        self, prompts: str, *, system_prompt: str | None, motion_score: int | None
    ) -> tuple[Tensor, Tensor]:
        # in full: transformers' layers cannot fetch offloaded weights
        comfy.model_management.load_models_gpu([self.patcher], memory_required=MEMORY, force_full_load=True)
        return self.encoder.encode(prompts, system_prompt=system_prompt, motion_score=motion_score)


class ClipTextEncoder:
    """ComfyUI's CLIP of type pixeldit: the same Gemma-2. Its own node would prefix negatives too."""

    def __init__(self, clip: Any) -> None:
        tokenizer = _pixeldit("PixelDiTGemma2Tokenizer")
        if tokenizer is None or not isinstance(clip.tokenizer, tokenizer):
            raise InputError(
                f"This CLIP was loaded for another model ({type(clip.tokenizer).__name__}). "
                "SANA-Video reads text with Gemma-2: "
                "choose the type pixeldit in Load CLIP, or use Load SANA-Video Text Encoder."
            )
        self.clip, self.patcher = clip, clip.patcher

    @property
    def path(self) -> Path | None:
        """The file that it was loaded from, if it is one and nothing has changed the CLIP since."""
        made = getattr(self.patcher, "cached_patcher_init", None)
        if self._changed or not made or made[0].__name__ != "load_clip_model_patcher" or len(made[1][0]) != 1:
            return None
        return Path(made[1][0][0])

    @property
    def _changed(self) -> bool:
        patcher = self.patcher
        objects = patcher.object_patches.keys() - {"manual_cast_dtype"}  # which every CLIP has
        return bool(patcher.patches or patcher.hook_patches or objects or self.clip.layer_idx is not None)

    @property
    def software(self) -> str:
        attention = importlib.import_module("comfy.ldm.modules.attention").optimized_attention
        return f"ComfyUI {importlib.import_module('comfyui_version').__version__}, {attention.__name__}"

    @property
    def dtype(self) -> torch.dtype:
        return next(self.clip.cond_stage_model.parameters()).dtype

    def resolve_system_prompt(self, system_prompt: bool | str | None) -> str | None:
        if system_prompt is True:
            return find_system_prompt(extra=[_pixeldit("_PIXELDIT_CHI_PROMPT")])
        return system_prompt or None

    def encode(
        self, prompts: str, *, system_prompt: str | None, motion_score: int | None
    ) -> tuple[Tensor, Tensor]:
        gemma = self.clip.tokenizer.gemma2_2b
        # minus the space that joins the first word and the beginning of text, as in TextEncoder.encode
        length = TOKENS + (len(gemma.tokenizer(system_prompt)["input_ids"]) - 2 if system_prompt else 0)
        before, text, suffix = system_prompt or "", prompts.strip(), motion_suffix(motion_score)

        def count(text: str) -> int:
            return len(gemma.tokenizer(before + text)["input_ids"]) - (length - TOKENS)

        warn_of_unread(text, suffix, count, TOKENS)
        whole = before + text + suffix
        row = gemma.tokenize_with_weights(whole, disable_weights=True, min_length=length)[0][:length]
        ((embeddings, extra),) = self.clip.encode_from_tokens_scheduled({"gemma2_2b": [row]})
        return embeddings, extra["attention_mask"]


def encode(encoder: Any, text: str, motion_score: int, instruction: bool) -> list[Any]:
    """A prompt as CONDITIONING: embeddings [1, 300, D] float32, mask [1, 300] int64, text and digests."""
    prompt = encode_prompt(encoder_of(encoder), text, system_prompt=instruction, motion_score=motion_score)
    if instruction and not prompt.text:
        logger.warning("The prompt is empty, so the model chooses what to show. Write what the video shows.")
    assert prompt.mask is not None, "an encoder always returns a mask"
    embeddings, mask = prompt.embeddings.float(), prompt.mask.long()
    extra = {
        "attention_mask": mask.to(intermediate_device()),
        "pooled_output": None,
        "sana_words": prompt.text,
        "sana_digest": prompt.digest,
        "sana_embedding": embedding_digest(embeddings, mask),
    }
    return [[embeddings.to(intermediate_device()), extra]]


def encoder_of(value: Any) -> HostedTextEncoder | ClipTextEncoder:
    """The encoder behind a socket that takes ours or ComfyUI's."""
    if isinstance(value, HostedTextEncoder):
        return value
    if isinstance(value, comfy.sd.CLIP):
        return ClipTextEncoder(value)
    raise InputError(
        f"A {type(value).__name__} was connected as text encoder; "
        "connect Load SANA-Video Text Encoder or Load CLIP."
    )


def _pixeldit(name: str) -> Any:
    """A name in ComfyUI's PixelDiT text encoder, or None if it has none."""
    try:
        return getattr(importlib.import_module(PIXELDIT), name, None)
    except ImportError:
        return None


def prompt_of(conditioning: list[Any]) -> Prompt:
    """A CONDITIONING as a prompt of the core. Raises InputError unless it is one entry."""
    if len(conditioning) != 1:
        raise InputError(
            f"This CONDITIONING has {len(conditioning)} entries; SANA-Video follows one prompt at a time. "
            "Connect one text encode node. In a stream, chain block samplers for more prompts."
        )
    embeddings, extra = conditioning[0]
    mask = extra.get("attention_mask")
    if mask is not None and mask.shape != embeddings.shape[:2]:
        mask = None  # the text was concatenated: read all of it
    digest, text = embedding_digest(embeddings, mask), COMBINED if "sana_words" in extra else OTHER_TEXT
    if extra.get("sana_embedding") == digest:  # nodes that change a text copy our entries with it
        digest, text = extra["sana_digest"], extra["sana_words"]
    if ignored := sorted(PARTS & extra.keys()):
        logger.warning(
            "SANA-Video follows its prompt in the whole picture and in every step: %s of this CONDITIONING "
            "does nothing.",
            " and ".join(ignored),
        )
    return Prompt(embeddings=embeddings, mask=mask, digest=digest, text=text)
