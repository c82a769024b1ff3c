"""Prompts of a film, from its store: the encoder works only for those that it doesn't have."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..sana_video_core.films.store import Store
from ..sana_video_core.films.texts import Reading, encoder_content, prompts_of
from ..sana_video_core.text.prompt import Prompt, encode_prompt
from ..sana_video_core.transformer.compute import compute_tag
from .progress import interrupted
from .text_encoders import encoder_of


def prompts_through(
    store: Store | None, encoder: Any, texts: Sequence[str], *, motion_score: int | None, instruction: bool
) -> list[Prompt]:
    """Texts as prompts. `encoder` is ours or ComfyUI's CLIP; without a store it reads them all."""
    host = encoder_of(encoder)
    reading = Reading(
        encoder=encoder_content(host.path, store, _may_stop) if store and host.path else None,
        compute=compute_tag(host.patcher.load_device, host.dtype, host.software, "full"),
        system_prompt=host.resolve_system_prompt(instruction),
        motion_score=motion_score,
    )

    def encode(texts: list[str]) -> list[Prompt]:
        how = {"system_prompt": reading.system_prompt, "motion_score": motion_score}
        return [encode_prompt(host, text, **how) for text in texts]

    return prompts_of(store, texts, reading, encode)


def _may_stop(done: int, total: int) -> None:
    """A large file is read for seconds."""
    interrupted()
