"""`sana-video run`: with toy nodes here, and against a small fake server."""

import argparse
import asyncio
import json
import struct
import threading
from io import BytesIO
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from comfy_api.latest import InputImpl, io
from comfyui_sana_video.command_line import server as client
from comfyui_sana_video.command_line.run import add_arguments, run
from comfyui_sana_video.sana_video_core.errors import Cancelled, FileError, InputError, SanaVideoError
from comfyui_sana_video.sana_video_core.files.video_writer import VideoWriter
from comfyui_sana_video.standalone.engine import core_nodes, graph
from PIL import Image
from support.drawing import DRAWING, PROMPT
from support.prompts import chain, node, start

web = pytest.importorskip("aiohttp.web")


class MakeVideo(io.ComfyNode):
    """A video of as many frames as requested, as bright as its picture."""

    FOLDER = ""

    @classmethod
    def define_schema(cls):
        inputs = [io.Image.Input("image"), io.Int.Input("frames", default=3)]
        return io.Schema(node_id="MakeVideo", inputs=inputs, outputs=[io.Video.Output()])

    @classmethod
    def execute(cls, image, frames):
        path = f"{MakeVideo.FOLDER}/made.mp4"
        with VideoWriter(path, fps=16, metadata={}) as writer:
            writer.write(torch.zeros(1, 3, frames, 32, 64) + image.mean())
        return io.NodeOutput(InputImpl.VideoFromFile(path))


@pytest.fixture
def options(tmp_path, toy_classes, monkeypatch):
    """options(workflow, *arguments): as from the command line, with toy nodes beside those of core."""
    known = graph.by_id([*core_nodes.NODES, MakeVideo], "nodes")
    monkeypatch.setattr(graph, "load_nodes", lambda: known | toy_classes)
    monkeypatch.setattr(MakeVideo, "FOLDER", str(tmp_path))
    parser = argparse.ArgumentParser()
    add_arguments(parser)

    def parse(workflow, *arguments):
        (tmp_path / "workflow.json").write_text(json.dumps(workflow))
        base = ["--base", str(tmp_path / "base")]
        return parser.parse_args([str(tmp_path / "workflow.json"), *base, *map(str, arguments)])

    return parse


def film(image="example.png"):
    return {
        "1": node("LoadImage", image=image),
        "2": node("MakeVideo", image=["1", 0], frames=3),
        "3": node("SaveVideo", video=["2", 0], filename_prefix="video/film", format="auto", codec="auto"),
    }


def test_a_video_is_saved_and_reported(options, tmp_path, capsys):
    assert run(options(film(), "--set", "2.frames=40", "--sheet", tmp_path / "sheet.png")) == 0
    video = tmp_path / "base/output/video/film_00001_.mp4"
    out = capsys.readouterr()
    assert f"saved {video}" in out.out
    assert "LoadImage (node 1): 100%" in out.err
    assert (tmp_path / "base/input/example.png").is_file()  # drawn, since it was not there
    with av.open(str(video)) as file:
        assert file.streams.video[0].frames == 40
        assert json.loads(file.metadata["prompt"])["2"]["inputs"]["frames"] == 40
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.width == 6 * 160
        assert sheet.height == 4 * (80 + 16)  # 24 of the 40 frames


def test_folders_can_be_set_and_nothing_is_overwritten(options, tmp_path):
    (tmp_path / "in").mkdir()
    Image.new("RGB", (8, 8), (9, 9, 9)).save(tmp_path / "in/example.png")
    before = (tmp_path / "in/example.png").read_bytes()
    for _ in range(2):
        run(options(film(), "--input", tmp_path / "in", "--output", tmp_path / "out"))
    assert (tmp_path / "in/example.png").read_bytes() == before
    videos = sorted(path.name for path in tmp_path.glob("out/video/*"))
    assert videos == ["film_00001_.mp4", "film_00002_.mp4"]


