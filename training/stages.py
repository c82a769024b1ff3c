"""The stages of a training, each of which resumes where it stopped: VAE, flow, student."""

from __future__ import annotations

import copy
import random
import shutil
import time
from pathlib import Path

import torch
import torch.distributed as dist

from ..demo.model_set import DemoSet
from ..sana_video_core.errors import FileError
from ..sana_video_core.files.atomic import atomic_path
from ..sana_video_core.text.encoder import TextEncoder
from ..sana_video_core.vae.wan_vae import WanVAE
from .checkpoints import load_parts, save_parts
from .export import export_set, write_vae
from .flow import Learner, flow_loss
from .latents import Clips, make_clips
from .loop import train
from .models import fresh_learner
from .optimiser import Optimiser
from .plan import Plan
from .sampling import Models, load
from .student import Streams, first_chunk_loss, student_loss
from .vae import VAESteps, fresh_vae, load_wan, normalised, settle_latents

MUON = ("model.blocks.", "encoder.layers.", "vae.decoder.")  # whose matrices are Muon's


class Training:
    """One call of the command: the stages in order, as far as the time allows."""

    def __init__(
        self,
        plan: Plan,
        encoder: TextEncoder,
        folder: Path,
        *,
        until: float,
        seed: int = 0,
        start: Path | None = None,
    ) -> None:
        """`until` is a moment of time.monotonic; with an empty `folder`, it begins with the set `start`."""
        self.plan, self.encoder, self.folder, self.until, self.start = plan, encoder, folder, until, start
        self.rank = dist.get_rank() if dist.is_initialized() else 0
        on_gpu = torch.cuda.is_available()
        self.device = torch.device("cuda", torch.cuda.current_device()) if on_gpu else torch.device("cpu")
        self.dtype = torch.bfloat16 if on_gpu else torch.float32
        self.seed = seed + 1000 * self.rank

    def generator(self, stage: int, step: int) -> torch.Generator:
        """A generator for one step, the same whether or not the training was interrupted."""
        return torch.Generator(self.device).manual_seed((self.seed * 10 + stage) * 10**7 + step)

    def run(self) -> bool:
        """Returns whether everything is done."""
        models = load(DemoSet.at(self.start), "cpu") if self.start is not None else None
        if self.start is not None and self.rank == 0:
            begin_folder(self.folder, DemoSet.at(self.start).vae)
        self.wait()
        if not (self.folder / "vae.safetensors").is_file() and not self.vae():
            return False
        vae = load_wan(self.folder / "vae.safetensors").to(self.device, self.half)
        learner = fresh_learner(self.encoder, self.device, self.dtype)
        if models is not None:
            _begin_with(learner, models)
        if self.device.type == "cuda":
            _compile(learner)
        short = self.clips(vae, learner, seed=0, count=self.plan.short, chunks=3)
        if load_parts(self.folder, "student") is None and not self.flow(learner, short):
            return False
        long = self.clips(vae, learner, seed=10**7, count=self.plan.long, chunks=self.plan.long_chunks)
        return self.student(learner, short, long)

    @property
    def half(self) -> torch.dtype:
        """The dtype of encoding: convolutions of this size are fastest in float16."""
        return torch.float16 if self.device.type == "cuda" else torch.float32

    def clips(self, vae: WanVAE, learner: Learner, *, seed: int, count: int, chunks: int) -> Clips:
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
        """Train both networks of the VAE, and then the decoder alone."""
        plan, autoencoder = self.plan, self.folder / "autoencoder.safetensors"
        if not autoencoder.is_file():
            vae = fresh_vae(plan.vae_width, self.device, self.dtype)
            optimiser = Optimiser({"vae": vae}, rate=plan.vae_rate, steps=plan.vae_steps, warmup=200)
            steps = self.vae_steps(vae, plan.vae_steps)
            if not train("vae", optimiser, steps, folder=self.folder, until=self.until):
                return False
            if self.rank == 0:
                full = normalised(_averaged(vae, optimiser), steps.full, plan.statistics)
                write_vae(autoencoder, full, self.origin(optimiser))
            self.wait()
        vae = load_wan(autoencoder).to(self.device, self.dtype)
        settle_latents(vae)
        optimiser = Optimiser({"vae": vae}, rate=plan.decoder_rate, steps=plan.decoder_steps, muon=MUON)
        steps = self.vae_steps(vae, plan.decoder_steps)
        done = train("decoder", optimiser, steps, folder=self.folder, until=self.until)
        if done and self.rank == 0:
            write_vae(self.folder / "vae.safetensors", _averaged(vae, optimiser), self.origin(optimiser))
            parts = (
                path for stage in ("vae", "decoder") for path in self.folder.glob(f"{stage}-*.safetensors")
            )
            for path in (autoencoder, *parts):
                path.unlink()  # only needed to resume
        self.wait()
        return done

    def vae_steps(self, vae: WanVAE, steps: int) -> VAESteps:
        side = self.plan.side
        return VAESteps(
            vae,
            seed=self.seed,
            batch=self.plan.vae_batch,
            side=side,
            crop=side // 2,
            crops=steps * 4 // 5,
        )

    def flow(self, learner: Learner, clips: Clips) -> bool:
        plan = self.plan
        optimiser = _optimiser(learner, plan.flow_rate, plan.flow_steps)

        def step(number: int) -> dict[str, torch.Tensor]:
            generator = self.generator(1, number)
            rows = torch.randint(len(clips), (plan.batch,), device=self.device, generator=generator)
            estimated = plan.estimated * min(1.0, 2 * number / plan.flow_steps)
            loss, values = flow_loss(learner, clips, rows, estimated, generator)
            loss.backward()
            return values

        done = train("flow", optimiser, step, folder=self.folder, until=self.until)
        self.export(optimiser, "flow")
        if done:
            optimiser.use_average()
            if self.rank == 0:
                save_parts(self.folder, "teacher", _weights(learner))
        self.wait()
        return done

    def student(self, learner: Learner, short: Clips, long: Clips) -> bool:
        plan = self.plan
        optimiser = _optimiser(learner, plan.student_rate, plan.student_steps)
        teacher = self.teacher(learner)
        streams = Streams(short, long, count=plan.streams, batch=plan.batch, seed=self.seed)

        def step(number: int) -> dict[str, torch.Tensor]:
            # the same in all processes, so that they take equally long
            chance = random.Random(f"exit {number}")
            generator = self.generator(2, number)
            rows = torch.randint(len(short), (plan.batch,), device=self.device, generator=generator)
            kind = plan.kinds[number % len(plan.kinds)]
            if kind == "stream":
                loss, values = student_loss(learner, streams.next(), generator, chance)
            elif kind == "begun":
                loss, values = first_chunk_loss(learner, teacher, short, rows, generator, chance)
            else:  # keeps it a flow, so that other samplers and step counts still work
                loss, values = flow_loss(learner, short, rows, plan.estimated, generator)
            loss.backward()
            return {key: value * len(plan.kinds) / plan.kinds.count(kind) for key, value in values.items()}

        done = train("student", optimiser, step, folder=self.folder, until=self.until)
        if self.rank == 0:
            for path in self.folder.glob("flow-*.safetensors"):
                path.unlink()  # the student's parts hold all that is needed to resume
        self.export(optimiser, "student")
        return done

    def teacher(self, learner: Learner) -> Learner:
        """The networks as they were before the student's training."""
        teacher = copy.deepcopy(learner)
        kept = load_parts(self.folder, "teacher")
        if kept is None:
            raise FileError(
                f"“{self.folder}” has no teacher-1.safetensors, which a flow leaves for its student. Bring "
                "it back, or remove student-*.safetensors to train the flow again."
            )
        for name, parameter in _parameters(teacher).items():
            parameter.data.copy_(kept[name])
            parameter.requires_grad_(False)
        if self.device.type == "cuda":
            _compile(teacher)
        return teacher

    def export(self, optimiser: Optimiser, stage: str) -> None:
        """Write a demo set with the weights so far."""
        if self.rank == 0:
            export_set(
                self.folder / "set",
                self.folder / "vae.safetensors",
                optimiser,
                {"stage": stage} | self.origin(optimiser),
            )
        self.wait()

    def origin(self, optimiser: Optimiser) -> dict[str, str]:
        """What the metadata of a file says of its training."""
        device = torch.cuda.get_device_name() if self.device.type == "cuda" else "CPU"
        processes = dist.get_world_size() if dist.is_initialized() else 1
        return {
            "steps": f"{optimiser.done} of {optimiser.steps}",
            "plan": str(self.plan),
            "seed": str(self.seed),
            "hardware": f"{processes} x {device}",
            "torch": torch.__version__,
        }

    def wait(self) -> None:
        if dist.is_initialized():
            dist.barrier()


