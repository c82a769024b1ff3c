"""What the published models are: sizes of the network, and the rules of each family.

Sources: the yaml files in configs/sana_video_config of the original repository, and its model constructors.
Sizes (`TransformerConfig`) can be read off a checkpoint's tensors; the rules (`Family`) cannot: the weights of
a block-causal model carry the same names and shapes as those of a bidirectional one.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from .errors import InputError
from .shapes import ChunkRule, Compression


@dataclass(frozen=True, slots=True, kw_only=True)
class TransformerConfig:
    """Sizes of one transformer. D = `width`, A = `heads`, d = `head_dim`."""

    channels: int
    patch: int  # latent pixels per token, each way in space; one latent frame per token in time
    width: int
    depth: int
    head_dim: int
    cross_head_dim: int
    ffn_hidden: int  # channels after the gate; the up-projection makes twice as many
    caption_channels: int

    def __post_init__(self) -> None:
        for name in ("channels", "patch", "width", "depth", "head_dim", "cross_head_dim", "ffn_hidden"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)}; it has to be at least 1.")
        for name in ("head_dim", "cross_head_dim"):
            if self.width % getattr(self, name):
                raise InputError(
                    f"The width {self.width} is not a whole number of heads of {name} {getattr(self, name)}. "
                    "Give the head size that this model was trained with."
                )
        if self.head_dim % 2 or self.head_dim < 6:
            raise InputError(
                f"The head size {self.head_dim} cannot carry rotary positions on three axes; "
                "it has to be even and at least 6."
            )

    @property
    def heads(self) -> int:
        return self.width // self.head_dim

    @property
    def rotary_split(self) -> tuple[int, int, int]:
        """Real dimensions of a head that rotate with time, row and column (112 -> 40, 36, 36)."""
        space = 2 * (self.head_dim // 6)
        return self.head_dim - 2 * space, space, space


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """The rules of one published model: how it is sampled, and what its latents mean."""

    name: str
    title: str
    causal: bool
    config: TransformerConfig
    compression: Compression
    vae: str
    height: int
    width: int
    fps: int
    steps: int
    sampler: str
    shift: float = 8.0
    cfg: float = 1.0
    chunks: ChunkRule = field(default_factory=ChunkRule)


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
    config=_published(channels=16, patch=2),
    compression=Compression(time=4, space=8, patch=2),
    vae="Wan 2.1",
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
    config=_published(channels=128, patch=1),
    compression=Compression(time=8, space=32, patch=1),
    vae="LTX-2",
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
)
DEMO = replace(
    LONGSANA_480P,
    name="demo",
    title="demo, block-causal, tiny",
    height=128,
    width=128,
    config=TransformerConfig(
        channels=16,
        patch=2,
        width=168,
        depth=6,
        head_dim=28,  # rotary split 12, 8, 8: unequal, like the 40, 36, 36 of the published models
        cross_head_dim=28,
        ffn_hidden=504,
        caption_channels=64,
    ),
)

FAMILIES: dict[str, Family] = {f.name: f for f in (SANA_VIDEO_480P, SANA_VIDEO_720P, LONGSANA_480P, DEMO)}


def family_named(name: str) -> Family:
    """The family called `name`. Raises InputError with the names that exist."""
    try:
        return FAMILIES[name]
    except KeyError:
        raise InputError(f"There is no family “{name}”. Choose one of: {', '.join(FAMILIES)}.") from None
