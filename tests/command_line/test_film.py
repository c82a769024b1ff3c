"""The film that `generate` writes: what its file says, and what its contact sheet shows."""

from argparse import Namespace

import pytest
import torch
from comfyui_sana_video.command_line import outputs
from comfyui_sana_video.sana_video_core.files.video_reader import read_metadata
from comfyui_sana_video.sana_video_core.streaming import state
from comfyui_sana_video.sana_video_core.streaming.report import stream_metadata


@pytest.fixture
def options(tmp_path):
    return Namespace(out=tmp_path / "v.mp4", sheet=None, preview=None, fps=16, codec="h264")


def pieces(*lengths):
    """Bytes of frames whose brightness is their number in the film."""
    numbers = torch.arange(sum(lengths), dtype=torch.uint8)
    return numbers[:, None, None, None].expand(-1, 32, 64, 3).split(lengths)


@pytest.mark.parametrize("fails", [False, True])
def test_the_metadata_is_the_newest_at_the_end(options, fails):
    """Frames come before the last chunks are known, and before it is known how many there will be."""
    try:
        with outputs.Film(options, 9) as film:
            film.metadata = lambda frames: {"known": 1, "frames": frames}
            for piece in pieces(1, 4):
                film.write(piece)
            film.metadata = lambda frames: {"known": 2, "frames": frames}
            assert not fails, "stopped"
    except AssertionError:
        assert fails
    assert read_metadata(options.out) == {"known": 2, "frames": 5}


@pytest.mark.parametrize("frames, shown", [(0, "b"), (1, "b"), (40, "b"), (41, "bc"), (81, "bc")])
def test_chunks_that_a_film_does_not_show_are_not_in_its_metadata(frames, shown):
    """Of a stream's three chunks the film shows the last two: 40 frames, and 41 of a new scene."""
    identity = state.Identity(
        fingerprint="f", family="longsana_480p", channels=16, rows=1, columns=1, batch=1
    )
    history = tuple(
        state.Chunk(latents=torch.zeros(1, 16, length, 1, 1), prompt=text, digest=text, scene=scene, seed=7)
        for text, length, scene in (("a", 11, 0), ("b", 10, 0), ("c", 11, 1))
    )
    whole = state.StreamState(identity=identity, history=history, scene=1)
    metadata = stream_metadata(whole, 1, frames)
    assert metadata["prompts"] == list(shown)
    assert metadata["seeds"] == [7] * len(shown)
    assert metadata["plan"] == ((11, 10), (11,))[: len(shown)]
    assert metadata["from_chunk"] == 1


def test_the_sheet_is_spread_over_the_film_and_not_over_its_pieces(options, monkeypatch, tmp_path):
    sheets = []
    monkeypatch.setattr(outputs, "contact_sheet", lambda frames, path: sheets.append((list(frames), path)))
    options.sheet = tmp_path / "s.png"
    with outputs.Film(options, 161) as film:
        for piece in pieces(1, *[4] * 40):
            film.write(piece)
    ((frames, path),) = sheets
    assert path == options.sheet
    assert [int(frame[0, 0, 0]) for _, frame in frames] == list(range(0, 161, 7))
    assert [label for label, _ in frames][:3] == ["0.0 s", "0.4 s", "0.9 s"]
