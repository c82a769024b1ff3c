"""Trains the demo model from scratch, or resumes where the last call stopped.

    python -m comfyui_sana_video.training.run                        on a CPU, or on one GPU
    torchrun --nproc-per-node 2 -m comfyui_sana_video.training.run   on two GPUs: batches twice as large

`--minutes 9` stops after that time; the same command resumes later. Reads nothing but the training's folder.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path

import torch
import torch.distributed as dist

from ..sana_video_core.errors import SanaVideoError
from .models import fresh_encoder
from .plan import SMOKE, Plan
from .stages import Training

ROOT = Path(__file__).resolve().parents[1]


def main(arguments: list[str] | None = None) -> int:
    """Train as far as the time allows. Returns the exit status: 0, 1 after an error, 130 after Ctrl-C."""
    options = _parser().parse_args(arguments)
    try:
        done = _train(options)
    except KeyboardInterrupt:
        print("stopped; the same command resumes", flush=True)
        return 130
    except (SanaVideoError, OSError) as error:  # a file that is missing, or of another kind
        print(error, file=sys.stderr)
        return 1
    print("done" if done else "time is up; the same command resumes", flush=True)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path, default=ROOT / "out" / "training", help="for all its files")
    parser.add_argument("--minutes", type=float, default=10**6, help="stop after this time; resume later")
    parser.add_argument("--start", type=Path, help="a demo set to begin with, if the folder is empty")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--smoke", action="store_true", help="a few steps of everything, as a test")
    return parser


def _train(options: argparse.Namespace) -> bool:
    """Returns whether all stages are done."""
    until = time.monotonic() + 60 * options.minutes
    # before the processes know of each other: transformers lets only the first one write
    encoder = fresh_encoder()
    if "LOCAL_RANK" in os.environ:  # under torchrun
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        dist.init_process_group("nccl")
    if torch.cuda.is_available():
        torch.backends.cudnn.benchmark = True
    plan = SMOKE if options.smoke else Plan()
    options.folder.mkdir(parents=True, exist_ok=True)  # now: not after the first stage
    done = Training(plan, encoder, options.folder, until=until, seed=options.seed, start=options.start).run()
    if dist.is_initialized():
        dist.destroy_process_group()
    return done


if __name__ == "__main__":
    sys.exit(main())
