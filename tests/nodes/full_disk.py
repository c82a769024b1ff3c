"""A full disk, as a process that test_full_disk.py starts; it prints what happened as JSON.

No file may grow over a limit. The system reports that as it reports a full disk: the write fails.
"""

import json
import resource
import signal
import sys
from pathlib import Path

import torch
from comfyui_sana_video.demo.model_set import TINY, VAE_CONFIG, seeded
from comfyui_sana_video.sana_video_core.checkpoints.checkpoint import save_transformer
from comfyui_sana_video.sana_video_core.config import DEMO
from comfyui_sana_video.sana_video_core.errors import FileError
from comfyui_sana_video.sana_video_core.files.tensor_file import write_tensors
from comfyui_sana_video.sana_video_core.transformer.model import SanaVideo
from comfyui_sana_video.sana_video_core.vae.wan_vae import WanVAE
from support.artist import folders, run

LIMIT = 40_000  # bytes; a state takes 100 kB, a film more


def models(base: Path) -> None:
    for folder in ("diffusion_models", "vae"):
        (base / "models" / folder).mkdir(parents=True)
    transformer = seeded(SanaVideo(TINY, DEMO), 0).state_dict()
    save_transformer(base / "models/diffusion_models/m.safetensors", transformer, TINY, DEMO.name)
    write_tensors(base / "models/vae/v.safetensors", seeded(WanVAE(VAE_CONFIG), 1).state_dict(), {})


def attempt(name: str, *values) -> dict:
    try:
        result = run(name, *values)
    except FileError as error:
        return {"refused": str(error)}
    return {"file": result.get_stream_source() if name == "DecodeStream" else None}


def files(base: Path) -> list[str]:
    """All files outside models/, hidden ones too."""
    paths = (path.relative_to(base) for path in base.rglob("*") if path.is_file())
    return sorted(path.as_posix() for path in paths if path.parts[0] != "models")


def main(base: Path) -> None:
    outcomes = {}
    models(base)
    model, vae = run("ModelLoader", "m.safetensors", "auto"), run("VAELoader", "v.safetensors")
    positive = [[torch.ones(1, 5, TINY.caption_channels), {}]]
    start = run("Start", model, 48, 32, 1)
    _, state, _ = run("BlockSampler", model, positive, start, 2, 3, 2, "few_step", "recache")
    requests = {
        "save": ("SaveState", state, "sana_states/state"),
        "film": ("DecodeStream", vae, state, 0, 16.0, "h264", 0),
    }
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    _, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    for limit, when in ((LIMIT, "full"), (most, "again")):
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, most))
        for name, request in requests.items():
            outcomes[f"{name} {when}"] = attempt(*request) | {"files": files(base)}
    sys.stdout.write(json.dumps(outcomes))


def start() -> None:
    with folders(Path(sys.argv[1])):
        main(Path(sys.argv[1]))
