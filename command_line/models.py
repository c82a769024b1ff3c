"""Which models a command uses, and the prompts encoded by them: one model at a time, so that small machines do."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path
from typing import NamedTuple

import torch
from transformers.utils.logging import disable_progress_bar

from ..demo.model_set import demo_set
from ..sana_video_core.checkpoints.checkpoint import load_transformer
from ..sana_video_core.errors import InputError
from ..sana_video_core.files.tensor_file import read_metadata
from ..sana_video_core.streaming.stream import Prompt
from ..sana_video_core.text.encoder import load_text_encoder, prompt_digest
from ..sana_video_core.text.system_prompt import find_instruction
from ..sana_video_core.transformer.model import SanaVideo
from .files import DTYPES


class Models(NamedTuple):
    """Paths of the three models, and where and how the transformer computes."""

    transformer: Path
    text_encoder: Path
    vae: Path
    device: torch.device
    dtype: torch.dtype


def choose_models(options: Namespace) -> Models:
    """The models of a command line: the demo set, one diffusers pipeline folder, or three paths."""
    if options.model is None:
        if options.text_encoder or options.vae:
            raise InputError(
                "--text-encoder and --vae were given without --model. Give all three, or none for the demo set."
            )
        demo = demo_set()
        paths = (demo.transformer, demo.text_encoder, demo.vae)
    else:
        whole = options.model if (options.model / "text_encoder").is_dir() else None
        paths = (options.model, options.text_encoder or whole, options.vae or whole)
        if paths[1] is None:
            raise InputError(
                "--text-encoder is missing. Give the folder of Gemma-2-2B-it, or as --model a whole diffusers pipeline folder."
            )
    return Models(*paths, *_place(options))  # pyright: ignore[reportArgumentType]


def _place(options: Namespace) -> tuple[torch.device, torch.dtype]:
    name = options.device
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "meta":
        raise InputError("The device “meta” holds no numbers. Try --device cpu.")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise InputError(
            f"The device “{name}” cannot be used here ({str(error).splitlines()[0]}). Try --device cpu."
        ) from error
    dtype = DTYPES.get(options.dtype) or (torch.float32 if device.type == "cpu" else torch.bfloat16)
    return device, dtype


def load_model(models: Models, options: Namespace) -> SanaVideo:
    """The transformer, on the CPU."""
    return load_transformer(
        models.transformer,
        config=options.config,
        family=options.family,
        dtype=models.dtype,
    )


def _stored_instruction(path: Path) -> str | None:
    return read_metadata(path).get("instruction") if path.suffix == ".safetensors" else None


def encode_prompts(
    models: Models, options: Namespace, texts: list[str], *, negative: bool = False
) -> list[Prompt]:
    """The prompts as the transformer reads them, on the CPU; the text encoder is let go afterwards."""
    stored = _stored_instruction(models.transformer)
    near = models.transformer if models.transformer.is_dir() else models.transformer.parent
    original = find_instruction(near=[near], extra=[stored] if stored else [])
    dtype = torch.float32 if models.device.type == "cpu" else torch.bfloat16
    disable_progress_bar()  # a bar for the files of one model says nothing to a person
    encoder = load_text_encoder(models.text_encoder, device=models.device, dtype=dtype, instruction=original)
    wanted = options.instruction if options.instruction is not None else True
    prompts = []
    for text, positive in [(text, True) for text in texts] + (
        [(options.negative, False)] if negative else []
    ):
        instruction = wanted if positive else False
        score = options.motion_score if positive else None
        embeddings, mask = encoder.encode(text, instruction=instruction, motion_score=score)
        used = encoder.resolve_instruction(instruction)
        digest = prompt_digest(text, instruction=used, motion_score=score)
        prompts.append(
            Prompt(embeddings=embeddings.cpu(), mask=mask.cpu(), digest=digest, words=text.strip())
        )
    return prompts
