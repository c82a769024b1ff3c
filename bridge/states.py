"""What Save State writes of a stream: everything, or its history alone."""

from __future__ import annotations

import json
import logging

from ..sana_video_core.config import STATE_PARTS, check_choice
from ..sana_video_core.streaming.rebuild import memory_names
from ..sana_video_core.streaming.report import bytes_of_history
from ..sana_video_core.streaming.state import LightState, State, StreamState
from ..sana_video_core.streaming.state_file import check_light
from .sampling import MEMORIES

logger = logging.getLogger("sana_video")


def state_to_save(state: State, what: str) -> State:
    """The state with its memory, or without; `save_state` refuses what could not be made again."""
    check_choice("what", what, STATE_PARTS)
    if what == STATE_PARTS[0]:
        return _whole(state) if isinstance(state, LightState) else state
    # at the start of a scene there is no memory to leave out
    return state.light() if isinstance(state, StreamState) and state.position else state


def _whole(state: LightState) -> State:
    """With its memory, if somebody has gone on from it in this process; here is no model to make it."""
    known = MEMORIES.get(memory_names(state)[-1])
    if known is None:
        check_light(state)
        logger.warning(
            "This state came without its memory, and Save State has no model to make it again, so only the "
            "history was saved. A Block Sampler continues from that to the same bits. To save everything, "
            "run a Block Sampler behind this state first, then save it again."
        )
        return state
    return StreamState(
        identity=state.identity,
        history=state.history,
        scene=state.scene,
        memory=known.after,
        memory_before=known.before,
    )


def opened_by_the_page(name: str) -> str:
    """A workflow in the page's JSON: Load State with this name, and what the state holds."""
    state = {"name": "state", "type": "SANA_STATE"}
    load = {"id": 1, "type": "SanaVideoLoadState", "pos": [0, 0], "size": [420, 60], "widgets_values": [name]}
    info = {"id": 2, "type": "SanaVideoStateInfo", "pos": [480, 0], "size": [330, 420]}
    nodes = [load | {"outputs": [state | {"links": [1]}]}, info | {"inputs": [state | {"link": 1}]}]
    links = [[1, 1, 0, 2, 0, state["type"]]]
    return json.dumps({"last_node_id": 2, "last_link_id": 1, "nodes": nodes, "links": links, "version": 0.4})


def saved_line(name: str, saved: State, size: int) -> str:
    """What was saved under this name, in `size` bytes; and what the history alone would take."""
    whole = isinstance(saved, StreamState) and saved.bytes
    what = STATE_PARTS[0] if whole else STATE_PARTS[1]
    line = f"Saved {name}: {what}, {saved.frames} frames, {size / 2**20:.1f} MiB."
    return f"{line} The history only takes {bytes_of_history(saved) / 2**20:.1f} MiB." if whole else line
