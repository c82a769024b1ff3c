"""Moving pictures on a node: which, at what pace, on which node, and that they end with it."""

import threading
import time
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
from support.artist import demo, folders, one_chunk, run, sample, two_chunks
from support.calibration import until


@pytest.fixture
def page(monkeypatch):
    """What the page was sent: (kind of message, data, page). It asked for a run in which node 7 is."""
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


@pytest.fixture
def played(monkeypatch):
    """What players were given, (pictures, seconds, again), with the pictures' sizes."""
    reels = []
    play = live.Player.play

    def watched(player, pictures, seconds, *, again=False):
        reels.append(([picture.size for picture in pictures], seconds, again))
        play(player, pictures, seconds, again=again)

    monkeypatch.setattr(live.Player, "play", watched)
    return reels


def _no_previews(monkeypatch):
    monkeypatch.setattr(cli_args.args, "preview_method", cli_args.LatentPreviewMethod.NoPreviews)


def _threads():
    return [thread for thread in threading.enumerate() if thread.name == "sana-video player"]


def _work(chunks=2, steps=2, patcher=None):
    """A sampler's preview as one tells of its steps: preview, and a function of a chunk and a step."""
    preview = live.StreamPreview(patcher or demo().model, DEMO)
    latents = torch.randn(1, 16, 10, 4, 6, generator=torch.Generator().manual_seed(0))
    return preview, lambda chunk, step: preview.beside(Progress(chunk, chunks, step, steps, latents))


