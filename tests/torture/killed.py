"""What can be killed while it writes, in a folder of its own; and what its next writers are."""

import asyncio
import json
from functools import cache
from pathlib import Path

import av
import folder_paths
from comfyui_sana_video.command_line.cli import main
from comfyui_sana_video.demo.model_set import DemoSet, demo_set, write_demo_set
from comfyui_sana_video.nodes.files import new_file
from comfyui_sana_video.sana_video_core.files.atomic import atomic_path
from comfyui_sana_video.sana_video_core.files.claims import claim
from comfyui_sana_video.sana_video_core.files.tensor_file import read_tensors
from comfyui_sana_video.sana_video_core.streaming.state_file import load_state, save_state
from comfyui_sana_video.standalone.engine.core_nodes import _new_video
from comfyui_sana_video.standalone.studio import files as page_files
from comfyui_sana_video.standalone.temp import own_temp
from PIL import Image
from support import checks_stream
from support.pack import Pack
from support.prompts import node

DEMO = "demo (built in)"
FRAMES = 41  # of every film here
SAVES = 8  # of one process that saves again and again


def generate():
    names = ["--out", "v.mp4", "--sheet", "v.png", "--state-out", "s.safetensors"]
    return main(["generate", "a", "--size", "64x32", "--steps", "1", *names])


def run():
    text = {"text": "a ball", "motion_score": 0, "instruction": False}
    sampler = {"chunks": 1, "seed": 0, "steps": 1, "sampler": "few_step", "on_prompt_change": "recache"}
    film = {"filename_prefix": "video/film", "format": "auto", "codec": "auto"}
    decoder = {"from_chunk": 0, "fps": 16.0, "codec": "h264", "batch_row": 0}
    prompt = {
        "1": node("SanaVideoModelLoader", model_name=DEMO, family="auto"),
        "2": node("SanaVideoStart", model=["1", 0], width=64, height=32, batch_size=1),
        "3": node("SanaVideoTextEncoderLoader", encoder_name=DEMO),
        "4": node("SanaVideoTextEncode", text_encoder=["3", 0], **text),
        "5": node("SanaVideoBlockSampler", model=["1", 0], positive=["4", 0], state=["2", 0], **sampler),
        "6": node("SanaVideoVAELoader", vae_name=DEMO),
        "7": node("SanaVideoDecodeStream", vae=["6", 0], state=["5", 1], **decoder),
        "8": node("SaveVideo", video=["7", 0], **film),
        "9": node("SanaVideoSaveState", state=["5", 1], filename_prefix="state"),
        "10": node("SanaVideoStateInfo", state=["5", 1]),
    }
    Path("../workflow.json").write_text(json.dumps(prompt), encoding="utf-8")
    return main(["run", "../workflow.json"])


def studio():
    """Saves a workflow and uploads a picture, as the page asks for it."""
    for number in range(SAVES):
        asyncio.run(page_files._write(Path("user/w.json"), json.dumps([number] * 20_000).encode()))
        picture = Image.effect_noise((200, 200), number + 1)
        picture.save("../noise.png")
        names = page_files._names(Path("input/a.png"))
        asyncio.run(page_files._write_new(names, Path("../noise.png").read_bytes()))
    return 0


def states():
    folder_paths.set_base_directory(".")
    for _ in range(SAVES):
        save_state(_state(), "s.safetensors")
        with new_file("sana_states/state", ".safetensors") as path:
            save_state(_state(), path)
    return 0


@cache
def _state():
    pack = Pack()
    model = pack.tiny_model()
    return checks_stream.run(pack, model, checks_stream.begin(pack, model), plan=(3, 2))


def convert():
    return main(["convert", str(demo_set().transformer), "m.safetensors"])


def make_demo():
    write_demo_set("set")
    return 0


# --- the next writers of these names


def write(name):
    with claim(name), atomic_path(name) as new:
        new.touch()
    Path(name).unlink()


def after_generate():
    for name in ("v.mp4", "v.png", "s.safetensors"):
        write(name)


def after_run():
    folder_paths.set_base_directory(".")
    with own_temp(), new_file("sana_states/state", ".safetensors"), _new_video("video/film"):
        pass


def after_studio():
    Path("user").mkdir(exist_ok=True)
    Path("input").mkdir(exist_ok=True)
    write("user/w.json")
    asyncio.run(page_files._write_new(page_files._names(Path("input/a.png")), b"x"))
    for path in Path("input").glob("*.png"):
        if path.read_bytes() == b"x":
            path.unlink()


def after_states():
    folder_paths.set_base_directory(".")
    write("s.safetensors")
    with new_file("sana_states/state", ".safetensors"):
        pass


def after_convert():
    write("m.safetensors")


def after_make_demo():
    if not Path("set").exists():
        write_demo_set("set")


KINDS = {
    "generate": (generate, after_generate),
    "run": (run, after_run),
    "studio": (studio, after_studio),
    "states": (states, after_states),
    "convert": (convert, after_convert),
    "make_demo": (make_demo, after_make_demo),
}


# --- whether a name holds half a file


def check_whole(path: Path) -> None:
    """Raises if a file isn't whole."""
    if path.suffix == ".mp4":
        with av.open(str(path)) as film:
            frames = sum(packet.size > 0 and not packet.is_corrupt for packet in film.demux(video=0))
            assert frames == film.streams.video[0].frames == FRAMES, path
    elif path.name == "model.safetensors":
        assert read_tensors(path)[0]
    elif path.suffix == ".safetensors":
        tensors, metadata = read_tensors(path)
        assert tensors
        if "sana_video_state" in metadata:
            load_state(path)
    elif path.suffix == ".png":
        Image.open(path).load()
    elif path.suffix == ".json":
        json.loads(path.read_text(encoding="utf-8"))
    else:
        raise AssertionError(f"nobody writes {path}")


def check_set(folder: Path) -> None:
    assert not folder.exists() or all(path.is_file() for path in DemoSet.at(folder).files())
