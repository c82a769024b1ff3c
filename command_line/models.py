"""A command's models, loaded one at a time so that small machines will do, and its encoded prompts."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import torch
from transformers.utils.logging import disable_progress_bar

from ..demo.model_set import demo_set
from ..sana_video_core.checkpoints.checkpoint import load_transformer
from ..sana_video_core.checkpoints.draft import load_vae_or_draft
from ..sana_video_core.checkpoints.said_family import check_family
from ..sana_video_core.config import Family
from ..sana_video_core.errors import InputError
from ..sana_video_core.files.places import is_folder
from ..sana_video_core.files.tensor_file import read_metadata
from ..sana_video_core.files.weight_names import SAFETENSORS_SUFFIXES
from ..sana_video_core.films.store import Store
from ..sana_video_core.films.texts import Reading, encoder_content, prompts_of
from ..sana_video_core.text.encoder import (
    TextEncoder,
    load_text_encoder,
    resolved_system_prompt,
    system_prompt_of,
)
from ..sana_video_core.text.prompt import Prompt, encode_prompt
from ..sana_video_core.text.system_prompt import find_system_prompt
from ..sana_video_core.transformer.compute import compute_tag
from ..sana_video_core.transformer.model import SanaVideo
from ..sana_video_core.transformer.model2 import SanaVideo2
from ..sana_video_core.vae.decoders import VideoDecoder
from ..sana_video_core.vae.tiny_decoder import TinyDecoder
from .files import TORCH_DTYPES


class Models(NamedTuple):
    """Paths of the three models; where and how the transformer computes, and where the VAE does."""

    transformer: Path
    text_encoder: Path
    vae: Path
    device: torch.device
    dtype: torch.dtype
    vae_device: torch.device


def choose_models(options: Namespace) -> Models:
    """The models of a command line: the demo set, one diffusers pipeline folder, or three paths."""
    if options.model is None:
        if options.text_encoder or options.vae:
            raise InputError(
                "--text-encoder and --vae were given without --model. "
                "Give all three, or none for the demo set."
            )
        demo = demo_set()
        paths = (demo.transformer, demo.text_encoder, demo.vae)
    else:
        whole = options.model if is_folder(options.model / "text_encoder") else None
        paths = (options.model, options.text_encoder or whole, options.vae or whole)
        if paths[1] is None:
            raise InputError(
                "--text-encoder is missing. "
                "Give the folder of Gemma-2-2B-it, or as --model a whole diffusers pipeline folder."
            )
    return Models(*paths, *_places(options))  # pyright: ignore[reportArgumentType]


def _places(options: Namespace) -> tuple[torch.device, torch.dtype, torch.device]:
    device = _device("--device", options.device)
    dtype = TORCH_DTYPES.get(options.dtype) or (torch.float32 if device.type == "cpu" else torch.bfloat16)
    return device, dtype, _device("--vae-device", options.vae_device) if options.vae_device else device


def _device(option: str, name: str) -> torch.device:
    """The device of this name, with its number. Raises InputError if it can't be used."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "meta":
        raise InputError(f"The device “meta” holds no numbers. Try {option} cpu.")
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        raise InputError(
            f"The device “{name}” cannot be used here ({str(error).splitlines()[0]}). Try {option} cpu."
        ) from error


def load_model(models: Models, options: Namespace) -> SanaVideo | SanaVideo2:
    """The transformer, on the CPU."""
    if options.family is not None:
        check_family(models.transformer, options.family)
    return load_transformer(
        models.transformer,
        config=options.config,
        family=options.family,
        dtype=models.dtype,
    )


def load_decoder(models: Models, options: Namespace, family: Family) -> VideoDecoder:
    """What decodes, on the CPU. It is loaded before the work, so that a wrong file is refused early."""
    wanted = family.vae
    if models.vae is None:
        raise InputError(f"--vae is missing. Give the {wanted.name} VAE ({wanted.files}).")
    dtype = torch.float32 if models.vae_device.type == "cpu" else models.dtype
    if dtype == torch.float16 and not wanted.means:
        dtype = torch.bfloat16  # LTX's values are too large for float16
    vae = load_vae_or_draft(models.vae, dtype=dtype)
    if vae.spec != wanted:
        draft = f"draft decoder {vae.kind}, of the " if isinstance(vae, TinyDecoder) else ""
        raise InputError(
            f"--vae is the {draft}{vae.spec.name} VAE, but the model is of the family {family.name}, "
            f"which needs the {wanted.name} VAE. Give {wanted.files}."
        )
    if isinstance(vae, TinyDecoder) and (options.image or options.video):
        raise InputError(
            f"--vae is the draft decoder {vae.kind}, which can't encode what --image or --video give. "
            f"Give the whole {wanted.name} VAE, or begin without a picture."
        )
    return vae


def _stored_system_prompt(path: Path) -> str | None:
    return read_metadata(path).get("instruction") if path.suffix.lower() in SAFETENSORS_SUFFIXES else None


def encode_prompts(
    models: Models, options: Namespace, texts: list[str], *, negative: bool = False
) -> list[Prompt]:
    """The prompts as the transformer reads them, on the CPU. The text encoder is freed afterwards."""
    encoder = _text_encoder(models, _original(models))
    asked = [(text, _asked(options), options.motion_score) for text in texts]
    if negative:
        asked.append((options.negative, False, None))
    return [
        _on_cpu(encode_prompt(encoder, text, system_prompt=before, motion_score=score))
        for text, before, score in asked
    ]


def prompts_through(store: Store, models: Models, options: Namespace, texts: Sequence[str]) -> list[Prompt]:
    """The prompts of a film, from its store. The text encoder is loaded if there is one it doesn't have."""
    original = _original(models)
    known = system_prompt_of(models.text_encoder, original)
    software = f"transformers {version('transformers')}"
    reading = Reading(
        encoder=encoder_content(models.text_encoder, store),
        compute=compute_tag(models.device, _text_dtype(models), software, "full"),
        system_prompt=resolved_system_prompt(_asked(options), known),
        motion_score=options.motion_score,
    )

    def encode(texts: list[str]) -> list[Prompt]:
        encoder, how = _text_encoder(models, original), {"motion_score": reading.motion_score}
        return [encode_prompt(encoder, text, system_prompt=reading.system_prompt, **how) for text in texts]

    return prompts_of(store, texts, reading, encode)


def _asked(options: Namespace) -> bool | str:
    return True if options.instruction is None else options.instruction


def _original(models: Models) -> str | None:
    """The original's system prompt, from the transformer's file or beside it."""
    stored = _stored_system_prompt(models.transformer)
    near = models.transformer if is_folder(models.transformer) else models.transformer.parent
    return find_system_prompt(near=[near], extra=[stored] if stored else [])


def _text_dtype(models: Models) -> torch.dtype:
    return torch.float32 if models.device.type == "cpu" else torch.bfloat16


def _text_encoder(models: Models, original: str | None) -> TextEncoder:
    disable_progress_bar()  # no bar for the files of one model
    dtype = _text_dtype(models)
    return load_text_encoder(models.text_encoder, device=models.device, dtype=dtype, system_prompt=original)


def _on_cpu(prompt: Prompt) -> Prompt:
    mask = prompt.mask
    return replace(prompt, embeddings=prompt.embeddings.cpu(), mask=None if mask is None else mask.cpu())
