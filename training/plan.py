"""How much of everything a training does."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Plan:
    """Steps, sizes and rates of every stage; batches are for one process."""

    side: int = 128  # pixels
    vae_width: int = 8
    vae_steps: int = 3600
    vae_batch: int = 16  # windows of the whole picture
    statistics: int = 32  # batches that the latents' mean and scale are measured on
    vae_rate: float = 2e-3
    decoder_steps: int = 4000
    decoder_rate: float = 2e-3
    short: int = 4096  # stories of three chunks
    long: int = 320  # stories of 24 chunks
    long_chunks: int = 24
    batch: int = 96
    flow_steps: int = 4000
    flow_rate: float = 4e-3
    estimated: float = 0.5  # the share of estimates in the memory, from half of the steps on
    student_steps: int = 3100
    student_rate: float = 1.5e-3
    streams: int = 6  # batches of streams, in rotation
    # of the student's steps, in rotation
    kinds: tuple[str, ...] = ("stream", "begun", "stream", "begun", "flow")


SMOKE = Plan(
    side=32,
    vae_steps=3,
    vae_batch=1,
    statistics=2,
    decoder_steps=2,
    short=2,
    long=2,
    long_chunks=4,
    batch=1,
    flow_steps=2,
    student_steps=4,
    streams=2,
)
