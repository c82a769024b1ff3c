"""The workflow files: drawn by workflows/build.py, true to the node classes, equal to their twins in api/."""

import json
import re
from copy import deepcopy
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from comfyui_sana_video.sana_video_core.films.script import parse_script
from comfyui_sana_video.standalone.engine import graph
from comfyui_sana_video.standalone.engine.graph import fits
from comfyui_sana_video.standalone.engine.workflow_file import to_prompt
from comfyui_sana_video.workflows import build
from comfyui_sana_video.workflows.room import TITLE, content
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "workflows"
NAMES = sorted(path.stem for path in FOLDER.glob("SANA-Video*.json"))
SHOTS = build.NAMES["2"]
PLAIN = {"INT": int, "FLOAT": (int, float), "STRING": str, "BOOLEAN": bool, "COMBO": str}
FILES = {"model_name", "encoder_name", "vae_name", "lora_name", "image", "file"}  # lists of files on a disk


def read(name):
    return json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="session")
def info():
    return build.known_nodes()


def sockets(workflow, info):
    """Nodes are known, and have the inputs and outputs that their classes have, in the page's order."""
    for node in workflow["nodes"]:
        if node["type"] not in info:
            yield f"there is no {node['type']}"
            continue
        known = info[node["type"]]
        if [(e["name"], e["type"]) for e in node["inputs"]] != [
            (e.name, e.kind) for e in build.entries(known)
        ]:
            yield f"inputs of {node['type']}"
        if [(e["name"], e["type"]) for e in node["outputs"]] != [
            *zip(known["output_name"], known["output"], strict=True)
        ]:
            yield f"outputs of {node['type']}"


def widgets(workflow, info):
    """There is a value for each widget, in order, of its type, and possible."""
    for node in workflow["nodes"]:
        values = list(node["widgets_values"])
        listed = [entry for entry in build.entries(info[node["type"]]) if entry.widget]
        expected = sum(1 + bool(e.options.get("control_after_generate")) for e in listed)
        if node["type"] != "MarkdownNote" and len(values) != expected:
            yield f"{node['type']} has {len(values)} values for {expected} widgets"
            continue
        for entry in listed:
            value, options = values.pop(0), entry.options
            if entry.options.get("control_after_generate") and values.pop(0) != "fixed":
                yield f"{entry.name} is not fixed after a run"
            right = PLAIN.get(entry.kind, object)
            if not isinstance(value, right) or (isinstance(value, bool) and entry.kind != "BOOLEAN"):
                yield f"{entry.name} is {value!r}, which isn't of kind {entry.kind}"
            elif entry.kind == "COMBO" and entry.name not in FILES and value not in options["options"]:
                yield f"{entry.name} has no choice {value}"
            elif "min" in options and not options["min"] <= value <= options["max"]:
                yield f"{entry.name} is {value}, outside of its range"


def links(workflow, info):
    """Both ends know each link, types fit, and nothing required is left open."""
    nodes, used = {node["id"]: node for node in workflow["nodes"]}, set()
    for number, source, slot, target, place, kind in workflow["links"]:
        output, entry = nodes[source]["outputs"][slot], nodes[target]["inputs"][place]
        used |= {("out", source, slot, number), ("in", target, place, number)}
        if number not in (output["links"] or []) or entry["link"] != number:
            yield f"link {number} is not known at both ends"
        if output["type"] != kind or not fits(kind, entry["type"]):
            yield f"link {number} brings {kind} to {entry['type']}"
        if nodes[source]["order"] >= nodes[target]["order"]:
            yield f"link {number} goes back"
    for node in workflow["nodes"]:
        ends = {
            ("in", node["id"], i, e["link"]) for i, e in enumerate(node["inputs"]) if e["link"] is not None
        }
        ends |= {("out", node["id"], i, n) for i, e in enumerate(node["outputs"]) for n in e["links"] or []}
        if ends - used:
            yield f"{node['type']} knows a link that is not listed"
        for entry, socket in zip(build.entries(info[node["type"]]), node["inputs"], strict=True):
            if not (entry.widget or entry.optional) and socket["link"] is None:
                yield f"{node['type']} lacks {entry.name}"
    if workflow["last_node_id"] != max(nodes) or workflow["last_link_id"] != max(
        link[0] for link in workflow["links"]
    ):
        yield "last ids"


