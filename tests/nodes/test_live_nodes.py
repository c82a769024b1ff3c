"""Moving pictures on a node: by the artist's setting, on the right node, and they end with it."""

import threading
from types import SimpleNamespace

import latent_preview
import numpy as np
import pytest
import server
import torch
from comfy import cli_args
from comfy import model_management as management
from comfy_execution.utils import CurrentNodeContext
from comfyui_sana_video.bridge import live
from comfyui_sana_video.bridge.progress import callbacks
from comfyui_sana_video.sana_video_core.callbacks import Progress
from comfyui_sana_video.sana_video_core.config import DEMO
from PIL import Image
from support.artist import demo, folders, one_chunk, run, sample, two_chunks
from support.calibration import until


@pytest.fixture(autouse=True)
def _usual_previews(monkeypatch):
    """Every run sets them for its process."""
    monkeypatch.setattr(cli_args.args, "preview_method", cli_args.LatentPreviewMethod.Auto)


@pytest.fixture
def page(monkeypatch):
    """A page that asked for a run; what it was sent is in `sent`: (kind of message, data, page)."""
    sent = []
    instance = SimpleNamespace(
        client_id="me",
        sockets_metadata={"me": {"supports_preview_metadata": True}},
        send_sync=lambda *message: sent.append(message),
        send_progress_text=lambda *message: None,
        sent=sent,
    )
    monkeypatch.setattr(server.PromptServer, "instance", instance)
    return instance


LATENTS = torch.randn(1, 16, 10, 4, 6, generator=torch.Generator().manual_seed(0))


def _threads():
    return [thread for thread in threading.enumerate() if thread.name == "sana-video player"]


def _on_node(node):
    """A sampler's preview, made while this node runs."""
    with CurrentNodeContext("a prompt", node):
        return live.stream_preview(demo().model, DEMO)


def _sizes(page):
    return {image.size for (_, image, _), _ in (data for _, data, _ in page.sent)}


# --- which pictures


def test_latent_colours_are_those_of_comfyuis_previews():
    pictures = live._pictures(demo().model)(LATENTS)
    previewer = latent_preview.get_previewer(None, demo().model.model.latent_format)
    single = [previewer.decode_latent_to_preview(LATENTS[:, :, i : i + 1]) for i in range(10)]
    assert len(pictures) == 10
    for mine, theirs in zip(pictures, single, strict=True):
        assert np.abs(np.asarray(mine, int) - np.asarray(theirs, int)).max() <= 1


class Draft(latent_preview.TAEHVPreviewerImpl):
    """A draft decoder; which frames it decoded is in `frames`."""

    def __init__(self):
        self.frames = []

    def decode_latent_to_preview(self, latents):
        self.frames.append(int(latents[0, 0, 0, 0, 0]))
        return Image.new("RGB", (48, 32))


NUMBERED = torch.arange(10.0)[None, None, :, None, None].expand(1, 16, 10, 4, 6)


def test_the_artists_draft_decoder_is_used(monkeypatch):
    draft = Draft()
    monkeypatch.setattr(latent_preview, "get_previewer", lambda *_: draft)
    pictures = live._pictures(demo().model)
    assert [picture.size for picture in pictures(NUMBERED[:, :, -1:])] == [(48, 32)]
    assert draft.frames == [9]
    monkeypatch.setattr(live.Drafts, "__call__", lambda *_: [])  # too slow
    assert [picture.size for picture in pictures(NUMBERED)] == [(6, 4)] * 10


def test_another_packs_previewer_is_given_what_comfyui_gives_it(monkeypatch):
    seen = []
    theirs = SimpleNamespace(decode_latent_to_preview_image=lambda kind, latents: seen.append(latents))
    monkeypatch.setattr(latent_preview, "get_previewer", lambda *_: theirs)
    pictures = live._pictures(demo().model)
    assert pictures(LATENTS) == []  # it shows them itself
    theirs.decode_latent_to_preview_image = lambda kind, latents: (kind, "a picture", 512)
    assert pictures(LATENTS) == ["a picture"]
    assert torch.equal(seen[0], LATENTS)


