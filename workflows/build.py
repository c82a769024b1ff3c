"""Draws the workflow files, and also writes each as a prompt under api/.

    python -m comfyui_sana_video.workflows.build

Widgets and sockets come from the node classes, those of ComfyUI's own nodes from a table in standalone/. So
after a change of a node, run this again to update all files. What is drawn is in scenes.py; blueprints.py
draws those in subgraphs/.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from uuid import NAMESPACE_URL, uuid5

from ..standalone.engine.graph import fits, load_nodes
from . import blueprints, clips, scenes
from .arrange import Box, Frame, Node, arrange
from .room import content

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

HERE = Path(__file__).resolve().parent
PROJECT = tomllib.loads((HERE.parent / "pyproject.toml").read_text(encoding="utf-8"))["project"]
HUB = "https://huggingface.co/"
TABLE = json.loads((HERE.parent / "standalone" / "engine" / "core_nodes.json").read_text(encoding="utf-8"))
CORE = {"cnr_id": "comfy-core", "ver": TABLE["comfyui"]}
PACK = {"cnr_id": PROJECT["name"], "ver": PROJECT["version"]}
# only the page knows it
NOTE = {"display_name": "Markdown Note", "output": [], "output_name": [], "input": {}}
# The page lists the files by their names, as the disk has them, and its search puts short names first. So
# each name has a word more than the one before: a search for “sana” finds them in order. Those of the film
# and of 2.0 are short: they are found early.
TITLES = {
    "0": ("demo", scenes.without_downloads),
    "1": ("first long video", scenes.first_long_video),
    "2": ("three shots, one film", scenes.three_shots),
    "3": ("two endings from one beginning", scenes.two_endings),
    "4a": ("save a stream and stop today", scenes.save_today),
    "4b": ("go on tomorrow as if never stopped", scenes.continue_tomorrow),
    "5": ("begin the stream with one of your pictures", scenes.from_an_image),
    "6": ("text to video, 5 s clip in 50 steps", clips.text_to_video),
    "7": ("image to video, a 5 s clip in 50 steps", clips.image_to_video),
    "8": ("text to video, a 5 s clip in 50 steps, 720p", clips.large_clip),
    "9": ("a film from a script", scenes.from_a_script),
    "10": ("version 2.0, four steps", clips.four_steps),
    "11": ("version 2.0, 50 steps, from text or picture", clips.fifty_steps),
}
# two digits, so that 10 comes after 9 wherever names are sorted
NAMES = {
    number: f"SANA-Video {number.zfill(2 + number[-1].isalpha())} – {title}"  # noqa: RUF001
    for number, (title, _) in TITLES.items()
}
# for a command line; not in the registry's archive, so that the page doesn't list the demo twice
EASY_TO_TYPE = {"0": "00_without_downloads"}
BYPASSED = 4  # a node's mode
TALL = {"script": [{"height": 220}], "text": [{"height": 120}]}  # pixels of a text in an app
WIDGETS = ("INT", "FLOAT", "STRING", "BOOLEAN", "COMBO")


class Entry(NamedTuple):
    """An input of a node: a socket, or a widget (which has a socket, too)."""

    name: str
    kind: str
    options: dict[str, Any]
    optional: bool
    widget: bool

    def default(self) -> Any:
        first = next(iter(self.options.get("options", [])), "" if self.kind == "STRING" else None)
        return self.options.get("default", first)

    def socket(self, link: int | None) -> dict[str, Any]:
        entry = {"name": self.name, **({"shape": 7} if self.optional else {}), "type": self.kind}
        return entry | ({"widget": {"name": self.name}} if self.widget else {}) | {"link": link}


def entries(info: dict[str, Any]) -> list[Entry]:
    """In the page's order: sockets, then widgets."""
    listed = []
    for place in ("required", "optional"):
        for name, (kind, *rest) in info["input"].get(place, {}).items():
            options = rest[0] if rest else {}
            if isinstance(kind, list):  # how old nodes list their choices
                kind, options = "COMBO", {"options": kind, **options}
            listed.append(Entry(name, kind, options, place == "optional", kind in WIDGETS))
            if options.get("image_upload"):  # a button that the page adds
                listed.append(Entry("upload", "IMAGEUPLOAD", {"default": "image"}, False, True))
    return sorted(listed, key=lambda entry: entry.widget)


def known_nodes() -> dict[str, Any]:
    """What /object_info says of the nodes that a workflow may contain."""
    info = {name: node.GET_NODE_INFO_V1() for name, node in load_nodes().items()}
    return info | TABLE["nodes"] | {"MarkdownNote": NOTE}