def properties(workflow, info):
    """Every node names its pack; a loader also says where its file is published."""
    for node in workflow["nodes"]:
        listed, ours = node["properties"], node["type"].startswith("SanaVideo")
        if node["type"] == "MarkdownNote":
            continue
        if listed["cnr_id"] != ("sana-video" if ours else "comfy-core") or not re.fullmatch(
            r"\d+\.\d+\.\d+", listed["ver"]
        ):
            yield f"origin of {node['type']}"
        if listed["Node name for S&R"] != node["type"]:
            yield f"name of {node['type']}"
        if re.search(r"(Model|TextEncoder|VAE)Loader$", node["type"]):
            file = node["widgets_values"][0]
            if file == "demo (built in)":
                continue
            model = {"url": "", "name": "", "directory": ""} | (listed.get("models") or [{}])[0]
            origin = (model["name"], model["url"].rsplit("/", 1)[-1], model["directory"])
            folder = {"model_name": "diffusion_models", "encoder_name": "text_encoders", "vae_name": "vae"}
            if origin != (file, file, folder[node["inputs"][0]["name"]]) or not model["url"].startswith(
                "https://huggingface.co/"
            ):
                yield f"{node['type']} does not say where {file} is published"


def places(workflow, info):
    """No node covers another or leaves its frame, as high as it may become, and a note says how to run the
    workflow.
    """
    boxes = {}
    for node in workflow["nodes"]:
        known, ((x, y), (w, h)) = info[node["type"]], (node["pos"], node["size"])
        full = content(node["type"], build.entries(known), len(known["output"])).full()
        boxes[node["id"]] = (x, y - TITLE, x + w, y + max(h, full))
    frames = [(x, y, x + w, y + h) for x, y, w, h in (group["bounding"] for group in workflow["groups"])]
    for a, b in [*combinations(boxes.values(), 2), *combinations(frames, 2)]:
        if a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]:
            yield f"{a} covers {b}"
    for node in workflow["nodes"]:
        box = boxes[node["id"]]
        inside = [
            f for f in frames if f[0] <= box[0] and f[1] <= box[1] and box[2] <= f[2] and box[3] <= f[3]
        ]
        if (node["type"] == "MarkdownNote") == bool(inside):
            yield f"{node['type']} is in {len(inside)} frames"
    note = next(
        (node["widgets_values"][0] for node in workflow["nodes"] if node["type"] == "MarkdownNote"), ""
    )
    if "**Download**" not in note or "demo" not in note:
        yield "no note"


def paths(workflow, info):
    """No paths of the machine that made it."""
    for text in re.findall(r'"((?:[^"\\]|\\.)*)"', json.dumps(workflow, ensure_ascii=False)):
        if re.match(r"(/|~|[A-Za-z]:\\\\)", text) or "\\\\" in text or ".." in text:
            yield f"a path: {text}"


CHECKS = (sockets, widgets, links, properties, places, paths)


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("name", NAMES)
def test_file(name, check, info):
    assert list(check(read(name), info)) == []


def of(workflow, kind, title=None):
    return next(n for n in workflow["nodes"] if n["type"] == kind and title in (None, n.get("title")))


def values(kind, position, value):
    return lambda workflow: of(workflow, kind)["widgets_values"].__setitem__(position, value)


