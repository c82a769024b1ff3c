"""Nodes that are not here: whose they are, and what to do about them."""

import re

import pytest
from comfyui_sana_video.standalone.engine.strangers import HERE, SERVER, STUDIO, core_names, strangers
from support.prompts import node

ID = "0f1e2d3c-4b5a-6978-8796-a5b4c3d2e1f0"


def packed(class_type, **pack):
    return {**node(class_type), "_meta": {"title": "t", **pack}}


@pytest.mark.parametrize(
    ("stranger", "place", "says"),
    [
        (node("KSampler"), HERE, "Only a real ComfyUI runs KSampler. .*--server http"),
        (node("KSampler"), STUDIO, "Only a real ComfyUI runs KSampler. .*open the workflow there"),
        (node("KSampler"), SERVER, "no node KSampler, which other versions of ComfyUI have"),
        (packed("BrandNew", cnr_id="comfy-core"), HERE, "Only a real ComfyUI runs BrandNew"),
        (node("VHS_VideoCombine"), HERE, "^Other packs have VHS_VideoCombine. Start a ComfyUI with them"),
        (
            packed("VHS_VideoCombine", cnr_id="comfyui-videohelpersuite"),
            HERE,
            r"have VHS_VideoCombine \(comfyui-videohelpersuite\)\.",
        ),
        (
            packed("A", aux_id="someone/a-pack"),
            SERVER,
            r"no node A \(someone/a-pack\), which other packs have",
        ),
        (packed("KSampler", cnr_id="a-pack"), STUDIO, r"no node KSampler \(a-pack\) here: the studio has"),
        (node("SanaVideoFuture"), HERE, "^This version of the pack has no node SanaVideoFuture"),
        (node("SanaVideoStart"), SERVER, "no node SanaVideoStart. Install this pack there"),
        (node("workflow>mine"), HERE, "^workflow>mine: group nodes of older ComfyUIs"),
        (node("workflow/mine"), SERVER, "^workflow/mine: group nodes"),
        (node(ID), HERE, f"no drawing of the subgraph {ID}"),
        ({"inputs": {}}, HERE, "^Node x has no class: the page that saved it didn't have its pack"),
        ({"class_type": None, "inputs": {}, "_meta": None}, SERVER, "^Node x has no class"),
    ],
)
def test_whose_a_node_is(stranger, place, says):
    ((words, ids),) = strangers({"1": node("Known"), "x": stranger}, {"Known"}, place).items()
    assert ids == ["x"]
    assert re.search(says, words), words


def test_nodes_of_one_kind_share_a_sentence():
    prompt = {"1": node("B"), "2": node("A"), "3": node("B"), "4": node("VAELoader"), "5": node("KSampler")}
    found = strangers(prompt, {}, SERVER)
    assert [*found.values()] == [["1", "3", "2"], ["4", "5"]]
    packs, core = found
    assert "no node A, B, which other packs" in packs
    assert "no node KSampler, VAELoader, which other versions" in core
    assert strangers(prompt, {"A", "B", "VAELoader", "KSampler"}, SERVER) == {}


def test_the_names_of_comfyuis_own_nodes():
    assert {"KSampler", "SaveVideo", "SamplerCustomAdvanced", "KlingTextToVideoNode"} <= core_names()
    assert not [name for name in core_names() if name.startswith(("SanaVideo", "Toy"))]