def test_a_drawing_runs(options, capsys):
    assert run(options(DRAWING)) == 1  # nodes 12 and 16 are left out
    out = capsys.readouterr().out
    assert "Left out, the rest runs:\nToyOwn (node 11): “state” is missing" in out
    assert "[7, 5, 42, 7]" not in out  # node 8 shows a number, node 14 a state


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16-le", "utf-16-be"])  # PowerShell writes UTF-16
def test_a_byte_order_mark_is_passed_over(encoding, options, capsys):
    parsed = options({})
    parsed.workflow.write_text("\ufeff" + json.dumps(chain(5)), encoding=encoding)
    parsed.set = ["\ufeff2.seed=\ufeff8"]
    assert run(parsed) == 0
    assert "[1, 8]" in capsys.readouterr().out


def test_no_title_is_no_mistake(options, capsys):
    prompt = {node_id: {**node, "_meta": None} for node_id, node in chain(5).items()}
    assert run(options(prompt, "--set", "ToyBlock.seed=9")) == 0
    assert "[1, 9]" in capsys.readouterr().out


def test_texts_are_printed(options, capsys):
    assert run(options(chain(5))) == 0
    assert "[1, 5]" in capsys.readouterr().out


def test_unknown_nodes_are_named(options):
    with pytest.raises(
        InputError, match=r"^Only a real ComfyUI runs KSampler, VAELoader\. .*--server http://"
    ):
        run(options(chain() | {"a": node("VAELoader"), "b": node("KSampler")}))


def test_mistakes_are_named(options):
    with pytest.raises(InputError, match=r"no picture “other\.png”"):
        run(options(film("other.png")))
    with pytest.raises(InputError, match="contact sheet"):
        run(options(chain(), "--sheet", "x.png"))


def test_load_image(tmp_path, monkeypatch):
    import folder_paths

    monkeypatch.setitem(folder_paths._roots, "input", str(tmp_path))
    Image.new("RGBA", (3, 2), (255, 0, 51, 64)).save(tmp_path / "clear.png")
    Image.new("RGB", (3, 2), (255, 0, 51)).save(tmp_path / "solid.png")
    image, mask = core_nodes.LoadImage.execute("clear.png").args
    assert (image.shape, mask.shape) == ((1, 2, 3, 3), (1, 2, 3))
    assert image[0, 0, 0].tolist() == pytest.approx([1, 0, 0.2])
    assert mask.max() == pytest.approx(1 - 64 / 255)
    assert core_nodes.LoadImage.execute("solid.png").args[1].shape == (1, 64, 64)
    choices = core_nodes.LoadImage.GET_NODE_INFO_V1()["input"]["required"]["image"][1]
    assert choices["options"] == ["clear.png", "solid.png"]
    assert choices["image_upload"] is True
    first = core_nodes.LoadImage.fingerprint_inputs("solid.png")
    Image.new("RGB", (3, 2), (254, 0, 51)).save(tmp_path / "solid.png")
    assert core_nodes.LoadImage.fingerprint_inputs("solid.png") != first


def test_load_image_keeps_the_range_of_16_bits_and_refuses_what_is_none(tmp_path, monkeypatch):
    import folder_paths

    monkeypatch.setitem(folder_paths._roots, "input", str(tmp_path))
    ramp = np.linspace(0, 65535, 256).astype(np.uint16)[None].repeat(4, 0)
    Image.fromarray(ramp).save(tmp_path / "grey16.png")
    image, _ = core_nodes.LoadImage.execute("grey16.png").args
    assert image.shape == (1, 4, 256, 3)
    assert np.abs(image[0, 2, :, 1].numpy() - np.linspace(0, 1, 256)).max() < 0.005
    (tmp_path / "broken.png").write_bytes((tmp_path / "grey16.png").read_bytes()[:60])
    with pytest.raises(FileError, match=r"broken\.png.*ends early"):
        core_nodes.LoadImage.execute("broken.png")
    (tmp_path / "folder.png").mkdir()
    for name in ("folder.png", "no.png", "../x.png", "x" * 300):
        assert core_nodes.LoadImage.validate_inputs(name) is not True


