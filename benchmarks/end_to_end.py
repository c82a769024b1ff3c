"""Prompt to mp4 at full size: each stage alone, then all of them as one pipeline; and diffusers' parts.

    python -m comfyui_sana_video.benchmarks.end_to_end [chunks] [--vae-device cuda:1] [--parts 3] [--out …]

LongSANA 2B and the Wan VAE with random weights, 480x832, one prompt. Its embeddings are given: the text
encoder, which runs once in a film, is left out. Each precision (bf16, fp8) runs with and without overlap.
`--parts N` also times a chunk of ours and of diffusers (eager, compiled; 4 + 1 calls, then its VAE), N times
in turns. `--tiny` runs small networks on any device: the script, not the speed.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..demo.model_set import TINY, seeded
from ..sana_video_core.config import DEMO
from ..sana_video_core.files.background import encoding
from ..sana_video_core.files.encoders import PRESET
from ..sana_video_core.files.image_file import frame_bytes
from ..sana_video_core.files.video_writer import VideoWriter
from ..sana_video_core.streaming.decoding import decode_history
from ..sana_video_core.streaming.pipeline import Pipeline
from ..sana_video_core.streaming.state import StreamState
from ..sana_video_core.streaming.stream import Prompt, Sampling, extend, start
from ..sana_video_core.transformer.model import SanaVideo
from ..sana_video_core.transformer.pass_graphs import graphs_where_they_pay
from ..sana_video_core.vae.wan_vae import VAEConfig, WanVAE
from . import decode, report, stream, transformer
from .timing import cores, devices_of, in_turns, timed

STEPS = 4
# of what random weights draw: at half of their contrast an mp4 has 2.6 bits a pixel, because it is noise.
# With this it has 0.24, as a film full of detail, and takes the encoder as long.
CONTRAST = 0.025


class Setup(NamedTuple):
    """The models and the film."""

    model: Any  # a SanaVideo
    vae: Any  # a WanVAE
    vae_device: torch.device
    prompt: Prompt
    height: int = 480
    width: int = 832

    @property
    def devices(self) -> tuple[torch.device, torch.device]:
        return self.model.device, self.vae_device

    def states(self, chunks: int) -> Iterator[StreamState]:
        begin = start(self.model, height=self.height, width=self.width)
        sampling = Sampling(seed=3, steps=STEPS)
        return extend(self.model, begin, self.prompt, sampling, chunks=chunks, device=self.model.device)


def full(vae_device: torch.device) -> Setup:
    model = stream.build()
    model.graphs = graphs_where_they_pay(model.device)
    model.fingerprint = "random"  # else its 4 GB would be hashed, and timed as sampling
    with torch.random.fork_rng(devices=[]):
        vae: Any = seeded(WanVAE(VAEConfig()), 0)
    vae.decoder.head[2].weight.mul_(CONTRAST)
    return Setup(model, vae.to(vae_device, torch.bfloat16), vae_device, _prompt(300, 2304, 120))


def tiny() -> Setup:
    device = torch.device("cpu")
    with torch.random.fork_rng(devices=[]):
        model, vae = seeded(SanaVideo(TINY, DEMO), 0), seeded(WanVAE(VAEConfig(base_width=8)), 1)
    return Setup(model, vae, device, _prompt(7, TINY.caption_channels, 5), height=32, width=48)


def _prompt(tokens: int, channels: int, read: int) -> Prompt:
    text = torch.randn(1, tokens, channels, generator=torch.Generator().manual_seed(1))
    return Prompt(embeddings=text, mask=torch.arange(tokens)[None] < read, digest="p")


def film(
    setup: Setup, path: Path, chunks: int, overlap: str, hear: Callable[[Tensor], object] | None = None
) -> int:
    """Prompt to mp4, as `generate` makes it; returns the number of frames. `hear` is told all of them."""

    def write(frames: Tensor) -> None:
        if hear is not None:
            hear(frames)
        encoder.add(frames)

    with (
        VideoWriter(path) as writer,
        encoding(writer) as encoder,
        Pipeline(
            setup.vae,
            write,
            sampling=setup.model.device,
            decoding=setup.vae_device,
            from_chunk=0,
            total=chunks,
            overlap=overlap,
        ) as pipeline,
    ):
        state = None
        for state in setup.states(chunks):
            pipeline.add(state)
        assert state is not None
        pipeline.finish(state)
    return writer.frames


def stages(setup: Setup, folder: Path, chunks: int) -> tuple[dict[str, Any], StreamState]:
    """Seconds and peaks of sampling, decoding and encoding alone; the frames lie in memory in between."""

    def sample() -> StreamState:
        *_, last = setup.states(chunks)
        return last

    def encode(pieces: list[Tensor]) -> None:
        with VideoWriter(folder / "alone.mp4") as writer:
            for piece in pieces:
                writer.write(piece)

    state, sampling, sampling_peak = timed(sample, *setup.devices)
    pieces, decoding, decoding_peak = timed(
        lambda: list(decode_history(setup.vae, state, form=frame_bytes)), *setup.devices
    )
    _, encoded, _ = timed(lambda: encode(pieces))
    results = {
        "sampling_s": sampling,
        "sampling_peak_gib": sampling_peak,
        "decoding_s": decoding,
        "decoding_peak_gib": decoding_peak,
        "encoding_s": encoded,
        "mp4_megabytes": (folder / "alone.mp4").stat().st_size / 1e6,
        "frames": sum(len(piece) for piece in pieces),
    }
    return results, state


def run_case(
    setup: Setup, chunks: int, precision: str, keep: Callable[[dict[str, Any]], None]
) -> dict[str, Any]:
    """One precision: the pipeline with and without overlap, and the stages. What is known is kept at once."""
    setup.model.precision = precision
    results: dict[str, Any] = {}
    seen: dict[str, list[Tensor]] = {"on": [], "off": []}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for overlap in ("on", "off"):
            # warm: kernels are compiled, memory is reserved
            film(setup, folder / "warm.mp4", min(3, chunks), overlap, seen[overlap].append)
            path = folder / f"{overlap}.mp4"
            frames, seconds, peak = timed(lambda o=overlap, p=path: film(setup, p, chunks, o), *setup.devices)
            speed = {"total_s": seconds, "frames_per_s": frames / seconds, "peak_gib": peak}
            results |= {"frames": frames, f"overlap {overlap}": speed}
            keep(results)
        # not the files: x264 isn't always the same on small pictures
        same = torch.equal(*(torch.cat(frames) for frames in seen.values()))
        assert same, "the films with and without overlap differ"
        alone, state = stages(setup, folder, chunks)
        assert alone["frames"] == frames == state.frames
        results |= alone
        slower = max(results[f"{stage}_s"] for stage in ("sampling", "decoding"))
        results["of_the_slower_half"] = slower / results["overlap on"]["total_s"]
    return results


@torch.no_grad()
def parts(setup: Setup, passes: int, compiled: bool) -> dict[str, Any]:
    """A chunk of ours and of diffusers' parts, in turns: sampling (4 + 1 calls), decoding 10 frames."""
    case = transformer.CASES["chunk"]
    theirs, ours = transformer.build(case)
    calls = transformer.versions(case, theirs, ours, compiled)
    *_, begun = setup.states(1)

    def chunk(precision: str) -> Callable[[], Any]:
        def call() -> list[StreamState]:
            setup.model.precision = precision
            options = {"chunks": 1, "device": setup.model.device}
            return list(extend(setup.model, begun, setup.prompt, Sampling(seed=3, steps=STEPS), **options))

        return call

    sampling = {"ours": chunk("full"), "ours, fp8": chunk("fp8")}
    for name in [name for name in calls if name not in transformer.OURS]:
        sampling[name] = lambda one=calls[name]: [one() for _ in range(STEPS + 1)]
    results = {"passes": passes, "sampling": in_turns(sampling, *setup.devices, passes=passes, warm=2)}
    size, device = decode.FULL, setup.vae_device
    networks = decode.build(size, device)
    decoding = decode.calls_of("decode", size, networks, device)
    if compiled:
        decoding["diffusers compiled"] = decode.compiled("decode", size, networks, device)
    return results | {"decoding": in_turns(decoding, *setup.devices, passes=passes, warm=2)}


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("chunks", nargs="?", type=int, default=24)
    parser.add_argument("--precision", choices=("full", "fp8"), action="append", help="both by default")
    parser.add_argument("--vae-device", type=torch.device, help="the transformer's by default")
    parser.add_argument("--parts", type=int, default=0, help="passes beside diffusers' parts; 0 for none")
    parser.add_argument("--no-compile", action="store_true")
    parser.add_argument("--tiny", action="store_true", help="small networks on the CPU")
    parser.add_argument("--out", type=Path, help="folder of end_to_end_GPU.json, written after each case")
    options = parser.parse_args(arguments)
    setup = tiny() if options.tiny else full(options.vae_device or torch.device("cuda", 0))

    def keep(name: str, case: dict[str, Any]) -> None:
        """With what the numbers depend on."""
        case = {"preset": PRESET, "cpu_cores": cores(), **case}
        print(json.dumps({name: case}), flush=True)
        report.write(options.out, "end_to_end", {"cases": {name: case}})

    gpus = len(devices_of(*setup.devices)) or "no"
    about = {
        "case": f"{setup.width}x{setup.height}, {options.chunks} chunks, {STEPS} steps, {gpus} GPU",
        "text_encoder": "left out",
    }
    for precision in options.precision or (("full",) if options.tiny else ("full", "fp8")):

        def keep_film(results: dict[str, Any], name: str = f"{precision}, {gpus} GPU") -> None:
            keep(name, about | results)

        keep_film(run_case(setup, options.chunks, precision, keep_film))
    if options.parts:
        keep("parts", parts(setup, options.parts, not options.no_compile))


if __name__ == "__main__":
    main()
