"""The way from a node to the page."""

from typing import Any


class PromptServer:
    # set by whoever runs prompts; it has client_id and send_progress_text(text, node_id, sid)
    instance: Any = None