class Server:
    """Answers like a ComfyUI that sends `events` once a prompt arrives."""

    def __init__(self, info, events, refusal=None, node_errors=None):
        self.info, self.events, self.refusal, self.got = info, events, refusal, []
        self.node_errors, self.pictures = node_errors or {}, []
        self._ready, self._stop = threading.Event(), None
        threading.Thread(target=lambda: asyncio.run(self._serve()), daemon=True).start()
        assert self._ready.wait(10)

    async def _serve(self):
        self._stop, self._queue, loop = asyncio.Event(), asyncio.Queue(), asyncio.get_running_loop()

        async def object_info(request):
            return web.json_response(self.info)

        async def prompt(request):
            self.got.append(await request.json())
            if self.refusal:
                self._queue.put_nowait(False)  # so that the socket is closed at once
                if self.refusal == "broken":
                    return web.Response(status=500, text="500 Internal Server Error")
                return web.json_response(self.refusal, status=400)
            self._queue.put_nowait(True)
            return web.json_response({"prompt_id": "p", "number": 1, "node_errors": self.node_errors})

        async def interrupt(request):
            self.got.append("interrupt")
            return web.Response()

        async def view(request):
            return web.Response(body=json.dumps(dict(request.query)).encode())

        async def follow(request):
            socket = web.WebSocketResponse()
            await socket.prepare(request)
            if not await self._queue.get():
                return socket
            for message in (b"a preview", *self.pictures):
                await socket.send_bytes(message)
            for kind, data in self.events:
                await socket.send_json({"type": kind, "data": {"prompt_id": "p", **data}})
            return socket

        app = web.Application()
        app.add_routes(
            [web.get("/object_info", object_info), web.post("/prompt", prompt), web.get("/ws", follow)]
        )
        app.add_routes([web.post("/interrupt", interrupt), web.get("/view", view)])
        runner = web.AppRunner(app)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"http://127.0.0.1:{site._server.sockets[0].getsockname()[1]}"
        self.stop = lambda: loop.call_soon_threadsafe(self._stop.set)
        self._ready.set()
        await self._stop.wait()
        await runner.cleanup()


@pytest.fixture
def serve(toy_classes):
    servers = []

    def make(*events, **more):
        info = {name: toy.GET_NODE_INFO_V1() for name, toy in toy_classes.items()}
        servers.append(Server(json.loads(json.dumps(info)), events, **more))
        return servers[-1]

    yield make
    for server in servers:
        server.stop()


def test_a_server_gets_the_prompt_and_its_files_are_fetched(options, serve, tmp_path, capsys):
    file = {"filename": "a.mp4", "subfolder": "video", "type": "output"}
    preview = {"filename": "b.png", "subfolder": "", "type": "temp"}
    server = serve(
        ("execution_success", {"prompt_id": "somebody else's"}),
        ("executing", {"node": "1"}),
        ("progress", {"node": "1", "value": 1, "max": 4}),
        ("executed", {"node": "8", "output": {"images": [file, preview], "text": ["a text"]}}),
        ("execution_success", {}),
    )
    words = ["--server", server.url + "/", "--output", tmp_path / "out", "--set", "1.seed=8"]
    assert run(options(DRAWING, *words)) == 0
    expected = json.loads(json.dumps(PROMPT))
    expected["1"]["inputs"]["seed"] = 8
    assert server.got[0]["prompt"] == expected
    assert server.got[0]["extra_data"]["extra_pnginfo"]["workflow"] == json.loads(json.dumps(DRAWING))
    assert json.loads((tmp_path / "out/video/a.mp4").read_text()) == file
    assert not (tmp_path / "out/b.png").exists()
    out = capsys.readouterr()
    assert "a text" in out.out
    assert f"saved {tmp_path / 'out/video/a.mp4'}" in out.out
    assert "The start (node 1)" in out.err


def test_a_servers_live_pictures_are_kept(options, serve, tmp_path):
    """ComfyUI's own message: two numbers (a picture; JPEG), and the file. Others are left alone."""
    server, file = serve(("execution_success", {})), tmp_path / "p.png"
    content = BytesIO()
    Image.new("RGB", (8, 4), "red").save(content, format="JPEG")
    good = struct.pack(">II", 1, 1) + content.getvalue()
    server.pictures = [good, struct.pack(">II", 3, 1) + content.getvalue(), good[:40]]
    assert run(options(chain(5), "--server", server.url, "--preview", file)) == 0
    assert server.got[0]["extra_data"]["preview_method"] == "auto"
    with Image.open(file) as picture:
        assert picture.size == (512, 256)
        assert picture.getpixel((256, 128))[0] > 250
    server = serve(("execution_success", {}))
    assert run(options(chain(5), "--server", server.url)) == 0
    assert "preview_method" not in server.got[0]["extra_data"]


