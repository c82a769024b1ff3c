"""ComfyUI's page as an artist uses it: mouse, keyboard, what can be seen; a few questions to its graph."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

from playwright.sync_api import Locator, Page, Response, TimeoutError, expect

from .calibration import limit, until
from .comfyui import TEXT

SHOTS = Path(__file__).parents[2] / "out" / "browser"
READY = "() => window.app?.vueAppReady && window.app?.graph && !document.querySelector('#splash-loader')"
# what the page knows of a node's widgets; "$$…" are previews that it adds after a run
WIDGETS = """() => app.graph.nodes.map(node => ({id: node.id, type: node.type,
    known: node.type in LiteGraph.registered_node_types,
    widgets: (node.widgets ?? []).filter(w => !w.name.startsWith('$$')).map(w => ({
        name: w.name, type: w.type, value: w.value, min: w.options?.min, max: w.options?.max,
        values: typeof w.options?.values === 'function' ? w.options.values() : w.options?.values}))}))"""
# in CSS pixels of the window
PLACE = """([x, y]) => {
    const {scale, offset} = app.canvas.ds, box = app.canvas.canvas.getBoundingClientRect();
    return [(x + offset[0]) * scale + box.left, (y + offset[1]) * scale + box.top] }"""


class ComfyPage:
    def __init__(self, page: Page, url: str) -> None:
        self.page, self.url, self.vue = page, url, False
        self.messages: list[dict[str, Any]] = []  # of the web socket
        self.previews = 0
        self.outside: list[str] = []  # requests to anybody but the server
        self.errors: list[str] = []
        page.on("websocket", lambda socket: socket.on("framereceived", self._hear))
        page.on("request", self._watch)
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.set_default_timeout(1000 * limit(30))
        expect.set_options(timeout=1000 * limit(20))

    def _hear(self, frame: str | bytes) -> None:
        if isinstance(frame, bytes):
            self.previews += frame[:4] != TEXT
        else:
            self.messages.append(json.loads(frame))

    def _watch(self, request: Any) -> None:
        if not request.url.startswith((self.url, "data:", "blob:")):
            self.outside.append(request.url)

    def open(self) -> ComfyPage:
        """The page without the Templates of a first visit."""
        self.first_visit()
        self.page.keyboard.press("Escape")
        self.page.wait_for_selector("[role=dialog]", state="hidden")
        return self

    def empty(self, vue: bool = False, width: int = 1600, height: int = 1000) -> ComfyPage:
        """An empty graph, with nodes that Vue or the canvas draws, whatever was on the page before."""
        self.vue = vue
        self.page.set_viewport_size({"width": width, "height": height})
        self.page.keyboard.press("Escape")
        self.page.evaluate("() => app.extensionManager.command.execute('Comfy.NewBlankWorkflow')")
        self.set("Comfy.RightSidePanel.IsOpen", False)
        self.set("Comfy.Minimap.Visible", False)
        self.set("Comfy.VueNodes.Enabled", vue)
        self.page.evaluate("() => { app.canvas.ds.reset(); app.extensionManager.toast.removeAll?.() }")
        for heard in (self.messages, self.outside, self.errors):
            heard.clear()
        self.previews = 0
        return self

    def first_visit(self) -> None:
        """The page as it opens for the first time: with Templates."""
        for name in ("Comfy.TutorialCompleted", "Comfy.RightSidePanel.IsOpen"):  # settings are the server's
            self.page.request.post(f"{self.url}/settings/{name}", data="false")
        self.page.goto(self.url)
        self.wait_until_ready()
        self.page.wait_for_selector("[role=dialog]")

    def wait_until_ready(self) -> None:
        self.page.wait_for_function(READY)

    def set(self, name: str, value: Any) -> None:
        self.page.evaluate("([id, v]) => app.extensionManager.setting.set(id, v)", [name, value])

    def shot(self, name: str) -> Path:
        """A picture of the window, kept for people to look at."""
        SHOTS.mkdir(parents=True, exist_ok=True)
        path = SHOTS / f"{name}.png"
        self.page.screenshot(path=path)
        return path

    # ------------------------------------------------------------ files

    def load(self, workflow: Any, name: str = "test") -> None:
        self.page.evaluate("([w, n]) => app.loadGraphData(w, true, true, n)", [workflow, name])
        self.page.wait_for_timeout(300)

    def fit(self) -> None:
        self.page.locator("#graph-canvas").focus()
        self.page.keyboard.press(".")
        self.page.wait_for_timeout(400)

    def refresh(self) -> None:
        """As an artist's R: ask the server for nodes and files again."""
        self.page.evaluate("() => app.extensionManager.command.execute('Comfy.RefreshNodeDefinitions')")

    def words(self, node: str) -> str:
        """What a node says on the page."""
        found = "w => w.name === '$$node-text-preview'"
        return self.page.evaluate(
            f"id => app.graph.getNodeById(id).widgets?.find({found})?.value ?? ''", node
        )

    def serialized(self) -> dict[str, Any]:
        return self.page.evaluate("() => app.graph.serialize()")

    def widgets(self) -> list[dict[str, Any]]:
        return self.page.evaluate(WIDGETS)

    def prompt(self) -> dict[str, Any]:
        return self.page.evaluate("async () => (await app.graphToPrompt()).output")

    # ------------------------------------------------------------ by hand

    def zoom(self, scale: float) -> None:
        """Out, with the wheel."""
        self.page.mouse.move(900, 600)
        while self.page.evaluate("() => app.canvas.ds.scale") > scale:
            self.page.mouse.wheel(0, 100)
            self.page.wait_for_timeout(50)

    def add(self, title: str, x: int, y: int) -> str:
        """A node from the search box, placed with its title's middle at (x, y) of the window; its id."""
        before = set(self.page.evaluate("() => app.graph.nodes.map(node => String(node.id))"))
        box = self.search_box(x, y)
        box.fill(title)
        self.page.get_by_role("dialog").get_by_text(title, exact=True).first.click()
        box.wait_for(state="hidden")
        self.page.mouse.move(x, y + 1)
        self.page.mouse.click(x, y)
        self.page.wait_for_function("() => !app.graph.nodes.some(node => node.flags.ghost)")
        after = self.page.evaluate("() => app.graph.nodes.map(node => String(node.id))")
        (new,) = set(after) - before
        return new

    def search_box(self, x: int, y: int) -> Locator:
        """The box that a double click on the empty canvas opens, ready to be filled."""
        return self._opened_at(x, y, self.page.get_by_role("dialog").locator("input[role=combobox]"))

    def _opened_at(self, x: float, y: float, field: Locator) -> Locator:
        """What a double click opens. A busy page takes it for two clicks; then a person tries again."""
        for _ in range(5):
            self.page.wait_for_timeout(320)  # or the click before would be half of it
            self.page.mouse.dblclick(x, y)
            with suppress(TimeoutError):
                field.wait_for(timeout=1000 * limit(2))
                return field
        raise AssertionError(f"nothing opened at ({x}, {y})")

    def connect(self, source: str, output: str, target: str, entry: str) -> None:
        """Drag a link from an output to an input, both by name."""
        self.page.mouse.move(*self._slot(source, "outputs", output))
        self.page.mouse.down()
        self.page.mouse.move(*self._slot(target, "inputs", entry), steps=3)
        self.page.mouse.up()

    def _slot(self, node: str, side: str, name: str) -> list[float]:
        index = self.page.evaluate(
            "([id, side, name]) => app.graph.getNodeById(id)[side].findIndex(slot => slot.name === name)",
            [node, side, name],
        )
        assert index >= 0, f"node {node} has no {name} among its {side}"
        if self.vue:
            dot = self.page.locator(
                f"[data-slot-key='{node}-{side.removesuffix('puts')}-{index}']"
            ).bounding_box()
            return [dot["x"] + dot["width"] / 2, dot["y"] + dot["height"] / 2]
        way = "getInputPos" if side == "inputs" else "getOutputPos"
        where = f"([id, i]) => [...app.graph.getNodeById(id).{way}(i)]"
        return self.page.evaluate(PLACE, self.page.evaluate(where, [node, index]))

    def type_number(self, node: str, name: str, value: int) -> None:
        if self.vue:
            field = self.page.locator(f"[data-node-id='{node}']").get_by_label(name).get_by_role("spinbutton")
            field.fill(str(value))
            field.press("Enter")
            return
        field = self._opened_at(*self.widget(node, name), self.page.locator(".graphdialog input"))
        field.fill(str(value))
        self.page.keyboard.press("Enter")

    def title_of(self, node: str) -> list[float]:
        where = (
            "id => { const n = app.graph.getNodeById(id); return [n.pos[0] + n.size[0] / 2, n.pos[1] - 15] }"
        )
        return self.page.evaluate(PLACE, self.page.evaluate(where, node))

    def widget(self, node: str, name: str) -> list[float]:
        """The middle of a widget that the canvas draws."""
        where = """([id, name]) => { const node = app.graph.getNodeById(id);
            const widget = node.widgets.find(w => w.name === name);
            return [node.pos[0] + node.size[0] / 2, node.pos[1] + widget.y + 10] }"""
        return self.page.evaluate(PLACE, self.page.evaluate(where, [node, name]))

    def type_text(self, node: str, text: str, name: str = "text") -> None:
        """Into the node's text box."""
        if self.vue:
            self.page.locator(f"[data-node-id='{node}'] textarea").first.click()
        else:
            self.page.mouse.click(*self.widget(node, name))
        self.page.keyboard.press("Control+a")
        self.page.keyboard.type(text)

    # ------------------------------------------------------------ runs

    def run(self) -> Response:
        """Click Run; the server's answer."""
        self.messages.clear()
        with self.page.expect_response(lambda answer: answer.url.endswith("/prompt")) as answer:
            self.page.get_by_test_id("queue-button").click()
        return answer.value

    def running(self) -> bool:
        """Whether the server has a job in progress."""
        answer = self.page.request.get(f"{self.url}/api/jobs?status=in_progress")
        return bool(answer.json()["jobs"])

    def details_of_errors(self) -> str:
        """What the page says of errors when an artist asks."""
        self.page.get_by_text("View details").first.click()
        self.page.get_by_role("button", name="Info").first.click()
        return self.page.get_by_test_id("error-group-execution").inner_text()

    def wait_for(self, kind: str, seconds: float = 90, **data: Any) -> dict[str, Any]:
        """Until the server sends this message (with these values); its data."""
        answer = until(lambda: self._heard(kind, data), seconds, self.pause)
        assert answer is not None
        return answer

    def wait_for_step(self, least: int, seconds: float = 90) -> None:
        """Until a node's progress is this far; ComfyUI leaves out steps that follow fast."""
        until(lambda: max(self.steps(), default=0) >= least, seconds, self.pause)

    def steps(self, node: str | None = None) -> list[int]:
        """The steps that the server told of, of a node or of all."""
        heard = (message["data"] for message in self.messages if message["type"] == "progress")
        return [data["value"] for data in heard if node in (None, data["node"])]

    def _heard(self, kind: str, data: dict[str, Any]) -> dict[str, Any] | None:
        for message in self.messages:
            values = message.get("data", {})
            if message["type"] == kind and all(values.get(name) == value for name, value in data.items()):
                return values
            assert kind == message["type"] or message["type"] != "execution_error", values
        return None

    def pause(self, seconds: float) -> None:
        """Let the page and its messages go on."""
        self.page.wait_for_timeout(1000 * seconds)

    def playing(self) -> dict[str, Any]:
        """The video on the page, when it has begun to play."""
        video = self.page.locator("video").last
        expect(video).to_be_visible()
        video.evaluate("async video => { video.muted = true; await video.play() }")
        self.page.wait_for_timeout(500)
        return video.evaluate(
            "v => ({state: v.readyState, width: v.videoWidth, height: v.videoHeight,"
            " time: v.currentTime, length: v.duration})"
        )
