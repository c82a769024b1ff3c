"""Which node of which prompt runs."""

from contextvars import ContextVar
from typing import NamedTuple


class ExecutionContext(NamedTuple):
    prompt_id: str
    node_id: str
    list_index: int | None


current_executing_context: ContextVar[ExecutionContext | None] = ContextVar("executing", default=None)


def get_executing_context():
    return current_executing_context.get()


class CurrentNodeContext:
    """Inside the block, this node runs."""

    def __init__(self, prompt_id, node_id, list_index=None):
        self.context = ExecutionContext(prompt_id, node_id, list_index)

    def __enter__(self):
        self._token = current_executing_context.set(self.context)
        return self

    def __exit__(self, *error):
        current_executing_context.reset(self._token)
