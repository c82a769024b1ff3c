"""The queue behind the page: runs one prompt at a time in a thread, and reports it in ComfyUI's messages."""

from __future__ import annotations

import io
import json
import struct
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from comfy import model_management
from PIL import Image, ImageOps

from ...sana_video_core.errors import Cancelled, SanaVideoError
from ..engine.executor import Executor
from ..engine.graph import Prompt, is_link

Message = dict[str, Any] | bytes
KEPT = 100  # finished jobs that the page can still ask for
FOLLOWED = 200  # nodes in one progress_state; each of thousands would be sent again with every step
# ComfyUI's binary messages: a text on a node, and a picture that says which node it belongs to
WORDS, PREVIEW_IMAGE = 3, 4


@dataclass
class Job:
    id: str
    number: float
    prompt: Prompt
    extra: dict[str, Any]  # what is saved with a result: extra_pnginfo
    client: str | None
    previews: str | None = None  # by which method, as the page's settings say
    status: str = "pending"  # in_progress, completed, failed, cancelled: the words of /api/jobs
    stopped: bool = False
    # of create, execution_start, execution_end; milliseconds
    times: dict[str, int] = field(default_factory=dict)
    outputs: dict[str, Any] = field(default_factory=dict)
    error: dict[str, Any] | None = None
    nodes: dict[str, Any] = field(default_factory=dict)  # progress, by node
    words: dict[str, bytes] = field(default_factory=dict)  # the message with what a node says, by node
    node: str | None = None  # the one that runs
    messages: list[dict[str, Any]] = field(default_factory=list)  # for a page that was away

    def summary(self) -> dict[str, Any]:
        """As /api/jobs lists it."""
        files = [
            {**file, "nodeId": node, "mediaType": kind}
            for node, output in self.outputs.items()
            for kind, entries in output.items()
            for file in entries
            if isinstance(file, dict)
        ]
        saved = [file for file in files if file["type"] == "output"]
        drawn = (self.extra.get("workflow") or {}).get("id")
        summary = {
            "id": self.id,
            "status": self.status,
            "priority": self.number,
            "outputs_count": len(files),
            "preview_output": next(iter([*saved, *files]), None),
            "workflow_id": drawn if isinstance(drawn, str) else None,
            "execution_error": self.error,
            **{f"{name}_time": moment for name, moment in self.times.items()},
        }
        return {name: value for name, value in summary.items() if value is not None}

    def whole(self) -> dict[str, Any]:
        """As /api/jobs/ID describes it."""
        workflow = {"prompt": self.prompt, "extra_data": {"extra_pnginfo": self.extra}}
        return {**self.summary(), "outputs": self.outputs, "workflow": workflow}


def needed(prompt: Prompt, targets: list[str]) -> Prompt:
    """The part of a prompt that these nodes need: a node's play button runs only that."""
    names = [name for name in targets if name in prompt]
    for name in names:  # grows during the loop
        links = [value[0] for value in prompt[name]["inputs"].values() if is_link(value)]
        names += [link for link in dict.fromkeys(links) if link not in names and link in prompt]
    return {name: node for name, node in prompt.items() if name in names}