def test_a_server_that_leaves_an_output_out(options, serve, capsys):
    error = {"type": "t", "message": "Value 500 bigger than max of 100", "details": "seed"}
    server = serve(("execution_success", {}), node_errors={"2": {"errors": [error]}})
    assert run(options(chain(500), "--server", server.url)) == 1
    assert "Left out, the rest runs:\nToyBlock (node 2): Value 500 bigger" in capsys.readouterr().out
    assert run(options(chain(5), "--server", serve(("execution_success", {})).url)) == 0


def test_nodes_that_a_server_has_not(options, serve):
    server = serve()
    with pytest.raises(InputError, match="This ComfyUI has no node Elsewhere, which other packs have"):
        run(options({**chain(5), "x": node("Elsewhere")}, "--server", server.url))
    assert server.got == []


@pytest.mark.parametrize("info", [None, [], {"KSampler": 5}])
def test_another_program_is_no_comfyui(info, options, serve):
    server = serve()
    server.info = info
    with pytest.raises(InputError, match=r"No ComfyUI answers at .* is another program"):
        run(options(chain(5), "--server", server.url))
    assert server.got == []


@pytest.mark.parametrize(
    "described, words",
    [
        ({"required": {"seed": "INT"}}, "its input “seed” as 'INT'"),  # a pack's ("INT") without its comma
        ({"required": {"seed": []}}, r"its input “seed” as \[\]"),
        ({"optional": {"seed": 5}}, "its input “seed” as 5"),
        ({"required": {"seed": [{"a": 1}]}}, "its input “seed” as "),
        ({"required": {"seed": ["INT", 5]}}, r"its input “seed” as \['INT', 5\]"),
        ({"required": {"seed": ["COMBO", {"options": 5}]}}, "its input “seed” as "),
        ({"required": {"seed": ["COMFY_DYNAMICCOMBO_V3", {"options": [5]}]}}, "its input “seed” as "),
        ({"required": ["seed"]}, r"its inputs as \{'required': \['seed'\]\}"),
        (5, "its inputs as 5"),
    ],
)
def test_a_node_that_a_server_describes_wrongly(described, words, options, serve):
    server = serve()
    server.info["ToyStart"]["input"] = described
    words = f"This ComfyUI has the node ToyStart, but describes {words}.* Update the pack that has this node"
    with pytest.raises(InputError, match=words):
        run(options(DRAWING, "--server", server.url))
    with pytest.raises(InputError, match=words):
        run(options(chain(5), "--server", server.url, "--set", "1.seed=8"))
    assert server.got == []


def test_a_wrong_description_of_a_node_that_nobody_uses(options, serve):
    server = serve(("execution_success", {}))
    server.info["Elsewhere"] = {"input": {"required": {"seed": 5}}}
    server.info["ToyStart"]["input"]["hidden"] = None
    assert run(options(DRAWING, "--server", server.url)) == 0


def test_nodes_of_the_page_do_not_reach_a_server(options, serve):
    prompt = {**chain(5), "n": node("Note", text="x"), "s": node("SetNode", a="m", b=["1", 0])}
    prompt |= {"g": node("GetNode", a="m")}
    prompt["2"]["inputs"]["state"] = ["g", 0]
    server = serve(("execution_success", {}))
    assert run(options(prompt, "--server", server.url)) == 0
    assert server.got[0]["prompt"] == chain(5)


def test_a_servers_files_overwrite_nothing(options, serve, tmp_path, capsys):
    """Another server counts from 1, too."""
    file = {"filename": "a.mp4", "subfolder": "video", "type": "output"}
    done = ("executed", {"node": "8", "output": {"images": [file]}}), ("execution_success", {})
    (tmp_path / "out/video").mkdir(parents=True)
    (tmp_path / "out/video/a.mp4").write_text("older")
    assert run(options(DRAWING, "--server", serve(*done).url, "--output", tmp_path / "out")) == 0
    assert (tmp_path / "out/video/a.mp4").read_text() == "older"
    assert json.loads((tmp_path / "out/video/a-2.mp4").read_text()) == file
    assert f"saved {tmp_path / 'out/video/a-2.mp4'}" in capsys.readouterr().out