def plain(value: Any) -> Any:
    """16.0 as 16, which is how the page writes it, too."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


class Sheet:
    """One workflow: groups of nodes in columns, left to right. `drawing` is the file, `prompt` its twin."""

    def __init__(self, info: dict[str, Any]) -> None:
        self._info = info
        self.nodes: list[Node] = []
        self.links: list[list[Any]] = []
        self.prompt: dict[str, Any] = {}
        self._columns: list[list[Frame]] = []
        self._app: dict[str, Any] = {}
        self._around: dict[str, list[Any] | None] = {}  # what flows through a bypassed node, by its id

    @contextmanager
    def group(self, title: str, color: str, width: int, below: bool = False) -> Iterator[None]:
        """A frame around the nodes that are added inside: in a new column, or below the last frame."""
        frame = Frame(title, color, width, [])
        if below:
            self._columns[-1].append(frame)
        else:
            self._columns.append([frame])
        yield

    def note(self, text: str, width: int, height: int) -> None:
        """A column that begins with a note."""
        with self.group("", "", width):
            node = self._place("MarkdownNote", "About this workflow", height)
        node |= {"widgets_values": [text], "color": "#432", "bgcolor": "#653"}

    def add(self, kind: str, title: str = "", **inputs: Any) -> Node:
        """A node below the last one.

        `inputs`: values, and for sockets (a widget has one, too) a node, whose first fitting output is taken.
        """
        listed = entries(self._info[kind])
        if unknown := set(inputs) - {entry.name for entry in listed}:
            raise KeyError(f"{kind} has no input {', '.join(sorted(unknown))}.")
        linked = {name: inputs.pop(name) for name in list(inputs) if isinstance(inputs[name], dict)}
        values = {e.name: plain(inputs.get(e.name, e.default())) for e in listed if e.widget}
        has = content(kind, listed, len(self._info[kind]["output"]))
        node = self._place(kind, title, has.full(), has.roomy(), has.closed())
        for slot, entry in enumerate(listed):
            if entry.widget:
                control = ["fixed"] if entry.options.get("control_after_generate") else []
                node["widgets_values"] += [values[entry.name], *control]
            source = linked.get(entry.name)
            node["inputs"].append(entry.socket(self._link(source, node, slot, entry) if source else None))
        node["properties"] |= self._models(values)
        values.pop("upload", None)
        links = {link[0]: self._around.get(str(link[1]), [str(link[1]), link[2]]) for link in self.links}
        sources = {e["name"]: links[e["link"]] for e in node["inputs"] if e["link"] and links[e["link"]]}
        meta = {"title": title or self._info[kind]["display_name"]}
        self.prompt[str(node["id"])] = {"inputs": values | sources, "class_type": kind, "_meta": meta}
        return node

    def bypass(self, node: Node) -> None:
        """Off until somebody turns it on: what enters by its first socket, if anything, leaves as it is."""
        node["mode"] = BYPASSED
        inputs, first = self.prompt.pop(str(node["id"]))["inputs"], node["inputs"][0]
        self._around[str(node["id"])] = inputs[first["name"]] if first["link"] else None

    def app(self, inputs: list[tuple[Node, str]], outputs: list[Node]) -> None:
        """What the page's App mode shows: widgets by their names, and the nodes whose results count."""
        self._app = {
            "linearData": {
                "inputs": [[node["id"], name, *TALL.get(name, ())] for node, name in inputs],
                "outputs": [node["id"] for node in outputs],
            }
        }

    def _place(self, kind: str, title: str, full: int, roomy: bool = True, closed: int = 0) -> Node:
        info, frame = self._info[kind], self._columns[-1][-1]
        size = [frame.width, full if roomy else closed]
        node = {"id": len(self.nodes) + 1, "type": kind, "pos": [0, 0], "size": size, "flags": {}}
        node |= {"order": len(self.nodes), "mode": 0, "inputs": []}
        outputs = zip(info["output_name"], info["output"], strict=True)
        node["outputs"] = [{"name": name, "type": output, "links": None} for name, output in outputs]
        node |= {"title": title} if title else {}
        origin = PACK if kind.startswith("SanaVideo") else CORE
        node["properties"] = {} if kind == "MarkdownNote" else origin | {"Node name for S&R": kind}
        node["widgets_values"] = []
        self.nodes.append(node)
        frame.boxes.append(Box(node, full, roomy))
        return node

    def _link(self, source: Node, target: Node, slot: int, entry: Entry) -> int:
        kinds = [output["type"] for output in source["outputs"]]
        fitting = [number for number, kind in enumerate(kinds) if fits(kind, entry.kind)]
        if not fitting:
            raise ValueError(f"{source['type']} has no output for “{entry.name}” of {target['type']}.")
        output, number = source["outputs"][fitting[0]], len(self.links) + 1
        output["links"] = [*(output["links"] or []), number]
        self.links.append([number, source["id"], fitting[0], target["id"], slot, output["type"]])
        return number

    def _models(self, values: dict[str, Any]) -> dict[str, Any]:
        """What the page's list of missing models needs."""
        files = [value for value in values.values() if value in scenes.MODELS]
        models = [
            {"name": file, "url": HUB + scenes.MODELS[file][1], "directory": scenes.MODELS[file][0]}
            for file in files
        ]
        return {"models": models} if models else {}

    def drawing(self, name: str) -> dict[str, Any]:
        groups = arrange(self._columns)
        return {
            "id": str(uuid5(NAMESPACE_URL, f"{PACK['cnr_id']}/{name}")),
            "revision": 0,
            "last_node_id": len(self.nodes),
            "last_link_id": len(self.links),
            "nodes": self.nodes,
            "links": self.links,
            "groups": groups,
            "config": {},
            # without a view: the page fits it
            "extra": {"frontendVersion": "1.47.10", "workflowRendererVersion": "LG", **self._app},
            "version": 0.4,
        }


def text_of(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"


def files() -> dict[Path, str]:
    """The text of every workflow file, and of every blueprint."""
    info, texts = known_nodes(), {}
    for name in blueprints.BLUEPRINTS:
        drawn = blueprints.blueprint(Sheet(info), name, PACK)
        texts[HERE.parent / "subgraphs" / f"{name}.json"] = text_of(drawn)
    for number, (_, draw) in TITLES.items():
        sheet, name = Sheet(info), NAMES[number]
        draw(sheet)
        drawn, prompt = text_of(sheet.drawing(name)), text_of(sheet.prompt)
        for file in (name, EASY_TO_TYPE.get(number, name)):
            texts |= {HERE / f"{file}.json": drawn, HERE / "api" / f"{file}.json": prompt}
    return texts


if __name__ == "__main__":
    for path, text in files().items():
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