def test_each_chunk_plays_in_a_loop_at_the_films_pace_while_the_next_is_sampled(played, page, monkeypatch):
    clock = iter([0, 100, 100, 200, 201, 201, 202])  # a slow chunk, then one of 1 s
    monkeypatch.setattr(live, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    preview, tell = _work(chunks=4)
    with preview:
        assert tell(1, 1)[1].size == (6, 4)
        assert tell(1, 2) is None  # the chunk plays, and what the next one's steps are like is not shown
        assert played == [([(6, 4)] * 10, 0.25, True)]
        assert [tell(2, 1), tell(2, 2)] == [None, None]
        assert played[1] == ([(6, 4)] * 10, 0.1, True)  # as fast as there is time
    assert not _threads()


def test_the_newest_frame_stays_when_all_is_done(played, page):
    preview, tell = _work()
    with preview:
        tell(1, 2)
        assert tell(2, 1) is None
        assert tell(2, 2)[1].size == (6, 4)
        assert not _threads()  # nothing comes after it
    assert len(played) == 1


def test_a_chunks_pictures_are_its_latent_frames_in_order(page):
    preview, _ = _work()
    latents = torch.randn(2, 16, 10, 4, 6, generator=torch.Generator().manual_seed(0))
    reel = []
    preview._player.play = lambda pictures, *_, **__: reel.extend(pictures)
    preview._play(latents)
    previewer = latent_preview.get_previewer(None, demo().model.model.latent_format)
    single = [previewer.decode_latent_to_preview(latents[:, :, i : i + 1]) for i in range(10)]
    assert len(reel) == 10
    for mine, theirs in zip(reel, single, strict=True):
        assert np.abs(np.asarray(mine, int) - np.asarray(theirs, int)).max() <= 1


class Draft:
    """A decoder that takes `seconds` for a picture; which frames it decoded is in `frames`."""

    def __init__(self, seconds):
        self.seconds, self.frames = seconds, []

    def decode_latent_to_preview(self, latents):
        time.sleep(self.seconds)
        self.frames.append(int(latents[0, 0, 0, 0, 0]))
        return SimpleNamespace(size=(48, 32))

    def decode_latent_to_preview_image(self, kind, latents):
        return kind, self.decode_latent_to_preview(latents), 512


def test_drafts_cost_a_small_share_of_a_chunk(monkeypatch):
    draft = Draft(0.002)
    monkeypatch.setattr(latent_preview, "get_previewer", lambda *_: draft)
    preview, _ = _work()
    latents = torch.arange(10.0)[None, None, :, None, None].expand(1, 16, 10, 4, 6)
    for took, at_most in ((10, 10), (0.15, 3), (0.001, 1)):
        draft.frames.clear()
        preview._cost = 0.002
        assert preview._drafts(latents, took)
        assert draft.frames[-1] == 9  # the newest is always there
        assert len(draft.frames) <= at_most
        assert draft.frames == sorted(draft.frames)
    draft.frames.clear()
    preview._cost = 0.0
    preview._drafts(latents, 10)
    assert draft.frames == [*range(10)]


def test_the_preview_beside_the_bar_is_of_the_newest_latent_frame(monkeypatch):
    shown = []
    monkeypatch.setattr(Draft, "decode_latent_to_preview", lambda self, latents: shown.append(latents))
    monkeypatch.setattr(latent_preview, "get_previewer", lambda *_: Draft(0))
    latents = torch.randn(1, 16, 5, 4, 6)
    with live.StreamPreview(demo().model, DEMO) as preview:
        callbacks(2, 3, preview).progress(Progress(1, 2, 1, 3, latents))
    assert torch.equal(shown[0], latents[:, :, -1:])


# --- on which node


def test_pictures_go_to_the_node_that_began_them(page):
    """Whatever runs when they are shown: the thread is asked nothing."""
    with CurrentNodeContext("a prompt", "7"):
        preview, tell = _work()
    with preview, CurrentNodeContext("a prompt", "8"):
        tell(1, 2)
        until(lambda: page.sent, 5)
    for kind, (image, about), client in page.sent:
        assert (kind, client) == (4, "me")
        assert image[0] == "JPEG"
        assert image[1].size == (6, 4)
        assert about == {
            "node_id": "7",
            "prompt_id": "a prompt",
            "display_node_id": "7",
            "parent_node_id": None,
            "real_node_id": "7",
        }


def test_an_old_page_gets_a_picture_without_a_name(page):
    page.sockets_metadata = {}
    with CurrentNodeContext("a prompt", "7"):
        preview, tell = _work()
    with preview:
        tell(1, 2)
        until(lambda: page.sent, 5)
    assert {(kind, image[0]) for kind, image, _ in page.sent} == {(2, "JPEG")}


def test_a_script_gets_no_pictures(page):
    page.client_id = None  # ComfyUI would send them to every open page
    with CurrentNodeContext("a prompt", "7"):
        preview, tell = _work()
    with preview:
        tell(1, 2)
    assert page.sent == []


# --- whole nodes


def test_a_sampler_plays_and_leaves_no_thread(page, played):
    with CurrentNodeContext("a prompt", "7"):
        sample(chunks=3)
    assert [(len(sizes), again) for sizes, _, again in played] == [(11, True), (10, True)]
    assert page.sent
    assert {data[1]["node_id"] for _, data, _ in page.sent} == {"7"}
    assert not _threads()


def test_no_previews_where_the_artist_wants_none(page, played, monkeypatch, tmp_path):
    one_chunk()
    _no_previews(monkeypatch)
    with CurrentNodeContext("a prompt", "7"), folders(tmp_path):
        sample(chunks=2)
        run("DecodeStream", demo().vae, one_chunk()[1], 0, 16.0, "h264", 0)
    assert (played, page.sent) == ([], [])


@pytest.mark.parametrize("stop", [management.InterruptProcessingException, RuntimeError("broken")])
def test_an_interrupt_or_an_error_ends_the_pictures(page, played, monkeypatch, stop):
    forward, calls = demo().model.model.diffusion_model._forward, []

    def third_chunk(*arguments, **options):
        calls.append(1)
        if len(calls) == 5:
            assert _threads()
            raise stop
        return forward(*arguments, **options)

    monkeypatch.setattr(demo().model.model.diffusion_model, "_forward", third_chunk)
    with pytest.raises((management.InterruptProcessingException, RuntimeError)):
        sample(chunks=3, seed=77)
    assert len(played) == 1
    assert not _threads()


def test_a_film_shows_its_frames_as_they_are_decoded(page, played, tmp_path):
    state = two_chunks()[1]
    played.clear()
    with CurrentNodeContext("a prompt", "7"), folders(tmp_path):
        run("DecodeStream", demo().vae, state, 1, 8.0, "h264", 0)
    assert sum(len(sizes) for sizes, _, _ in played) == 40
    assert {size for sizes, _, _ in played for size in sizes} == {(48, 32)}
    assert all(seconds >= 1 / 8 and not again for _, seconds, again in played)
    assert {data[1]["node_id"] for _, data, _ in page.sent} == {"7"}
    assert not _threads()


def test_an_interrupt_reaches_the_sampler_while_pictures_play(page):
    """ComfyUI's progress bar, called in the player's thread, would take the interrupt for itself."""
    with CurrentNodeContext("a prompt", "7"):
        preview, tell = _work()
    with preview:
        tell(1, 2)
        management.interrupt_current_processing()
        count = len(page.sent)
        preview._player.play([page], 0)
        until(lambda: len(page.sent) > count, 5)
        with pytest.raises(management.InterruptProcessingException):
            management.throw_exception_if_processing_interrupted()


def test_the_demo_has_no_draft_decoder_of_another_vae():
    assert demo().model.model.latent_format.taesd_decoder_name is None
