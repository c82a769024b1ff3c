"""The page that shows the node which runs. Without one (a host that is no server, a script) nobody looks."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import latent_preview
from comfy_api import feature_flags
from comfy_execution.utils import get_executing_context
from PIL import Image
from protocol import BinaryEventTypes


def open_page() -> Any:
    """The server whose page asked for this run, or None."""
    # asked of the running process: a host that is no server hasn't imported it
    page = getattr(getattr(sys.modules.get("server"), "PromptServer", None), "instance", None)
    return page if page is not None and page.client_id is not None else None  # None: a prompt from a script


def drawn(node_id: str) -> str:
    """The node on the page: one that another node made, as loops do, runs under an id that no page knows."""
    graph = _graph()
    return graph.get_display_node_id(node_id) if graph else node_id


def _graph() -> Any:
    progress = sys.modules.get("comfy_execution.progress")  # only a host whose nodes expand has it
    return progress.get_progress_state().dynprompt if progress else None


def picture_sender() -> Callable[[Image.Image], None]:
    """What shows a picture on the node that runs now, from any thread: none knows by itself which that is.

    It passes ComfyUI's progress bar by, which would take an interrupt away from the thread that samples.
    """
    context, graph = get_executing_context(), _graph()
    if context is None:
        return lambda picture: None
    node_id = context.node_id
    about = {
        "node_id": node_id,
        "prompt_id": context.prompt_id,
        "display_node_id": drawn(node_id),
        "parent_node_id": graph.get_parent_node_id(node_id) if graph else None,
        "real_node_id": graph.get_real_node_id(node_id) if graph else node_id,
    }

    def send(picture: Image.Image) -> None:
        page = open_page()
        if page is None:
            return
        image, kinds = ("JPEG", picture, latent_preview.MAX_PREVIEW_RESOLUTION), BinaryEventTypes
        if feature_flags.supports_feature(page.sockets_metadata, page.client_id, "supports_preview_metadata"):
            page.send_sync(kinds.PREVIEW_IMAGE_WITH_METADATA, (image, dict(about)), page.client_id)
        else:
            page.send_sync(kinds.UNENCODED_PREVIEW_IMAGE, image, page.client_id)

    return send
