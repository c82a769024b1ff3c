"""Checks inside ComfyUI's process: the film node with ComfyUI's own models, threads and LoRAs."""

from __future__ import annotations

import tempfile
from pathlib import Path
from unittest.mock import patch

from checks_inside import check, pack, run, same
from checks_store import Counted, output_folder
from checks_text_vae import _core_clip, _gemma_file

SCRIPT = "0:00 a red ball rolls\n0:05 cut: a red ball rolls\n0:07.5 end"  # 2 + 1 chunks


def film(demo, script=SCRIPT, **changes):
    """The video, the state, the count of frames; without gradients, as ComfyUI runs nodes."""
    import torch

    inputs = {"model": demo.causal, "text_encoder": demo.encoder, "vae": demo.vae, "script": script}
    inputs |= {"seconds": 5.0, "width": 64, "height": 48, "seed": 3, "fps": 16.0, "steps": 2}
    with torch.inference_mode():
        return run("SanaVideoLongVideo", **inputs | {"filename_prefix": "film"} | changes)


def frames_of(video) -> list:
    import av

    with av.open(video.get_stream_source()) as file:
        return [frame.to_ndarray(format="rgb24") for frame in file.decode(video=0)]


def same_frames(a, b) -> bool:
    import numpy as np

    return all(np.array_equal(x, y) for x, y in zip(frames_of(a), frames_of(b), strict=True))


@check
def a_film_is_a_chain_of_samplers_and_made_once(demo):
    from checks_store import sample

    with output_folder() as folder:
        with Counted(demo.causal) as made:
            video, state, frames = film(demo)
        assert made.calls == 9, made.calls
        assert frames == 81 + 41 == len(frames_of(video))
        assert video.get_dimensions() == (64, 48)
        with Counted(demo.causal) as made:
            again = film(demo)
            chained = sample(demo, chunks=2)
        assert (made.calls, made.loads) == (0, 0), (made.calls, made.loads)
        assert same_frames(again[0], video)
        pairs = zip(chained[1].state.history, state.state.history, strict=False)
        assert all(same(a.latents, b.latents) for a, b in pairs)
        assert not [path for path in folder.iterdir() if path.name.startswith(".")]


@check
def a_films_threads_run_as_nodes_do(demo):
    import threading

    import torch

    seen, decoder = [], pack("bridge.vaes").HostedDecoder
    load, decode = decoder.load_for, decoder.decode_stream

    def loaded(self, *size):
        seen.append((threading.current_thread().name, torch.is_inference_mode_enabled()))
        return load(self, *size)

    def decoded(self, *values, **options):
        seen.append((threading.current_thread().name, torch.is_inference_mode_enabled()))
        return decode(self, *values, **options)

    with (
        output_folder(),
        patch.object(decoder, "load_for", loaded),
        patch.object(decoder, "decode_stream", decoded),
    ):
        film(demo)
    assert seen
    assert set(seen) == {("sana_video decoding", True)}, set(seen)


@check
def a_film_is_decoded_by_comfyuis_own_vae(demo):
    import comfy.sd
    from safetensors.torch import load_file

    path = pack("demo.model_set").demo_set().vae
    unknown = comfy.sd.VAE(sd=load_file(path))
    unknown.patcher.cached_patcher_init = None
    with output_folder() as folder:
        one = film(demo)
        for vae, count in ((unknown, 6), (unknown, 6)):  # known by its tensors, not by its file
            with Counted(demo.causal) as made:
                other = film(demo, vae=vae)
            assert made.calls == 0
            assert same_frames(one[0], other[0])
            assert len(list((folder / "sana_films" / "store" / "segments").rglob("*.safetensors"))) == count
        decoded = run("SanaVideoDecodeStream", unknown, one[1], 0, 16.0, "h264", 0)
        assert len(frames_of(decoded)) == len(frames_of(one[0]))


@check
def a_clip_reads_a_films_script(demo):
    with tempfile.TemporaryDirectory() as models, output_folder():
        clip = _core_clip(_gemma_file(Path(models)), "PIXELDIT")
        text = run("SanaVideoTextEncode", clip, "a red ball rolls", 10, True)
        with Counted(demo.causal) as made:
            state = film(demo, text_encoder=clip)[1].state
        assert made.calls == 9
        assert state.history[0].digest == text[0][1]["sana_digest"]
        with Counted(demo.causal) as made:
            film(demo, text_encoder=clip)
        assert (made.calls, made.loads) == (0, 0)


@check
def a_lora_is_part_of_a_films_names(demo):
    import torch

    width = demo.causal.model.diffusion_model.config.width
    rainy = demo.causal.clone()
    with output_folder() as folder:
        plain = film(demo)
        keys = [key for key in rainy.model_state_dict() if key.endswith("attn.proj.weight")]
        rainy.add_patches({keys[0]: ("diff", (torch.ones(width, width) * 0.05,))}, 1.0)
        with Counted(demo.causal) as made:
            nameless = film(demo, model=rainy)  # no file tells what another node has patched
        assert made.calls == 9
        assert len(list((folder / "sana_films" / "store" / "chunks").rglob("*.safetensors"))) == 3
        assert not same(nameless[1].state.history[0].latents, plain[1].state.history[0].latents)
        with Counted(demo.causal) as made:
            again = film(demo)
        assert made.calls == 0
        assert same_frames(again[0], plain[0])
