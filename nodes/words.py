"""Makes a node show its warnings and errors on itself."""

from __future__ import annotations

from functools import wraps

from comfy_api.latest import io


def speaking(node: type[io.ComfyNode]) -> None:
    """Let what a node warns of, and the sentence of its error, be shown on it. Its bits stay the same.

    ComfyUI calls `execute` through a method that is final, so the node's own is wrapped.
    """
    execute = node.execute.__func__

    @wraps(execute)
    def told(cls, *args, **kwargs) -> io.NodeOutput:
        from ..bridge.words import on_node

        with on_node():
            return execute(cls, *args, **kwargs)

    node.execute = classmethod(told)
