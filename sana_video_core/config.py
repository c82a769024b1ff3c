"""The published models: sizes of the network, and the rules of each family.

Sources: the yaml files in configs/sana_video_config of the original repository, and its model constructors. A
checkpoint's tensors show the sizes (`TransformerConfig`) but not the rules (`Family`): the weights of a
block-causal and a bidirectional model have the same names and shapes.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field, replace

# only this file and transformer/ops.py import the kernels
from ..kernels.choices import BACKENDS as BACKENDS
from ..kernels.choices import PRECISIONS as PRECISIONS
from .errors import InputError
from .shapes import ChunkRule, Compression
from .sizes import Sana2Config as Sana2Config
from .sizes import TransformerConfig as TransformerConfig

# Each list of choices is here once, for the nodes, the command line and the checks.
STREAM_SAMPLERS: tuple[str, ...] = ("few_step", "euler")
STREAM_RULES: tuple[str, ...] = ("training", "original")  # of few_step; original: as its inference script
CLIP_GRIDS: tuple[str, ...] = ("dpm++", "euler")
CLIP_SAMPLERS: tuple[str, ...] = (*CLIP_GRIDS, "few_step")  # few_step: SANA-Video 2.0 in four steps
PROMPT_CHANGES: tuple[str, ...] = ("recache", "keep", "cut")
DTYPES: tuple[str, ...] = ("bf16", "fp16", "fp32")  # of weights
CODECS: tuple[str, ...] = ("h264", "h264_nvenc")  # by the CPU, by an NVIDIA GPU that has an encoder
OVERLAPS: tuple[str, ...] = ("auto", "on", "off")  # decoding while the next chunk is sampled
STATE_PARTS: tuple[str, ...] = ("everything", "history only")  # of a state in a file
# where a film is decoded, in ComfyUI's words
VAE_DEVICES: tuple[str, ...] = ("default", *(f"gpu:{number}" for number in range(8)))
NOISE_DEVICES: tuple[str, ...] = ("gpu", "cpu")
GUIDANCE: tuple[str, ...] = ("batched", "sequential")  # both branches as one batch, or one after the other


def check_choice(name: str, value: str, choices: Collection[str]) -> None:
    """Raises InputError, listing the choices, unless `value` is one of them."""
    if value not in choices:
        raise InputError(f"{name} is “{value}”; choose one of: {', '.join(choices)}.")


@dataclass(frozen=True, slots=True, kw_only=True)
class VAESpec:
    """What a family needs to know about its VAE. The network itself is in vae/."""

    name: str
    files: str  # as published, for words
    channels: int
    time_stride: int  # frames per latent frame; the first latent frame is 1 frame
    space_stride: int  # pixels per latent, each way
    # of each channel in VAE space; empty where the network normalises by its own file's: VAE space is model
    # space then
    means: tuple[float, ...] = ()
    deviations: tuple[float, ...] = ()
    least: int = 1  # latents a side, without which the network can't run


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """The rules of one published model: how it is sampled, and what its latents mean."""

    name: str
    title: str
    causal: bool
    config: TransformerConfig
    vae: VAESpec
    height: int
    width: int
    fps: int
    steps: int
    sampler: str
    frames: int = 81  # of a usual clip
    shift: float = 8.0
    cfg: float = 1.0
    motion_score: int = 30  # as in every documented command of the original; 0 adds nothing to a prompt
    chunks: ChunkRule = field(default_factory=ChunkRule)

    @property
    def compression(self) -> Compression:
        """How pixels become tokens: the VAE's strides and the transformer's patches."""
        vae = self.vae
        return Compression(vae.time_stride, vae.space_stride, self.config.patch, vae.least)


# fmt: off
WAN_2_1 = VAESpec(
    name="Wan 2.1",
    files="wan_2.1_vae.safetensors or Wan2.1_VAE.pth",
    channels=16,
    time_stride=4,
    space_stride=8,
    # measured on the latents of the training videos
    means=(
        -0.7571, -0.7089, -0.9113, 0.1075, -0.1745, 0.9653, -0.1517, 1.5508,
        0.4134, -0.0715, 0.5517, -0.3632, -0.1922, -0.9497, 0.2503, -0.2921,
    ),
    deviations=(
        2.8184, 1.4541, 2.3275, 2.6558, 1.2196, 1.7708, 2.6052, 2.0743,
        3.2687, 2.1526, 2.8652, 1.5579, 1.6382, 1.1253, 2.8251, 1.9160,
    ),
)
# fmt: on
LTX_2 = VAESpec(
    name="LTX-2",
    files="LTX2_video_vae_bf16.safetensors",
    channels=128,
    time_stride=8,
    space_stride=32,
    least=2,  # its borders are mirrored
)
LTX_2_3 = VAESpec(
    name="LTX-2.3",
    files="LTX23_video_vae_bf16.safetensors",
    channels=128,
    time_stride=8,
    space_stride=32,
)


def _published(channels: int, patch: int) -> TransformerConfig:
    return TransformerConfig(
        channels=channels,
        patch=patch,
        width=2240,
        depth=20,
        head_dim=112,
        cross_head_dim=112,
        ffn_hidden=6720,
        caption_channels=2304,
    )


SANA_VIDEO_480P = Family(
    name="sana_video_480p",
    title="SANA-Video 2B 480p, bidirectional",
    causal=False,
    config=_published(channels=WAN_2_1.channels, patch=2),
    vae=WAN_2_1,
    height=480,
    width=832,
    fps=16,
    steps=50,
    sampler="dpm++",
    cfg=6.0,
)
SANA_VIDEO_720P = Family(
    name="sana_video_720p",
    title="SANA-Video 2B 720p, bidirectional, LTX-2 latents",
    causal=False,
    config=_published(channels=LTX_2.channels, patch=1),
    vae=LTX_2,
    height=704,
    width=1280,
    fps=16,
    steps=50,
    sampler="dpm++",
    cfg=6.0,
)
LONGSANA_480P = replace(
    SANA_VIDEO_480P,
    name="longsana_480p",
    title="LongSANA 2B 480p, block-causal, four steps",
    causal=True,
    steps=4,
    sampler="few_step",
    cfg=1.0,
    motion_score=10,
)
SANA_VIDEO2_720P = Family(
    name="sana_video2_720p",
    title="SANA-Video 2.0 5B 720p, bidirectional, LTX-2.3 latents",
    causal=False,
    config=Sana2Config(
        channels=LTX_2_3.channels,
        patch=1,
        width=2560,
        depth=32,
        head_dim=128,
        softmax_head_dim=256,
        cross_head_dim=128,
        ffn_hidden=10240,
        caption_channels=2304,
        group=8,
    ),
    vae=LTX_2_3,
    height=736,
    width=1280,
    fps=24,
    frames=193,
    steps=50,
    sampler="dpm++",
    shift=12.0,
    cfg=8.0,
    motion_score=20,
)
SANA_VIDEO2_720P_4STEP = replace(
    SANA_VIDEO2_720P,
    name="sana_video2_720p_4step",
    title="SANA-Video 2.0 5B 720p, four steps, LTX-2.3 latents",
    fps=16,
    frames=81,
    steps=4,
    sampler="few_step",
    shift=6.0,
    cfg=1.0,
)
DEMO = replace(
    LONGSANA_480P,
    name="demo",
    title="demo, block-causal, tiny",
    height=128,
    width=128,
    motion_score=0,
    config=TransformerConfig(
        channels=WAN_2_1.channels,
        patch=2,
        width=168,
        depth=6,
        head_dim=28,  # rotary split 12, 8, 8: unequal, like the 40, 36, 36 of the published models
        cross_head_dim=28,
        ffn_hidden=504,
        caption_channels=64,
    ),
)

FAMILIES: dict[str, Family] = {
    family.name: family
    for family in (
        SANA_VIDEO_480P,
        SANA_VIDEO_720P,
        LONGSANA_480P,
        SANA_VIDEO2_720P,
        SANA_VIDEO2_720P_4STEP,
        DEMO,
    )
}


def family_named(name: str) -> Family:
    """The family called `name`. Raises InputError, listing the names, if there is none."""
    try:
        return FAMILIES[name]
    except KeyError:
        raise InputError(f"There is no family “{name}”. Choose one of: {', '.join(FAMILIES)}.") from None
