"""A film's script, read before anything is loaded. Without torch, so that mistakes are said at once."""

from __future__ import annotations

from argparse import Namespace

from ..sana_video_core.config import LONGSANA_480P, Family
from ..sana_video_core.files.text_file import read_text
from ..sana_video_core.films.plan import Plan
from ..sana_video_core.films.script import parse_script


def read_script(options: Namespace) -> str:
    """The text of the script, which has no mistake. Raises InputError or FileError."""
    text = read_text(options.script)
    if options.state_in is None:
        parsed(options, text)
    return text


def parsed(options: Namespace, text: str, *, family: Family = LONGSANA_480P, begins_at: int = 0) -> Plan:
    """The plan of the film. `begins_at`: latent frames that its first scene holds before it."""
    about = {"seconds": options.seconds, "seed": options.seed, "fps": options.fps}
    return parse_script(text, **about, family=family, begins_at=begins_at)
