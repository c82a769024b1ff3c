"""Prompts of a film, from its store: the encoder works only for those that it doesn't have."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from ..sana_video_core.errors import FileError
from ..sana_video_core.films.contents import content_of
from ..sana_video_core.films.store import Store
from ..sana_video_core.films.texts import Reading, prompts_of
from ..sana_video_core.text.prompt import Prompt, encode_prompt
from ..sana_video_core.transformer.compute import compute_tag
from .progress import interrupted
from .text_encoders import ClipTextEncoder, HostedTextEncoder, encoder_of

logger = logging.getLogger("sana_video")


def prompts_through(
    store: Store | None, encoder: Any, texts: Sequence[str], *, motion_score: int | None, instruction: bool
) -> list[Prompt]:
    """Texts as prompts. `encoder` is ours or ComfyUI's CLIP; without a store it reads them all."""
    host = encoder_of(encoder)
    reading = Reading(
        encoder=_content(host, store),
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


def _content(host: HostedTextEncoder | ClipTextEncoder, store: Store | None) -> str | None:
    """Of the encoder's file or folder, if that is known and can still be read."""
    if store is None or (path := host.path) is None:
        return None
    try:
        return content_of(path, store, _may_stop)
    except FileError as error:
        logger.warning("%s Prompts are encoded again each time.", error)
        return None
