"""The film node in a real ComfyUI on a GPU: frames a second of a whole run, as its server reports it.

    python -m comfyui_sana_video.benchmarks.comfyui_film COMFYUI_FOLDER [chunks] [--out FOLDER] [OPTION …]

The models of end_to_end.py, written as files, and a text encoder of full size with random weights. ComfyUI
runs as `main.py` with all other options (such as --disable-dynamic-vram). Each case is a film of its own; one
of three chunks before it loads the models. `--tiny` takes the demo model: the script, not the speed.
"""

from __future__ import annotations

import argparse
import json
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from ..sana_video_core.checkpoints.checkpoint import save_transformer
from ..sana_video_core.files.encoders import PRESET
from ..sana_video_core.files.tensor_file import write_tensors
from . import report
from .end_to_end import STEPS, full
from .text_encoder_file import write_text_encoder
from .timing import cores

BUILT_IN = "demo (built in)"
ROOT = Path(__file__).resolve().parents[1]
# name: the node's overlap and vae_device, and the loader's precision
CASES = {
    "full": ("auto", "default", "full"),
    "fp8": ("auto", "default", "fp8"),
    "full, in turn": ("off", "default", "full"),
}
SECOND_GPU = {"full, 2 GPU": ("auto", "gpu:1", "full")}


def write_models(base: Path) -> dict[str, str]:
    """Model files under base/models; the names that the loaders know them by."""
    folder = base / "models"
    for name in ("diffusion_models", "vae", "text_encoders"):
        (folder / name).mkdir(parents=True)
    setup = full(torch.device("cuda", 0))
    rules = setup.model.family
    tensors = {name: tensor.cpu() for name, tensor in setup.model.state_dict().items()}
    save_transformer(folder / "diffusion_models" / "t.safetensors", tensors, rules.config, rules.name)
    tensors = {name: tensor.cpu() for name, tensor in setup.vae.state_dict().items()}
    write_tensors(folder / "vae" / "v.safetensors", tensors, {})
    write_text_encoder(folder / "text_encoders" / "gemma.safetensors")
    return {"model": "t.safetensors", "text_encoder": "gemma.safetensors", "vae": "v.safetensors"}


@contextmanager
def comfyui(folder: Path, base: Path, options: list[str]) -> Iterator[str]:
    """The address of a ComfyUI that serves `base`, with this pack."""
    (base / "custom_nodes").mkdir(parents=True, exist_ok=True)
    (base / "page").mkdir()
    (base / "page" / "index.html").write_text("nobody looks at it", encoding="utf-8")
    (base / "custom_nodes" / "comfyui_sana_video").symlink_to(ROOT)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "main.py", "--port", str(port), "--base-directory", str(base)]
    command += ["--disable-api-nodes", "--front-end-root", str(base / "page"), *options]
    with (base / "log").open("wb") as log:
        process = subprocess.Popen(command, cwd=folder, stdout=log, stderr=subprocess.STDOUT)
    address = f"http://127.0.0.1:{port}"
    try:
        while not _answers(address):
            if process.poll() is not None:
                raise RuntimeError((base / "log").read_text(encoding="utf-8")[-3000:])
            time.sleep(0.2)
        yield address
    finally:
        process.terminate()
        process.wait(60)


def _answers(address: str) -> bool:
    try:
        ask(f"{address}/system_stats")
    except OSError:
        return False
    return True


def ask(url: str, body: object = None) -> Any:
    data = None if body is None else json.dumps(body).encode()
    with urllib.request.urlopen(url, data) as answer:
        return json.loads(answer.read())


def graph(names: dict[str, str], case: tuple[str, str, str], size: tuple[int, int], seconds: float) -> Any:
    overlap, vae_device, precision = case
    loaders = {
        "model": ("SanaVideoModelLoader", {"family": "auto", "precision": precision}),
        "text_encoder": ("SanaVideoTextEncoderLoader", {}),
        "vae": ("SanaVideoVAELoader", {}),
    }
    inputs = {"model": "model_name", "text_encoder": "encoder_name", "vae": "vae_name"}
    nodes: dict[str, Any] = {
        key: {"class_type": kind, "inputs": {inputs[key]: names[key], **more}}
        for key, (kind, more) in loaders.items()
    }
    film = {key: [key, 0] for key in loaders} | {
        "script": "0:00 a fox runs through snow",
        "seconds": seconds,
        "width": size[0],
        "height": size[1],
        "seed": time.time_ns() % 2**32,  # another film each time
        "fps": 16,
        "filename_prefix": "film",
        "resume": True,
        "motion_score": 0,
        "steps": STEPS,
        "overlap": overlap,
        "vae_device": vae_device,
    }
    return nodes | {"film": {"class_type": "SanaVideoLongVideo", "inputs": film}}


def run(address: str, prompt: Any) -> float:
    """Seconds from the start of a run to its end, by the server's own clock."""
    number = ask(f"{address}/prompt", {"prompt": prompt})["prompt_id"]
    while not (history := ask(f"{address}/history/{number}")):
        time.sleep(0.1)
    messages = dict(history[number]["status"]["messages"])
    if "execution_success" not in messages:
        raise RuntimeError(json.dumps(messages.get("execution_error"))[:3000])
    return (messages["execution_success"]["timestamp"] - messages["execution_start"]["timestamp"]) / 1000


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("comfyui", type=Path)
    parser.add_argument("chunks", nargs="?", type=int, default=24)
    parser.add_argument("--tiny", action="store_true", help="the demo model")
    parser.add_argument("--out", type=Path, help="folder of comfyui_film_GPU.json")
    options, of_comfyui = parser.parse_known_args(arguments)
    size = (64, 64) if options.tiny else (832, 480)
    gpus = 0 if options.tiny else torch.cuda.device_count()
    cases = CASES | (SECOND_GPU if gpus > 1 else {})
    frames = 40 * options.chunks + 1
    with tempfile.TemporaryDirectory() as name:
        base = Path(name)
        names: dict[str, str] = {"model": BUILT_IN, "text_encoder": BUILT_IN, "vae": BUILT_IN}
        if not options.tiny:
            names = write_models(base)
        with comfyui(options.comfyui.resolve(), base, of_comfyui) as address:
            for case, how in cases.items():
                if options.tiny and how[-1] != "full":  # a CPU has no fp8
                    continue
                run(address, graph(names, how, size, 7.5))
                seconds = run(address, graph(names, how, size, 2.5 * options.chunks))
                row = {"seconds": seconds, "frames_per_s": frames / seconds, "options": of_comfyui}
                row |= {"chunks": options.chunks, "preset": PRESET, "cpu_cores": cores()}
                row["node"] = dict(zip(("overlap", "vae_device", "precision"), how, strict=True))
                print(json.dumps({case: row}), flush=True)
                about = " ".join([case, *of_comfyui])
                report.write(options.out, "comfyui_film", {"cases": {about: row}})
        print((base / "log").read_text(encoding="utf-8")[-2000:])


if __name__ == "__main__":
    main()
