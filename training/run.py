"""Trains the demo model from nothing, or goes on where the last call stopped.

    python training/run.py                        on a CPU, or on one GPU
    torchrun --nproc-per-node 2 training/run.py   on two GPUs: every batch twice as large

`--minutes 9` stops after that time; the same command later goes on. Nothing is read but the folder of the training.
"""

from __future__ import annotations

import argparse
import os
import random
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))
from conftest import PACKAGE  # noqa: F401  registers the checkout under its package name

# isort: split
from comfyui_sana_video.sana_video_core.checkpoint import load_vae
from comfyui_sana_video.sana_video_core.text import TextEncoder
from comfyui_sana_video.training.checkpoints import load_parts
from comfyui_sana_video.training.export import export_set, write_vae
from comfyui_sana_video.training.flow import Learner, flow_loss
from comfyui_sana_video.training.latents import Clips, make_clips
from comfyui_sana_video.training.loop import train
from comfyui_sana_video.training.models import fresh_encoder, fresh_learner
from comfyui_sana_video.training.optimiser import Optimiser
from comfyui_sana_video.training.student import Streams, student_loss
from comfyui_sana_video.training.vae import VAESteps, fresh_vae, normalised


@dataclass(frozen=True)
class Plan:
    """How much of everything; batches are for one process."""

    side: int = 128  # pixels
    vae_width: int = 8
    vae_steps: int = 3600
    vae_batch: int = 16  # windows of the whole picture
    statistics: int = 32  # batches that tell the latents' mean and scale
    vae_rate: float = 2e-3
    short: int = 8192  # stories of three chunks
    long: int = 640  # stories of 24 chunks
    long_chunks: int = 24
    batch: int = 96
    flow_steps: int = 4000
    flow_rate: float = 1.5e-3
    own: float = (
        0.5  # the share of the network's own estimates in the memory, once half of the steps are done
    )
    student_steps: int = 2500
    student_rate: float = 5e-4
    streams: int = 6  # batches of streams, in turns


SMOKE = Plan(
    side=32,
    vae_steps=3,
    vae_batch=1,
    statistics=2,
    short=2,
    long=2,
    long_chunks=4,
    batch=1,
    flow_steps=2,
    student_steps=4,
    streams=2,
)


