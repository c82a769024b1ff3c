"""Small films: of a tiny model and a tiny VAE, with what was sampled and decoded for them."""

from __future__ import annotations

from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import av
import torch
from comfyui_sana_video.sana_video_core.callbacks import Callbacks
from comfyui_sana_video.sana_video_core.files.film_file import FilmFile
from comfyui_sana_video.sana_video_core.files.image_file import frame_bytes
from comfyui_sana_video.sana_video_core.files.segments import encode_segment
from comfyui_sana_video.sana_video_core.films.film import Film, outline_of
from comfyui_sana_video.sana_video_core.films.making import Making, Request, plan_making
from comfyui_sana_video.sana_video_core.films.naming import Namer
from comfyui_sana_video.sana_video_core.films.projector import Screen
from comfyui_sana_video.sana_video_core.films.reel import Reel, look_of
from comfyui_sana_video.sana_video_core.films.store import Store
from comfyui_sana_video.sana_video_core.streaming.decoding import decode_history
from comfyui_sana_video.sana_video_core.streaming.state import State
from comfyui_sana_video.sana_video_core.streaming.stream import Sampling
from comfyui_sana_video.sana_video_core.vae.reach import decoder_reach
from support.checks_stream import begin, prompt
from support.pack import Pack

PACK = Pack()
CPU = torch.device("cpu")
SIZE = {"height": 16, "width": 32}
FPS = Fraction(16)


def shot(text: str = "a", chunks: int = 1, *, opens: bool = False, seed: int = 7, **how) -> Request:
    sampling = Sampling(seed=seed, steps=1, **how)
    return Request(prompt=prompt(PACK, text), sampling=sampling, chunks=chunks, opens=opens)


# scenes of 3 and 2 chunks
SCRIPT = (shot("a", 2), shot("b"), shot("c", opens=True, seed=8), shot("d", on_prompt_change="keep", seed=8))
FRAMES = [41, 40, 40, 41, 40]


class Decoding:
    """A VAE that counts the latent frames it decodes."""

    def __init__(self, vae) -> None:
        self.vae, self.count, step = vae, 0, vae.decode_frame

        def counted(*arguments, **options):
            self.count += 1
            return step(*arguments, **options)

        vae.decode_frame = counted

    def decoded(self) -> int:
        """How many since this was last asked."""
        count, self.count = self.count, 0
        return count


class Toy(torch.nn.Module):
    """A decoder whose frames depend on the newest latent frames, REACH of them before its own. It is fast."""

    REACH = 12

    def __init__(self) -> None:
        super().__init__()
        self.brightness = torch.nn.Parameter(torch.full((), 0.3))

    @property
    def dtype(self) -> torch.dtype:
        return self.brightness.dtype

    def decode_stream(self, pieces, *, tiling=None):
        past = None
        for piece in pieces:
            for latent in piece.split(1, dim=2):
                frames, past = self.decode_frame(latent, past)
                yield frames

    def decode_frame(self, latent, past):
        seen = ([torch.zeros_like(latent)] * self.REACH if past is None else past) + [latent]
        weight = torch.linspace(0.2, 1, len(seen)).view(-1, 1, 1, 1, 1, 1)
        mean = self.brightness * (torch.stack(seen) * weight).mean(0)[:, :3]
        steps = torch.linspace(0.5, 1, 1 if past is None else 4).view(-1, 1, 1)
        frames = mean.repeat_interleave(8, -1).repeat_interleave(8, -2) * steps
        return frames.clamp(-1, 1), seen[1:]


def tiny_vae():
    vae = PACK.core("vae.wan_vae")
    return PACK.module("demo.model_set").seeded(vae.WanVAE(vae.VAEConfig(base_width=4)), 0)


@dataclass
class Studio:
    """Makes films in a folder with one model, one VAE and one store."""

    model: object
    vae: object
    folder: Path
    content: str = "vae"
    fps: Fraction = FPS
    codec: str = "h264"
    tiling: str = "whole"
    overlap: bool = False
    resume: bool = True
    story: State | None = None
    from_chunk: int = 0
    screen: dict = field(default_factory=dict)  # what else a Screen has
    store: Store | None = None

    def __post_init__(self) -> None:
        self.store = self.store or Store(self.folder / "store")
        self.reach = Toy.REACH if isinstance(self.vae, Toy) else decoder_reach(self.vae)

    @property
    def path(self) -> Path:
        return self.folder / "film.mp4"

    def making(self, *shots: Request) -> Making:
        story = begin(PACK, self.model, **SIZE) if self.story is None else self.story
        namer = Namer("content", self.model.maker)
        return plan_making(self.model, story, shots, namer=namer, store=self.store, resume=self.resume)

    def film(self, making: Making, file: FilmFile) -> Film:
        outline = outline_of(making, self.from_chunk)
        look = look_of(self.vae, CPU, self.content, fps=self.fps, codec=self.codec, tiling=self.tiling)
        reel = Reel(
            file, outline.parts, codec=self.codec, look=look, store=self.store,
            tiling=lambda: self.tiling, resume=self.resume,
        )  # fmt: skip
        screen = Screen(
            decoder=self.vae, device=CPU, overlap=lambda: self.overlap, reach=self.reach, **self.screen
        )
        return Film(making=making, outline=outline, file=file, reel=reel, screen=screen)

    def make(self, *shots: Request, sampling=None, decoding=None, see=lambda frames: None) -> State:
        """The state after the last chunk."""
        state, callbacks = None, {"sampling": sampling or Callbacks(), "decoding": decoding or Callbacks()}
        making = self.making(*(shots or SCRIPT))
        with FilmFile(self.path, fps=self.fps) as file:
            for state in self.film(making, file).states(**callbacks, see=see):  # noqa: B007
                pass
        return state


def pictures(path: Path) -> list[bytes]:
    """The decoded frames of a film's file."""
    with av.open(str(path)) as film:
        return [frame.to_ndarray().tobytes() for frame in film.decode(video=0)]


def expected(vae, state, path: Path, from_chunk: int = 0, fps: Fraction = FPS) -> list[bytes]:
    """The decoded frames of one decode of a whole story, encoded chunk by chunk."""
    reach = Toy.REACH if isinstance(vae, Toy) else None
    pixels = torch.cat(
        [frame_bytes(p) for p in decode_history(vae, state, from_chunk=from_chunk, reach=reach)]
    )
    counts = [
        state.frames_from(n) - (state.frames_from(n + 1) if n + 1 < len(state.history) else 0)
        for n in range(from_chunk, len(state.history))
    ]
    with FilmFile(path, fps=fps) as film:
        for part in pixels.split(counts):
            film.append(encode_segment([part], fps=fps))
    return pictures(path)