def test_a_servers_refusal_is_quoted(options, serve):
    message = "Value 500 bigger than max of 100"
    error = {"type": "value_bigger_than_max", "message": message, "details": "seed"}
    refusal = {"error": {"message": "failed", "details": ""}, "node_errors": {"2": {"errors": [error]}}}
    with pytest.raises(InputError, match=r"ToyBlock \(node 2\): Value 500 bigger than max of 100: seed"):
        run(options(chain(500), "--server", serve(refusal=refusal).url))
    refusal["node_errors"]["2"]["errors"] = [{"message": "Our words.", "details": "Our words."}]
    with pytest.raises(InputError, match=r"ToyBlock \(node 2\): Our words\.$"):
        run(options(chain(500), "--server", serve(refusal=refusal).url))
    refusal = {"error": {"message": "Node 'X' not found.", "details": "ID 1"}, "node_errors": {}}
    with pytest.raises(InputError, match="refuses this workflow: Node 'X' not found"):
        run(options(chain(), "--server", serve(refusal=refusal).url))


def test_a_server_that_fails_while_checking(options, serve):
    with pytest.raises(
        InputError, match=r"refuses this workflow: It failed while checking it \(500 Internal"
    ):
        run(options(chain(5), "--server", serve(refusal="broken").url))


@pytest.mark.parametrize(
    ("event", "error", "says"),
    [
        (
            ("execution_error", {"node_id": "2", "exception_message": "broke\n"}),
            SanaVideoError,
            r"ToyBlock \(node 2\): broke",
        ),
        (("execution_interrupted", {"node_id": "2"}), Cancelled, r"stopped in ToyBlock \(node 2\)"),
        (("status", {}), SanaVideoError, "closed the connection"),
    ],
)
def test_a_run_that_ends_badly_on_a_server(event, error, says, options, serve):
    with pytest.raises(error, match=says):
        run(options(chain(5), "--server", serve(event).url))


def test_a_missing_server(options):
    with pytest.raises(InputError, match=r"No ComfyUI answers at http://127\.0\.0\.1:9 "):
        run(options(chain(5), "--server", "http://127.0.0.1:9"))


def test_ctrl_c_interrupts_the_server(serve, monkeypatch, tmp_path):
    async def hang(*_):
        asyncio.current_task().cancel()
        await asyncio.sleep(60)

    monkeypatch.setattr(client, "_follow", hang)
    server = serve()
    with pytest.raises(asyncio.CancelledError):
        asyncio.run(client._run(server.url, lambda info: ({"1": start()}, {}), tmp_path))
    assert server.got[-1] == "interrupt"


def test_what_is_no_file_is_refused(options, tmp_path, monkeypatch):
    parsed = options({})
    for path, reason in ((tmp_path, "Is a directory"), (tmp_path / "none", "No such file")):
        parsed.workflow = path
        with pytest.raises(FileError, match=f"cannot be read: {reason}"):
            run(parsed)
    parsed.workflow = tmp_path / ("x" * 300)
    with pytest.raises(FileError, match="cannot be read: File name too long"):
        run(parsed)
    parsed.workflow = Path("a\0b")
    with pytest.raises(FileError, match="cannot be read: embedded null"):
        run(parsed)
    parsed.workflow = tmp_path / "latin.json"
    parsed.workflow.write_bytes(b'{"\xe9": 1}')
    with pytest.raises(FileError, match="it is no text in UTF-8"):
        run(parsed)


@pytest.mark.parametrize(
    "text",
    ['{"1": {"inputs": {}}}', '{"nodes": {"a": 1}}', '{"nodes": [{"id": 1}]}', "[" * 100_000, '{"1": 2}'],
)
def test_a_damaged_workflow_is_refused(options, tmp_path, text):
    parsed = options({})
    parsed.workflow.write_text(text)
    with pytest.raises(SanaVideoError, match="workflow"):
        run(parsed)
