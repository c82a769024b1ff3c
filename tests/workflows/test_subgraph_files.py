"""The blueprints in subgraphs/: what the page reads of them, and what becomes of them in a prompt."""

import json
from copy import deepcopy
from itertools import pairwise
from pathlib import Path

import pytest
from comfyui_sana_video.standalone.engine.graph import fits
from comfyui_sana_video.standalone.engine.workflow_file import to_prompt
from comfyui_sana_video.workflows import build
from comfyui_sana_video.workflows.blueprints import BLUEPRINTS
from test_workflows import paths, properties, sockets, widgets

FOLDER = Path(__file__).resolve().parents[2] / "subgraphs"
SHOT, FILM = "SANA-Video shot", "SANA-Video film"
NAMES = sorted(path.stem for path in FOLDER.iterdir())


def read(name):
    """A blueprint's file, its one box, and the subgraph inside."""
    blueprint = json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))
    (instance,), (inside,) = blueprint["nodes"], blueprint["definitions"]["subgraphs"]
    return blueprint, instance, inside


@pytest.fixture(scope="session")
def info():
    return build.known_nodes()


def slots(entries):
    return [(entry["name"], entry["type"]) for entry in entries]


def test_the_folder_holds_what_is_drawn():
    assert sorted(BLUEPRINTS) == NAMES == sorted([SHOT, FILM])


@pytest.mark.parametrize("name", NAMES)
def test_the_box_is_what_is_inside(name, info):
    blueprint, instance, inside = read(name)
    assert (instance["type"], instance["title"], inside["name"]) == (inside["id"], name, name)
    assert slots(instance["inputs"]) == slots(inside["inputs"])
    assert slots(instance["outputs"]) == slots(inside["outputs"])
    ids = {node["id"] for node in inside["nodes"]} | {instance["id"]}
    assert len(ids) == len(inside["nodes"]) + 1
    assert blueprint["last_node_id"] == inside["state"]["lastNodeId"] == max(ids)
    assert blueprint["last_link_id"] == inside["state"]["lastLinkId"] == len(inside["links"])
    assert inside["description"] == blueprint["extra"]["BlueprintDescription"]
    for check in (sockets, widgets, properties, paths):
        assert list(check(inside, info)) == []


@pytest.mark.parametrize("name", NAMES)
def test_every_link_inside_is_known_at_both_ends(name):
    _, _, inside = read(name)
    nodes = {node["id"]: node for node in inside["nodes"]}
    for link in inside["links"]:
        source, target = (
            inside["inputs"][link["origin_slot"]]
            if link["origin_id"] == -10
            else nodes[link["origin_id"]]["outputs"][link["origin_slot"]],
            inside["outputs"][link["target_slot"]]
            if link["target_id"] == -20
            else nodes[link["target_id"]]["inputs"][link["target_slot"]],
        )
        assert link["id"] in (source.get("linkIds") or source["links"])
        assert link["id"] in (target.get("linkIds") or [target["link"]])
        assert fits(source["type"], target["type"])
        assert link["type"] == source["type"]
    known = [n for entry in (*inside["inputs"], *inside["outputs"]) for n in entry["linkIds"]]
    known += [e["link"] for node in nodes.values() for e in node["inputs"] if e["link"] is not None]
    known += [n for node in nodes.values() for e in node["outputs"] for n in e["links"] or []]
    assert {*known} == {link["id"] for link in inside["links"]}
    assert len(known) == 2 * len(inside["links"])


def test_what_the_boxes_show():
    _, shot, _ = read(SHOT)
    assert [e["name"] for e in shot["inputs"] if "widget" not in e] == ["model", "text_encoder", "state"]
    shown = [e["name"] for e in shot["inputs"] if "widget" in e]
    assert shown == ["text", "chunks", "seed", "on_prompt_change"]
    assert slots(shot["outputs"])[0] == ("state", "SANA_STATE")
    _, film, inside = read(FILM)
    assert slots(film["outputs"]) == [("video", "VIDEO"), ("state", "SANA_STATE")]
    values = dict(zip([e["name"] for e in film["inputs"]], film["widgets_values"], strict=True))
    assert [*values] == [
        *("script", "seconds", "width", "height", "seed"),
        *("model_name", "encoder_name", "vae_name"),
    ]
    models = [file["name"] for n in inside["nodes"] for file in n["properties"].get("models", [])]
    assert [values["model_name"], values["encoder_name"], values["vae_name"]] == models


def three_shots(info):
    """Three boxes of the blueprint in a chain, as the page saves them; and what each is given."""
    blueprint, shot, _ = read(SHOT)
    sheet = build.Sheet(info)
    with sheet.group("", "", 300):
        model, encoder = sheet.add("SanaVideoModelLoader"), sheet.add("SanaVideoTextEncoderLoader")
        start = sheet.add("SanaVideoStart", model=model)
    drawing, given = blueprint | sheet.drawing("test"), []
    drawing |= {"definitions": blueprint["definitions"]}
    sources = {"model": (model, 0), "text_encoder": (encoder, 0)}
    for place, state in enumerate(((start, 0), (11, 0), (12, 0))):
        box = deepcopy(shot) | {"id": 11 + place}
        given.append({"text": f"shot {place}", "chunks": place + 1, "seed": place, "on_prompt_change": "cut"})
        box["widgets_values"] = list(given[-1].values())
        for slot, (source, output) in enumerate((*sources.values(), state)):
            number = len(drawing["links"]) + 1
            origin = source if isinstance(source, int) else source["id"]
            drawing["links"].append([number, origin, output, box["id"], slot, box["inputs"][slot]["type"]])
            box["inputs"][slot]["link"] = number
        drawing["nodes"].append(box)
    return drawing, given


def test_three_shots_in_a_chain_are_three_samplers(info):
    drawing, given = three_shots(info)
    prompt = to_prompt(drawing, info)
    kinds = {kind: [i for i, node in prompt.items() if node["class_type"] == kind] for kind in info}
    texts, samplers = kinds["SanaVideoTextEncode"], kinds["SanaVideoBlockSampler"]
    (start,), (model,) = kinds["SanaVideoStart"], kinds["SanaVideoModelLoader"]
    (encoder,) = kinds["SanaVideoTextEncoderLoader"]
    for text, sampler, values in zip(texts, samplers, given, strict=True):
        words, sampled = prompt[text]["inputs"], prompt[sampler]["inputs"]
        assert {**words, **sampled}.items() >= values.items()
        assert sampled["positive"] == [text, 0]
        assert (sampled["model"], words["text_encoder"]) == ([model, 0], [encoder, 0])
    states = [prompt[sampler]["inputs"]["state"] for sampler in samplers]
    assert states == [[start, 0], *([sampler, 1] for sampler, _ in pairwise(samplers))]


def test_the_film_alone_is_a_workflow(info):
    """A box put on an empty page and run: the same film as from the nodes inside."""
    blueprint, box, _ = read(FILM)
    box["widgets_values"][:2] = ["a fox", 5]
    prompt = {node["class_type"]: node["inputs"] for node in to_prompt(blueprint, info).values()}
    film = prompt["SanaVideoLongVideo"]
    assert (film["script"], film["seconds"], film["width"], film["height"]) == ("a fox", 5, 832, 480)
    assert sorted(prompt) == [
        *("SanaVideoLongVideo", "SanaVideoModelLoader", "SanaVideoTextEncoderLoader", "SanaVideoVAELoader")
    ]
    assert prompt["SanaVideoModelLoader"]["model_name"] == box["widgets_values"][-3]