class Jobs:
    """`send(client or None for all, message)` is called from the thread that runs prompts."""

    def __init__(self, classes: dict[str, Any], send: Callable[[str | None, Message], object]) -> None:
        self._send, self._changed = send, threading.Condition()
        self._executor = Executor(classes, self._hear)
        self._jobs: dict[str, Job] = {}
        self._running: Job | None = None
        self._closed = False
        self._thread = threading.Thread(target=self._work, name="prompts", daemon=True)
        self._thread.start()

    # ------------------------------------------------------------ asked by the page

    def add(self, job: Job) -> None:
        job.times["create"] = _now()
        with self._changed:
            self._jobs[job.id] = job
            self._changed.notify()
        self._tell_queue()

    def listed(self) -> list[Job]:
        """Newest first."""
        with self._changed:
            return list(self._jobs.values())[::-1]

    def find(self, job_id: str) -> Job | None:
        return self._jobs.get(job_id)

    def last_of(self, client: str) -> Job | None:
        """The job of this page that ran last."""
        begun = [job for job in self.listed() if job.client == client and job.messages]
        return max(begun, key=lambda job: job.times["execution_start"], default=None)

    def remaining(self) -> int:
        return sum(job.status in ("pending", "in_progress") for job in self.listed())

    def stop(self, job_id: str | None = None) -> bool:
        """Stop the running job (or only if it is this one), or remove one from the queue.

        Returns whether there was one.
        """
        with self._changed:
            job = self._running if job_id is None else self._jobs.get(job_id)
            if job is None or job.status not in ("pending", "in_progress"):
                return False
            job.stopped = True
            if job is self._running:
                model_management.interrupt_current_processing()
            else:
                del self._jobs[job.id]
        self._tell_queue()
        return True

    def forget(self, job_ids: list[str] | None, *statuses: str) -> None:
        """Remove jobs of these statuses from the list; None removes all of them."""
        with self._changed:
            for job in list(self._jobs.values()):
                if job.status in statuses and (job_ids is None or job.id in job_ids):
                    del self._jobs[job.id]
        self._tell_queue()

    def close(self, seconds: float = 10) -> None:
        """Stop the running job and wait for its end."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self.stop()
        self._thread.join(seconds)

    # ------------------------------------------------------------ the thread

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._closed or self._waiting())
                if self._closed:
                    return
                job = self._running = min(self._waiting(), key=lambda job: job.number)
                job.status = "in_progress"
            try:
                self._run(job)
            finally:
                with self._changed:
                    self._running = None
                    finished = [job for job in self._jobs.values() if "execution_end" in job.times]
                    for old in finished[:-KEPT]:
                        del self._jobs[old.id]
                self._tell_queue()

    def _waiting(self) -> list[Job]:
        return [job for job in self._jobs.values() if job.status == "pending"]

    def _run(self, job: Job) -> None:
        job.times["execution_start"] = _now()
        try:
            self._executor.run(job.prompt, job.extra, job.previews)
            ending, data = "execution_success", {}
        except Cancelled:
            ending, data = "execution_interrupted", _of(job)
        except Exception as error:  # a mistake of a node must not end the queue; the page shows it
            shown = error.__cause__ or error
            words = str(shown) or type(shown).__name__
            if not isinstance(error, SanaVideoError):
                words = f"{type(error).__name__}: {error}"
            details = {"exception_message": words, "exception_type": type(shown).__name__}
            details |= {
                "traceback": traceback.format_exception(shown),
                "current_inputs": {},
                "current_outputs": [],
            }
            ending, data = "execution_error", _of(job) | details
            job.error = {**data, "prompt_id": job.id, "timestamp": _now()}
        statuses = {"execution_success": "completed", "execution_interrupted": "cancelled"}
        job.times["execution_end"], job.status = _now(), statuses.get(ending, "failed")
        self._tell(job, ending, data | {"timestamp": _now()})
        if ending == "execution_success":
            self._tell(job, "executing", {"node": None})

    def _hear(self, event: str, data: dict[str, Any]) -> None:
        """Sends the executor's events as ComfyUI's messages."""
        job, node = self._running, data.get("node", "")
        if job is None:
            return
        if event == "started":
            self._tell(job, "execution_start", {"timestamp": _now()})
            if job.stopped:  # before the executor cleared the last interrupt
                model_management.interrupt_current_processing()
        elif event == "cached":
            self._tell(job, "execution_cached", data | {"timestamp": _now()})
        elif event == "executing":
            self._advance(job, node, 0, 1)
            self._tell(job, "executing", {"node": node, "display_node": node})
        elif event == "progress":
            self._advance(job, node, data["value"], data["max"])
            self._tell(job, "progress", {name: data[name] for name in ("node", "value", "max")})
            if data["preview"] is not None:
                self._send(job.client, _picture(job, node, *data["preview"]))
        elif event == "picture":  # from a thread of the node's own
            self._send(job.client, _picture(job, node, *data["preview"]))
        elif event == "words":
            name = node.encode()
            job.words[node] = struct.pack(">II", WORDS, len(name)) + name + data["text"].encode()
            self._send(job.client, job.words[node])
        elif event == "executed":
            job.outputs[node] = data["output"]
            self._tell(job, "executed", {"node": node, "display_node": node, "output": data["output"]})

    def _advance(self, job: Job, node: str, value: float, most: float) -> None:
        for before in job.nodes.values():
            if before["node_id"] != node:
                before.update(state="finished", value=before["max"])
        job.node = node
        job.nodes[node] = {
            "value": value,
            "max": most,
            "state": "running",
            "prompt_id": job.id,
            **_names(node),
        }
        for old in list(job.nodes)[:-FOLLOWED]:
            del job.nodes[old]
        self._tell(job, "progress_state", {"nodes": job.nodes})

    def _tell(self, job: Job, kind: str, data: dict[str, Any]) -> None:
        # a deep copy: it is sent later, by another thread
        message = {"type": kind, "data": json.loads(json.dumps({**data, "prompt_id": job.id}))}
        if kind not in ("progress", "progress_state", "executing") or data.get("node", 0) is None:
            job.messages.append(message)
        self._send(job.client, message)

    def _tell_queue(self) -> None:
        self._send(None, {"type": "status", "data": {"status": self.status()}})

    def status(self) -> dict[str, Any]:
        return {"exec_info": {"queue_remaining": self.remaining()}}


def is_picture(message: Message) -> bool:
    """Whether it is a live preview, which may get lost."""
    return isinstance(message, bytes) and struct.unpack_from(">I", message) == (PREVIEW_IMAGE,)


def missed_messages(job: Job) -> list[Message]:
    """The messages for a page that was away while `job` ran: all but the progress in between."""
    messages: list[Message] = list(job.messages)
    if job.status == "in_progress":
        messages += [
            {"type": "progress_state", "data": {"nodes": job.nodes, "prompt_id": job.id}},
            {"type": "executing", "data": {"node": job.node, "display_node": job.node, "prompt_id": job.id}},
        ]
    return [*messages, *job.words.values()]  # the page takes a node's words away when it begins to run


def _names(node: str) -> dict[str, Any]:
    return {"node_id": node, "display_node_id": node, "parent_node_id": None, "real_node_id": node}


def _of(job: Job) -> dict[str, Any]:
    kind = job.prompt[job.node]["class_type"] if job.node in job.prompt else None
    return {"node_id": job.node, "node_type": kind, "executed": list(job.outputs)}


def _now() -> int:
    return int(time.time() * 1000)


def _picture(job: Job, node: str, kind: str, image: Image.Image, most: int) -> bytes:
    """A node's live preview: two numbers, JSON of that length, and the picture, enlarged to `most` pixels."""
    file = io.BytesIO()
    ImageOps.contain(image, (most, most), Image.Resampling.BILINEAR).save(file, format=kind, quality=90)
    about = {**_names(node), "prompt_id": job.id, "image_type": f"image/{kind.lower()}"}
    text = json.dumps(about).encode()
    return struct.pack(">II", PREVIEW_IMAGE, len(text)) + text + file.getvalue()