MISTAKES = {  # what is wrong: (the check that has to notice, what to do to three shots)
    "unknown node": (sockets, lambda w: of(w, "SanaVideoStart").update(type="SanaVideoBegin")),
    "renamed input": (sockets, lambda w: of(w, "SanaVideoBlockSampler")["inputs"][3].update(name="blocks")),
    "retyped output": (sockets, lambda w: of(w, "SanaVideoStart")["outputs"][0].update(type="LATENT")),
    "a missing value": (widgets, lambda w: of(w, "SanaVideoBlockSampler")["widgets_values"].pop()),
    "an extra value": (widgets, lambda w: of(w, "SanaVideoStart")["widgets_values"].append(1)),
    "swapped values": (widgets, lambda w: of(w, "SanaVideoBlockSampler")["widgets_values"].reverse()),
    "a random seed": (widgets, values("SanaVideoBlockSampler", 2, "randomize")),
    "true for a number": (widgets, values("SanaVideoStart", 0, True)),
    "out of range": (widgets, values("SanaVideoBlockSampler", 0, 1000)),
    "no such choice": (widgets, values("SanaVideoModelLoader", 1, "sana")),
    "a link one end forgot": (links, lambda w: of(w, "SanaVideoStart")["outputs"][0].update(links=[])),
    "a link that is not listed": (links, lambda w: w["links"].pop()),
    "wrong type": (links, lambda w: w["links"][0].__setitem__(5, "LATENT")),
    "open socket": (links, lambda w: of(w, "SanaVideoDecodeStream")["inputs"][0].update(link=None)),
    "last id": (links, lambda w: w.update(last_link_id=1)),
    "no origin": (properties, lambda w: of(w, "SaveVideo")["properties"].update(cnr_id="sana-video")),
    "no address": (properties, lambda w: of(w, "SanaVideoVAELoader")["properties"].pop("models")),
    "address of another file": (properties, values("SanaVideoModelLoader", 0, "other.pth")),
    "covered": (places, lambda w: of(w, "SanaVideoStart").update(pos=of(w, "SaveVideo")["pos"])),
    "out of its frame": (places, lambda w: w["groups"].pop()),
    "no note": (places, lambda w: of(w, "MarkdownNote").update(widgets_values=[""])),
    "a path": (paths, values("SaveVideo", 0, "/srv/video")),
    "a path up": (paths, values("SaveVideo", 0, "../video")),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_noticed(name, info):
    check, spoil = MISTAKES[name]
    workflow = read(SHOTS)
    spoil(workflow)
    assert list(check(workflow, info))


@pytest.mark.parametrize("name", NAMES)
def test_twin_is_the_drawings_prompt(name, info):
    drawing, twin = read(name), read(f"api/{name}")
    assert to_prompt(deepcopy(drawing), info) == twin
    texts = any(node["type"] == "SanaVideoTextEncode" for node in drawing["nodes"])
    of(drawing, "SanaVideoTextEncode" if texts else "SanaVideoLongVideo")["widgets_values"][1] += 1
    assert to_prompt(drawing, info) != twin


def test_files_are_what_the_script_writes():
    paths = (*FOLDER.rglob("*.json"), *(ROOT / "subgraphs").iterdir())
    on_disk = {path: path.read_text(encoding="utf-8") for path in paths}
    drawn = build.files()
    assert on_disk == drawn, "run python -m comfyui_sana_video.workflows.build"
    assert len(NAMES) == 13
    other = build.Sheet(build.known_nodes())
    with other.group("", "", 300), pytest.raises(KeyError, match="blocks"):
        other.add("SanaVideoBlockSampler", blocks=1)


def test_a_film_needs_few_boxes():
    for number, lengths in (("0", (2, 1, 1, 2)), ("9", (2, 2, 2, 2))):
        film = read(build.NAMES[number])
        assert len(film["nodes"]) <= 6
        plan = parse_script(of(film, "SanaVideoLongVideo")["widgets_values"][0], seconds=60, seed=7)
        changes = "start", "recache", "keep", "cut"
        assert [(s.change, s.chunks) for s in plan.shots] == [*zip(changes, lengths, strict=True)]


@pytest.mark.parametrize("name", NAMES)
def test_an_app_shows_widgets_and_results_that_are_there(name):
    """As the page's builder writes them: [node, widget] and node."""
    drawing = read(name)
    app = drawing["extra"].get("linearData")
    assert (app is not None) == (name in [build.NAMES[number] for number in ("0", "1", "5", "9", "10")])
    if app is None:
        return
    nodes = {node["id"]: node for node in drawing["nodes"]}
    for node, widget, *_ in app["inputs"]:
        socket = next(entry for entry in nodes[node]["inputs"] if entry["name"] == widget)
        assert socket["widget"] == {"name": widget}
        assert socket["link"] is None, "what a link gives can't be typed"
    assert {widget for _, widget, *_ in app["inputs"]} >= {"seed", "width", "height"}
    shown = {nodes[node]["type"] for node in app["outputs"]}
    assert shown <= {"SanaVideoLongVideo", "SaveVideo"}


def test_a_bypassed_node_is_passed_by():
    drawing, twin = read(build.NAMES["1"]), read(f"api/{build.NAMES['1']}")
    lora = of(drawing, "SanaVideoLoraLoader")
    assert lora["mode"] == 4
    assert str(lora["id"]) not in twin
    assert twin[str(of(drawing, "SanaVideoBlockSampler")["id"])]["inputs"]["model"] == [
        str(of(drawing, "SanaVideoModelLoader")["id"]),
        0,
    ]


@pytest.mark.parametrize("name", NAMES)
def test_a_workflow_is_small(name):
    assert len(read(name)["nodes"]) <= 25


def test_names_are_in_order_however_the_page_sorts():
    """By name; or, as its search does, short names first: 1.47 counts words, 1.58 their different parts.

    That one brings the film in the first row.
    """
    names = list(build.NAMES.values())
    assert names == sorted(names) == NAMES
    assert len(build.NAMES["9"].split()) < 9
    names = [name for number, name in build.NAMES.items() if number not in ("9", "10", "11")]
    words = [name.lower().split() for name in names]
    lengths = [len(listed) for listed in words]
    parts = [len({part for word in listed for part in (word, *re.split("[-_]", word))}) for listed in words]
    assert lengths == sorted(set(lengths))
    assert parts == sorted(set(parts))
    assert not re.search(r'[<>:"/\\|?*]', "".join(NAMES))  # Windows
    assert max(map(len, NAMES)) < 60  # as much as a card shows


def kinds(workflows):
    return {node["type"] for workflow in workflows for node in workflow["nodes"]}


def test_every_node_is_shown(info):
    ours = {name for name in info if name.startswith("SanaVideo")}
    assert kinds(map(read, NAMES)) & ours == ours
    # only one file shows Prime, so the line above can fail
    without = [read(name) for name in NAMES if name != build.NAMES["5"]]
    assert "SanaVideoPrime" in ours - kinds(without)


def test_sizes_and_lengths():
    """What a file's name promises; a default in place of it would still be valid."""
    expected = {
        build.NAMES["6"]: [832, 480, 81, 1],
        build.NAMES["7"]: [832, 480, 81, 1],
        build.NAMES["8"]: [1280, 704, 81, 1],
        build.NAMES["10"]: [1280, 736, 81, 1],
        build.NAMES["11"]: [1280, 736, 193, 1],
    }
    assert {name: of(read(name), "SanaVideoEmptyLatent")["widgets_values"] for name in expected} == expected
    assert (
        of(read(build.NAMES["4b"]), "SanaVideoDecodeStream")["widgets_values"][0]
        == of(read(build.NAMES["4a"]), "SanaVideoBlockSampler")["widgets_values"][0]
    )


@pytest.mark.parametrize("name", [build.NAMES[number] for number in "67"])
def test_clips_are_sampled_as_the_original_does(name):
    """inference_sana_video.py: DPM-Solver++ 2M on its grid; for a picture Euler on that of FlowMatchEuler."""
    nodes = {node["_meta"]["title"]: node for node in read(f"api/{name}").values()}
    picture = "First frame" in nodes
    grid, solver = nodes["SANA-Video Sigmas"]["inputs"], nodes["Solver"]
    assert grid == {"steps": 50, "shift": 8, "denoise": 1, "grid": "euler" if picture else "dpm++"}
    if picture:
        assert (solver["class_type"], solver["inputs"]) == ("KSamplerSelect", {"sampler_name": "euler"})
    else:
        assert solver["class_type"] == "SamplerDPMPP_2M_SDE"
        assert solver["inputs"].items() >= {("solver_type", "midpoint"), ("eta", 0)}
    assert nodes["CFG Guider"]["inputs"]["cfg"] == 6
    texts = [nodes[title]["inputs"] for title in ("Prompt", "Negative prompt")]
    assert [(text["motion_score"], text["instruction"]) for text in texts] == [(30, True), (0, False)]
    assert "KSampler" not in {node["class_type"] for node in nodes.values()}


def test_the_clip_of_720p_runs_without_comfyui():
    """With the model's own numbers, which are the original's: DPM-Solver++, 50 steps, cfg 6, shift 8."""
    nodes = read(f"api/{build.NAMES['8']}")
    sampler = next(node["inputs"] for node in nodes.values() if node["class_type"] == "SanaVideoSampler")
    own = {"steps": 0, "cfg": 0.0, "sampler": "auto", "shift": 0.0}
    assert {name: sampler[name] for name in own} == own
    assert {"positive", "negative", "latent", "model"} <= sampler.keys()
    assert {node["class_type"] for node in nodes.values()} <= graph.load_nodes().keys()


@pytest.mark.parametrize("name", NAMES)
def test_thumbnail(name):
    """It moves: a WebP, which browsers know by its first bytes. The page asks packs for no name but .jpg."""
    path = FOLDER / f"{name}.jpg"
    assert path.stat().st_size <= 400_000
    with Image.open(path) as picture:
        assert picture.format == "WEBP"
        assert picture.size == (448, 448)
        assert picture.n_frames >= 40
        first = np.asarray(picture.convert("RGB").resize((64, 64)), float)
        picture.seek(picture.n_frames // 2)
        later = np.asarray(picture.convert("RGB").resize((64, 64)), float)
    assert np.abs(first - later).max() > 50, "something moves"
    assert np.ptp(first[4:-4], axis=(0, 1)).max() > 60, "a picture, and not a surface"