class Training:
    """One call of this command: the stages in their order, as far as the time allows."""

    def __init__(self, plan: Plan, encoder: TextEncoder, folder: Path, until: float, seed: int) -> None:
        self.plan, self.encoder, self.folder, self.until = plan, encoder, folder, until
        self.rank = dist.get_rank() if dist.is_initialized() else 0
        on_gpu = torch.cuda.is_available()
        self.device = torch.device("cuda", torch.cuda.current_device()) if on_gpu else torch.device("cpu")
        self.dtype = torch.bfloat16 if on_gpu else torch.float32
        self.seed = seed + 1000 * self.rank

    def generator(self, stage: int, step: int) -> torch.Generator:
        """A generator for one step, the same whether a training was interrupted or not."""
        return torch.Generator(self.device).manual_seed((self.seed * 10 + stage) * 10**7 + step)

    def run(self) -> bool:
        """Whether everything is done."""
        if not (self.folder / "vae.safetensors").is_file() and not self.vae():
            return False
        vae = load_vae(self.folder / "vae.safetensors").to(self.device, self.half)
        learner = fresh_learner(self.encoder, self.device, self.dtype)
        if self.device.type == "cuda":
            _compile(learner)
        short = self.clips(vae, learner, seed=0, count=self.plan.short, chunks=3)
        if load_parts(self.folder, "student") is None and not self.flow(learner, short):
            return False
        long = self.clips(vae, learner, seed=10**7, count=self.plan.long, chunks=self.plan.long_chunks)
        return self.student(learner, short, long)

    @property
    def half(self) -> torch.dtype:
        """What encoding computes in: convolutions of this size are fastest in float16."""
        return torch.float16 if self.device.type == "cuda" else torch.float32

    def clips(self, vae, learner: Learner, *, seed: int, count: int, chunks: int) -> Clips:
        began = time.monotonic()
        first = seed + self.rank * count
        clips = make_clips(
            vae,
            learner.encoder,
            seed=first,
            count=count,
            chunks=chunks,
            side=self.plan.side,
            device=self.device,
        )
        print(f"{count} stories of {chunks} chunks in {time.monotonic() - began:.0f} s", flush=True)
        return clips

    def vae(self) -> bool:
        plan = self.plan
        vae = fresh_vae(plan.vae_width, self.device, self.dtype)
        optimiser = Optimiser({"vae": vae}, rate=plan.vae_rate, steps=plan.vae_steps, warmup=200)
        crops = plan.vae_steps * 4 // 5
        steps = VAESteps(
            vae, seed=self.seed, batch=plan.vae_batch, side=plan.side, crop=plan.side // 2, crops=crops
        )
        done = train("vae", optimiser, steps, folder=self.folder, until=self.until)
        if done and self.rank == 0:
            full = fresh_vae(plan.vae_width, self.device, torch.float32)
            full.load_state_dict({name: t.to(self.device) for name, t in optimiser.averaged("vae").items()})
            write_vae(
                self.folder / "vae.safetensors",
                normalised(full, steps.full, plan.statistics),
                self.told(optimiser),
            )
            for path in self.folder.glob("vae-*.safetensors"):
                path.unlink()  # only needed to go on
        self.wait()
        return done

    def flow(self, learner: Learner, clips: Clips) -> bool:
        plan = self.plan
        optimiser = _optimiser(learner, plan.flow_rate, plan.flow_steps)

        def step(number: int) -> dict[str, float]:
            generator = self.generator(1, number)
            rows = torch.randint(len(clips), (plan.batch,), device=self.device, generator=generator)
            own = plan.own * min(1.0, 2 * number / plan.flow_steps)
            loss, told = flow_loss(learner, clips, rows, own, generator)
            loss.backward()
            return told

        done = train("flow", optimiser, step, folder=self.folder, until=self.until)
        self.export(optimiser, "flow")
        if done:
            optimiser.use_average()
        return done

    def student(self, learner: Learner, short: Clips, long: Clips) -> bool:
        plan = self.plan
        optimiser = _optimiser(learner, plan.student_rate, plan.student_steps)
        streams = Streams(short, long, count=plan.streams, batch=plan.batch, seed=self.seed)

        def step(number: int) -> dict[str, float]:
            chance = random.Random(
                f"exit {number}"
            )  # the same in all processes, which then take equally long
            loss, told = student_loss(learner, streams.next(), self.generator(2, number), chance)
            loss.backward()
            return told

        done = train("student", optimiser, step, folder=self.folder, until=self.until)
        if self.rank == 0:
            for path in self.folder.glob("flow-*.safetensors"):
                path.unlink()  # the student's parts hold all that is needed to go on
        self.export(optimiser, "student")
        return done

    def export(self, optimiser: Optimiser, stage: str) -> None:
        """A demo set of the weights so far."""
        if self.rank == 0:
            export_set(
                self.folder / "set",
                self.folder / "vae.safetensors",
                optimiser,
                {"stage": stage} | self.told(optimiser),
            )
        self.wait()

    def told(self, optimiser: Optimiser) -> dict[str, str]:
        """What a file tells about its training."""
        where = torch.cuda.get_device_name() if self.device.type == "cuda" else "CPU"
        processes = dist.get_world_size() if dist.is_initialized() else 1
        told = {
            "steps": f"{optimiser.done} of {optimiser.steps}",
            "plan": str(self.plan),
            "seed": str(self.seed),
        }
        return told | {"hardware": f"{processes} x {where}", "torch": torch.__version__}

    def wait(self) -> None:
        if dist.is_initialized():
            dist.barrier()


def _compile(learner: Learner) -> None:
    """Blocks as fused kernels: twice as fast. There are more kinds of calls than torch expects of one function."""
    torch.set_float32_matmul_precision("high")
    torch._dynamo.config.recompile_limit = 64
    for block in learner.model.blocks:
        block.compile(dynamic=False)


def _optimiser(learner: Learner, rate: float, steps: int) -> Optimiser:
    return Optimiser({"model": learner.model, "encoder": learner.encoder.model}, rate=rate, steps=steps)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path, default=ROOT / "out" / "training", help="where it is kept")
    parser.add_argument("--minutes", type=float, default=10**6, help="stop after this time; later go on")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--smoke", action="store_true", help="a few steps of everything, to see that it runs")
    options = parser.parse_args()
    until = time.monotonic() + 60 * options.minutes
    encoder = (
        fresh_encoder()
    )  # before the processes know of each other: transformers lets only the first one write
    if "LOCAL_RANK" in os.environ:  # under torchrun
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        dist.init_process_group("nccl")
    torch.backends.cudnn.benchmark = True
    plan = SMOKE if options.smoke else Plan()
    done = Training(plan, encoder, options.folder, until, options.seed).run()
    print("done" if done else "time is up; the same command goes on", flush=True)
    if dist.is_initialized():
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