def begin_folder(folder: Path, vae: Path) -> None:
    """Copy the VAE of a set into a training's folder. Raises FileError when the training has another one."""
    target = folder / "vae.safetensors"
    if not target.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        with atomic_path(target) as new:
            shutil.copyfile(vae, new)
    elif target.read_bytes() != vae.read_bytes():
        raise FileError(
            f"“{folder}” holds a training on another VAE than “{vae}”. Give another folder, or leave out "
            "--start."
        )


def _compile(learner: Learner) -> None:
    """Compile the blocks: twice as fast. They are called in more ways than torch expects of one function."""
    torch.set_float32_matmul_precision("high")
    torch._dynamo.config.recompile_limit = 64
    for block in learner.model.blocks:
        block.compile(dynamic=False)


def _averaged(vae: WanVAE, optimiser: Optimiser) -> WanVAE:
    """A float32 copy of the VAE with the averaged weights of a training."""
    full = copy.deepcopy(vae).float()
    full.load_state_dict(optimiser.averaged("vae"))
    return full


def _begin_with(learner: Learner, models: Models) -> None:
    """Load the weights of a set, for a training whose checkpoints are gone."""
    learner.model.load_state_dict(models.transformer.state_dict())
    learner.encoder.model.load_state_dict(models.encoder.model.state_dict())


def _parameters(learner: Learner) -> dict[str, torch.nn.Parameter]:
    networks = {"model": learner.model, "encoder": learner.encoder.model}
    return {f"{name}.{key}": p for name, network in networks.items() for key, p in network.named_parameters()}


def _weights(learner: Learner) -> dict[str, torch.Tensor]:
    return {
        name: p.detach().to("cpu", torch.bfloat16).contiguous() for name, p in _parameters(learner).items()
    }


def _optimiser(learner: Learner, rate: float, steps: int) -> Optimiser:
    modules = {"model": learner.model, "encoder": learner.encoder.model}
    return Optimiser(modules, rate=rate, steps=steps, muon=MUON)