def test_the_demo_has_no_draft_decoder_of_another_vae():
    assert demo().model.model.latent_format.taesd_decoder_name is None


# --- on which node


def test_pictures_go_to_the_node_that_began_them(page):
    """Whatever runs when they are shown: the thread is asked nothing."""
    with _on_node("7") as preview, CurrentNodeContext("another prompt", "8"):
        preview.progress(Progress(1, 2, 2, 2, LATENTS))
        until(lambda: page.sent, 5)
    for kind, (image, about), client in page.sent:
        assert (kind, client, image[0]) == (4, "me", "JPEG")
        assert about == {
            "node_id": "7",
            "prompt_id": "a prompt",
            "display_node_id": "7",
            "parent_node_id": None,
            "real_node_id": "7",
        }
    assert _sizes(page) == {(6, 4)}


def test_an_old_page_gets_a_picture_without_a_name(page):
    page.sockets_metadata = {}
    with _on_node("7") as preview:
        preview.progress(Progress(1, 2, 2, 2, LATENTS))
    assert {(kind, image[0]) for kind, image, _ in page.sent} == {(2, "JPEG")}


def test_a_script_gets_no_pictures(page):
    page.client_id = None  # ComfyUI would send them to every open page
    with _on_node("7") as preview:
        preview.progress(Progress(1, 2, 2, 2, LATENTS))
    assert page.sent == []


def test_an_interrupt_reaches_the_sampler_while_pictures_play(page):
    """ComfyUI's progress bar, called in the player's thread, would take the interrupt for itself."""
    with _on_node("7") as preview:
        management.interrupt_current_processing()
        preview.progress(Progress(1, 2, 2, 2, LATENTS))
        until(lambda: page.sent, 5)
        with pytest.raises(management.InterruptProcessingException):
            management.throw_exception_if_processing_interrupted()


# --- whole nodes


def test_a_sampler_plays_and_leaves_no_thread(page):
    with CurrentNodeContext("a prompt", "7"):
        sample(chunks=3)
    assert {data[1]["node_id"] for _, data, _ in page.sent} == {"7"}
    assert _sizes(page) == {(6, 4)}
    assert not _threads()


def test_a_film_shows_its_frames_as_they_are_decoded(page, tmp_path):
    state = two_chunks()[1]
    with CurrentNodeContext("a prompt", "7"), folders(tmp_path):
        run("DecodeStream", demo().vae, state, 1, 8.0, "h264", 0)
    assert {data[1]["node_id"] for _, data, _ in page.sent} == {"7"}
    assert _sizes(page) == {(48, 32)}
    assert not _threads()


def test_no_pictures_where_the_artist_wants_none(page, monkeypatch, tmp_path):
    state = one_chunk()[1]
    monkeypatch.setattr(cli_args.args, "preview_method", cli_args.LatentPreviewMethod.NoPreviews)
    with CurrentNodeContext("a prompt", "7"), folders(tmp_path):
        sample(chunks=2)
        run("DecodeStream", demo().vae, state, 0, 16.0, "h264", 0)
    assert page.sent == []


@pytest.mark.parametrize("stop", [management.InterruptProcessingException, RuntimeError("broken")])
def test_an_interrupt_or_an_error_ends_the_pictures(page, monkeypatch, stop):
    network, calls = demo().model.model.diffusion_model, []
    forward = network._forward

    def broken(*arguments, **options):
        calls.append(1)
        if len(calls) == 5:  # in the second chunk
            assert _threads()
            raise stop
        return forward(*arguments, **options)

    monkeypatch.setattr(network, "_forward", broken)
    with pytest.raises((management.InterruptProcessingException, RuntimeError)):
        sample(chunks=3, seed=77)
    assert len(calls) == 5
    assert not _threads()


def test_a_preview_hears_of_every_step():
    heard = []
    work = callbacks(2, 3, preview=heard.append)
    news = [Progress(1, 2, 1, 3, LATENTS), Progress(2, 2, 3, 3, LATENTS)]
    for one in news:
        work.progress(one)
    assert heard == news
