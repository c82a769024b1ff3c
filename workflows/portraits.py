"""Photographs every node in ComfyUI's page, for its help page: web/docs/pictures.

    python -m comfyui_sana_video.workflows.portraits [NODE …]

The studio runs small graphs on the built-in demo, and Chromium shows them as the canvas draws them: Debian's
package, or CHROMIUM. Takes a minute or two. Look at every picture.
"""

from __future__ import annotations

import argparse
import os
import shutil
from collections.abc import Callable
from io import BytesIO
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import av
from PIL import Image
from playwright.sync_api import Page, sync_playwright

from ..standalone.studio.serve import add_arguments, run
from .arrange import Node
from .build import Sheet, known_nodes
from .sitters import Portraits, beginnings, clips, stream

PICTURES = Path(__file__).resolve().parents[1] / "web" / "docs" / "pictures"
LIMIT = 40_000  # bytes
PORT, WIDTH, GAP = 8193, 310, 40
PEEK = 150  # what is seen beside the node, of one that it is connected to: the panel is narrow
LOW = 130  # and how much of it at least, beside a lower node
LEFT, TOP, BORDER = 200, 150, 16  # where a portrait is on the page, beside what the page has there
HEAD = 46  # a node's title, and its badge above
READY = "() => window.app?.vueAppReady && window.app?.graph && !document.querySelector('#splash-loader')"
# The portrait's nodes side by side, all others far to the left; no link leads on. [width, height] of each
ARRANGE = """([ids, step, left, top]) => {
    const canvas = app.canvas, seen = ids.map(String), nodes = app.graph.nodes;
    const place = node => seen.indexOf(String(node.id));
    for (const node of nodes) {
        node.pos = [place(node) < 0 ? -3000 : place(node) * step, 0];
        node.setSize([node.size[0], node.computeSize()[1]]);
    }
    canvas.constructor.prototype.renderLink = (window.drawn ??= canvas.renderLink,
        function (ctx, a, b, link, ...more) {
            if (seen.includes(String(link?.target_id))) drawn.call(this, ctx, a, b, link, ...more) });
    canvas.ds.scale = 1, canvas.ds.offset = [left, top], canvas.setDirty(true, true);
    for (const video of document.querySelectorAll("video")) { video.pause(); video.currentTime = 1 }
    return ids.map(id => [...app.graph.getNodeById(id).size]) }"""
RUN = """() => new Promise((done, failed) => {
    app.api.addEventListener('execution_success', () => done());
    app.api.addEventListener('execution_error', ({detail}) => failed(Error(detail.exception_message)));
    const refused = () => app.lastNodeErrors && failed(Error(JSON.stringify(app.lastNodeErrors)));
    app.queuePrompt(0).then(refused) })"""


def photograph(page: Page, name: str, nodes: list[Node]) -> None:
    sizes = page.evaluate(ARRANGE, [[node["id"] for node in nodes], WIDTH + GAP, LEFT, TOP])
    page.wait_for_timeout(700)
    number = max(number for number, node in enumerate(nodes) if node["type"] == name)
    before, after = (PEEK if beside else BORDER for beside in (number, number < len(nodes) - 1))
    box = page.locator("#graph-canvas").bounding_box() or {"x": 0, "y": 0}
    left, top = box["x"] + LEFT + number * (WIDTH + GAP) - before, box["y"] + TOP - HEAD - BORDER
    height = max(sizes[number][1], min(LOW, max(size[1] for size in sizes))) + HEAD + 2 * BORDER
    width = before + sizes[number][0] + after
    sharp = page.screenshot(clip={"x": left, "y": top, "width": width, "height": height})
    picture, quality, file = Image.open(BytesIO(sharp)).convert("RGB"), 95, BytesIO()
    while quality == 95 or (file.tell() > LIMIT and quality > 20):
        quality, file = quality - 5, BytesIO()
        picture.save(file, "WEBP", quality=quality, method=6)
    (PICTURES / f"{name}.webp").write_bytes(file.getvalue())
    print(f"{name}: {picture.width} x {picture.height}, {file.tell()} bytes, quality {quality}", flush=True)


def opened(page: Page, url: str, file: dict[str, Any]) -> None:
    page.goto(url)
    page.wait_for_function(READY)
    page.wait_for_selector("[role=dialog]")
    page.keyboard.press("Escape")
    page.wait_for_selector("[role=dialog]", state="hidden")
    for name in ("Comfy.Minimap.Visible", "Comfy.RightSidePanel.IsOpen"):
        page.evaluate("name => app.extensionManager.setting.set(name, false)", name)
    page.evaluate("file => app.loadGraphData(file, true, true, 'portraits')", file)


def drawing(draw: Callable[[Sheet], Portraits], info: dict[str, Any]) -> tuple[dict[str, Any], Portraits]:
    sheet = Sheet(info)
    with sheet.group("", "", WIDTH):
        portraits = draw(sheet)
    file = sheet.drawing(draw.__name__)
    for node in sheet.nodes:
        node["size"][1] = 10  # the page makes each as high as it has to be
    return file, portraits


def photograph_all(base: Path, wanted: list[str]) -> None:
    drawings = [drawing(draw, known_nodes()) for draw in (stream, beginnings, clips)]
    program = os.environ.get("CHROMIUM") or shutil.which("chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        for number, (file, portraits) in enumerate(drawings):
            page = browser.new_page(viewport={"width": 1500, "height": 1700}, device_scale_factor=2)
            page.set_default_timeout(120_000)
            opened(page, f"http://127.0.0.1:{PORT}", file)
            if number < 2:
                page.evaluate(RUN)
                page.wait_for_timeout(3000)  # results arrive
            for name in sorted(set(portraits) & set(wanted or portraits)):
                photograph(page, name, portraits[name])
            if number == 0:
                with av.open(str(next((base / "output").rglob("ball_*.mp4")))) as video:
                    next(video.decode(video=0)).to_image().save(base / "input" / "ball.png")
            page.context.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("nodes", nargs="*", metavar="NODE", help="a node's id (all of them)")
    wanted, studio = parser.parse_args().nodes, argparse.ArgumentParser()
    add_arguments(studio)
    with TemporaryDirectory() as folder:
        base = Path(folder)
        for name in ("models/loras/watercolour.safetensors", "input/ball.png"):
            (base / name).parent.mkdir(parents=True)
            (base / name).touch()
        options = studio.parse_args(["--no-browser", "--port", str(PORT), "--base", folder])
        server = get_context("fork").Process(target=run, args=(options,))
        server.start()
        try:
            PICTURES.mkdir(exist_ok=True)
            photograph_all(base, wanted)
        finally:
            server.terminate()
            server.join()


if __name__ == "__main__":
    main()
