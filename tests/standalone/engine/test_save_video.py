"""Save Video without ComfyUI: a name never holds half of a film, and it is tried before the run."""

from types import SimpleNamespace

import av
import folder_paths
import pytest
import torch
from comfy_api import latest
from comfy_api.latest import InputImpl
from comfyui_sana_video.sana_video_core.errors import FileError
from comfyui_sana_video.sana_video_core.files.claims import claim
from comfyui_sana_video.standalone.engine.core_nodes import CreateVideo, SaveVideo
from support.artist import folders
from support.video_files import names, write_numbers


@pytest.fixture
def base(tmp_path):
    (tmp_path / "output").mkdir()
    with folders(tmp_path):
        yield tmp_path


@pytest.fixture
def save(base):
    """Saves a film of 30 frames as video/film; returns what the node shows."""
    film = write_numbers(base / "film.mp4", 30)

    def run(prefix="video/film"):
        hidden = SimpleNamespace(extra_pnginfo={"workflow": {"nodes": []}}, prompt={"1": 2})
        node = type("SaveVideo", (SaveVideo,), {"hidden": hidden})
        return node.execute(InputImpl.VideoFromFile(film), prefix, "auto", "auto").ui.as_dict()["images"]

    return run


def test_a_film_is_saved_whole_under_a_new_number(save, base):
    (base / "output" / "video").mkdir()
    with claim(base / "output" / "video" / "film_00001_.mp4"):  # another process counted the same number
        (shown,) = save()
    assert shown == {"filename": "film_00002_.mp4", "subfolder": "video", "type": "output"}
    assert names(base / "output" / "video") == ["film_00002_.mp4"]
    with av.open(str(base / "output" / "video" / "film_00002_.mp4")) as film:
        assert sum(packet.size > 0 for packet in film.demux()) == 30
        assert film.metadata["prompt"] == '{"1": 2}'


@pytest.mark.parametrize(
    "error", [KeyboardInterrupt, OSError(28, "No space left on device"), av.error.OSError(28, "full")]
)
def test_what_stops_in_the_middle_leaves_no_name(error, save, base, monkeypatch):
    monkeypatch.setattr(latest, "_packets", lambda path: (_ for _ in ()).throw(error))
    kind = KeyboardInterrupt if error is KeyboardInterrupt else FileError
    with pytest.raises(kind):
        save()
    assert names(base / "output" / "video") == []


def test_a_copy_that_lost_packets_is_no_film(save, base, monkeypatch):
    real = latest._packets
    monkeypatch.setattr(latest, "_packets", lambda path: real(path) - path.endswith("/new"))
    with pytest.raises(FileError, match=r"film_00001_\.mp4” could not be written \(No space left"):
        save()
    assert names(base / "output" / "video") == []


@pytest.mark.parametrize(
    "prefix, words",
    [
        ("x" * 300, "too long"),
        ("video/file/film", "could not be written"),
        ("../film", "outside"),
        ("nul\0", "null"),
    ],
)
def test_a_name_that_cannot_be_is_refused_before_the_run(prefix, words, base):
    (base / "output" / "video").mkdir()
    (base / "output" / "video" / "file").touch()
    assert words in SaveVideo.validate_inputs(prefix)
    assert SaveVideo.validate_inputs("video/film") is True
    assert SaveVideo.validate_inputs(None) is True  # linked
    assert names(base / "output" / "video") == ["file"]


def test_an_output_folder_that_is_a_file_is_refused_before_the_run(base):
    folder_paths.set_output_directory(str(base / "note.txt"))
    (base / "note.txt").touch()
    assert "could not be written" in SaveVideo.validate_inputs("video/film")


@pytest.mark.parametrize(("bits", "pixels"), [(8, "yuv420p"), (10, "yuv420p10le")])
def test_frames_in_memory_are_encoded_under_the_name(base, bits, pixels):
    images = torch.linspace(0, 1, 9)[:, None, None, None].expand(9, 32, 48, 3)
    (video,) = CreateVideo.execute(images, 24.0, bit_depth=bits).args
    node = type("SaveVideo", (SaveVideo,), {"hidden": SimpleNamespace(extra_pnginfo={}, prompt={"1": 2})})
    node.execute(video, "video/clip", "auto", "auto")
    with av.open(str(base / "output" / "video" / "clip_00001_.mp4")) as film:
        stream = film.streams.video[0]
        assert (stream.average_rate, stream.width, stream.height) == (24, 48, 32)
        assert stream.codec_context.pix_fmt == pixels
        frames = [frame.to_ndarray(format="rgb24").mean() / 255 for frame in film.decode(stream)]
        assert film.metadata["prompt"] == '{"1": 2}'
    assert frames == pytest.approx(images[:, 0, 0, 0].tolist(), abs=0.02)
