"""Which drawings of a page cover others, and how to make nodes show all that a run may show."""

from __future__ import annotations

import base64
import io
from itertools import combinations
from pathlib import Path
from typing import Any

from comfyui_sana_video.workflows.room import SHOWN
from PIL import Image

from .video_files import write_numbers

# nodes [title, left, top, right, bottom] and groups, in units of the graph. Vue's elements hold the bar below
# a node, too; the canvas draws the pack's badge above the title, and a ring around errors.
RECTANGLES = """() => {
    const {scale, offset} = app.canvas.ds, page = app.canvas.canvas.getBoundingClientRect();
    const nodes = app.graph.nodes.map(node => {
        const drawn = document.querySelector(`[data-node-id='${node.id}']`)?.getBoundingClientRect();
        const [left, top] = drawn ? [(drawn.left - page.left) / scale - offset[0],
                                     (drawn.top - page.top) / scale - offset[1]] : node.boundingRect;
        const [width, height] = drawn ? [drawn.width / scale, drawn.height / scale]
                                      : [node.boundingRect[2], node.boundingRect[3]];
        const ring = node.has_errors ? (drawn ? 3 : 12) : 0;
        const above = Math.max(ring, drawn || !node.type.startsWith('Sana') ? 0 : 22);
        const [right, bottom] = [left + width + ring, top + height + ring];
        return [`${node.id} ${node.title}`, left - ring, top - above, right, bottom] });
    const groups = app.graph.groups.map(group => [group.title, group.pos[0], group.pos[1],
        group.pos[0] + group.size[0], group.pos[1] + group.size[1]]);
    return [nodes, groups] }"""
# what the server sends during a run
SHOW = """async ({text, report, picture, film, live}) => {
    const {api} = await import('/scripts/api.js'), jpeg = await (await fetch(picture)).blob();
    for (const {id, type} of app.graph.nodes) {
        const node = String(id), send = (kind, data) => api.dispatchCustomEvent(kind, data);
        const executed = output => send('executed', {node, display_node: node, output, prompt_id: 'x'});
        const words = ['SanaVideoStateInfo', 'SanaVideoLongVideo'].includes(type) ? report : text;
        if (type.startsWith('Sana')) send('progress_text', {nodeId: node, text: words, prompt_id: 'x'});
        const ids = {nodeId: node, displayNodeId: node, parentNodeId: node, realNodeId: node};
        const preview = {blob: jpeg, ...ids, promptId: 'x', jobId: 'x'};
        if (live.includes(type)) send('b_preview_with_metadata', preview);
        const file = filename => ({images: [{filename, subfolder: '', type: 'output'}]});
        if (type === 'SanaVideoStateInfo') executed(file('strip.png'));
        if (['SaveVideo', 'SanaVideoLongVideo'].includes(type)) executed({...file(film), animated: [true]});
    } }"""
WARNING = (
    "The prompt has 412 tokens, and the model reads 300: “and soft golden light falls between the trunks” "
    "was left out, and with it the motion score. Shorten the prompt, or make two shots of it."
)
REPORT = "\n".join(
    f"chunk {number} · 2.5 s: a red ball moves right over a blue floor" for number in range(20)
)
LIVE = sorted(set(SHOWN) - {"LoadImage", "SanaVideoStateInfo", "SaveVideo"})


def results(folder: Path) -> dict[str, Any]:
    """Results in an output folder, and the arguments of SHOW: a portrait, which is as high as it can be."""
    folder.mkdir(exist_ok=True)
    Image.new("RGB", (480, 640), "navy").save(folder / "strip.png")
    write_numbers(folder / "film.mp4", 5)
    jpeg = io.BytesIO()
    Image.new("RGB", (480, 832), "teal").save(jpeg, "JPEG")
    picture = "data:image/jpeg;base64," + base64.b64encode(jpeg.getvalue()).decode()
    return {"text": WARNING, "report": REPORT, "picture": picture, "film": "film.mp4", "live": LIVE}


def covered(rectangles: list[Any]) -> list[str]:
    """What covers what, and what sticks out of its group. A note has none."""
    nodes, groups = rectangles
    pairs = [*combinations(nodes, 2), *combinations(groups, 2)]
    problems = [f"{a[0]} covers {b[0]}" for a, b in pairs if _meet(a, b)]
    for node in nodes:
        around = [group for group in groups if _meet(node, group)]
        if len(around) != (not node[0].endswith("About this workflow")):
            problems.append(f"{node[0]} touches {len(around)} groups")
        out = [group for group in around if not _inside(node, group)]
        problems += [f"{node[0]} ends {node[4] - group[4]:.0f} below {group[0]}" for group in out]
    return problems


def _meet(a: list[Any], b: list[Any]) -> bool:
    return a[1] < b[3] and b[1] < a[3] and a[2] < b[4] and b[2] < a[4]


def _inside(node: list[Any], group: list[Any]) -> bool:
    bar = 34  # a group's title
    return group[1] <= node[1] and group[2] + bar <= node[2] and node[3] <= group[3] and node[4] <= group[4]
