"""Trains the demo model from nothing, or goes on where the last call stopped.

    python training/run.py                        on a CPU, or on one GPU
    torchrun --nproc-per-node 2 training/run.py   on two GPUs: every batch twice as large

`--minutes 9` stops after that time; the same command later goes on. Nothing is read but the folder of the training.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path

import torch
import torch.distributed as dist

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))
from conftest import PACKAGE  # noqa: F401  registers the checkout under its package name

# isort: split
from comfyui_sana_video.sana_video_core.errors import SanaVideoError
from comfyui_sana_video.training.models import fresh_encoder
from comfyui_sana_video.training.plan import SMOKE, Plan
from comfyui_sana_video.training.stages import Training


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path, default=ROOT / "out" / "training", help="where it is kept")
    parser.add_argument("--minutes", type=float, default=10**6, help="stop after this time; later go on")
    parser.add_argument("--start", type=Path, help="a demo set to begin with, where nothing is kept")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--smoke", action="store_true", help="a few steps of everything, to see that it runs")
    options = parser.parse_args()
    until = time.monotonic() + 60 * options.minutes
    # before the processes know of each other: transformers lets only the first one write
    encoder = fresh_encoder()
    if "LOCAL_RANK" in os.environ:  # under torchrun
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        dist.init_process_group("nccl")
    torch.backends.cudnn.benchmark = True
    plan = SMOKE if options.smoke else Plan()
    options.folder.mkdir(parents=True, exist_ok=True)  # now: not after the first stage
    done = Training(plan, encoder, options.folder, until=until, seed=options.seed, start=options.start).run()
    print("done" if done else "time is up; the same command goes on", flush=True)
    if dist.is_initialized():
        dist.destroy_process_group()


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        print("stopped; the same command goes on", flush=True)
        sys.exit(130)
    except (SanaVideoError, OSError) as error:  # a file that is not there or not what it should be
        sys.exit(str(error))
