"""ComfyUI's progress bar, previews and interrupts as the core's callbacks."""

from __future__ import annotations

from typing import Any

import comfy.model_management
import comfy.utils
import latent_preview

from ..sana_video_core.callbacks import Callbacks, Progress


def interrupted() -> bool:
    """Raises if the artist has stopped the run; never returns True."""
    comfy.model_management.throw_exception_if_processing_interrupted()  # ComfyUI's own exception ends the run
    return False


def callbacks(chunks: int, steps: int, patcher: Any = None) -> Callbacks:
    """One progress bar over `chunks` x `steps`; with a MODEL, previews of the newest latent frame."""
    bar = comfy.utils.ProgressBar(chunks * steps)
    previewer = patcher and latent_preview.get_previewer(patcher.load_device, patcher.model.latent_format)

    def progress(news: Progress) -> None:
        if news.chunk == 0:  # recache, before the first chunk
            return
        preview = None
        if previewer and news.latents is not None:
            preview = previewer.decode_latent_to_preview_image("JPEG", news.latents[:, :, -1:])
        done = (news.chunk - 1) * steps + news.step * steps // news.steps
        bar.update_absolute(done, chunks * steps, preview)

    return Callbacks(cancelled=interrupted, progress=progress)
