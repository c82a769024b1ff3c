"""A running ComfyUI: what is cached, what an interrupt leaves, what is said of bad input, what comes out."""

import json
import time

import av
import graphs
import pytest
import torch
from comfyui import needs_comfyui, running
from comfyui_sana_video.sana_video_core.demo_set import write_demo_set
from comfyui_sana_video.sana_video_core.state_file import load_state
from graphs import chain, changed, film, loaders, node, prompt, sampler, save_video, show
from PIL import Image

BLOCKS = {"block1", "block2", "block3", "block4", "other"}

pytestmark = needs_comfyui


def _frames(path):
    with av.open(str(path)) as video:
        return [frame.to_ndarray(format="rgb24") for frame in video.decode(video=0)]


def _blocks(run):
    assert run.error is None, run.error["exception_message"]
    return set(run.ran) & BLOCKS


# ---------------------------------------------------------------- caching


def test_an_artist_pays_only_for_what_changed(server):
    three = chain(3, seed=11)
    assert _blocks(server.run(three)) == {"block1", "block2", "block3"}
    assert _blocks(server.run(three)) == set()

    four = chain(4, seed=11)
    assert _blocks(server.run(four)) == {"block4"}  # append

    edited = changed(four, "block3", seed=99)
    assert _blocks(server.run(edited)) == {"block3", "block4"}  # change in the middle

    branched = edited | {"other": sampler(["block2", 1], seed=5), "info_other": show(["other", 1])}
    assert _blocks(server.run(branched)) == {"other"}  # branch

    begun = changed(branched, "text", text="a green ball rolls")
    assert _blocks(server.run(begun)) == BLOCKS


def test_branches_do_not_touch_each_other(server):
    """Both endings, in either order and alone, are what they are."""
    trunk = chain(1, seed=21) | {"end": prompt("the ball stops")}
    one = {"a": sampler(["block1", 1], seed=1), "info_a": show(["a", 1]), "sa": _saved("a", "one")}
    two = {"b": sampler(["block1", 1], "end", seed=2), "info_b": show(["b", 1]), "sb": _saved("b", "two")}
    together = server.run(trunk | one | two)
    assert together.error is None
    reseeded = server.run(changed(trunk | one | two, "b", seed=77))  # the trunk comes from the cache
    assert "block1" not in reseeded.ran
    assert "a" not in reseeded.ran
    again = server.run(changed(trunk | two, "b", seed=2))
    assert again.error is None
    states = sorted((server.base / "output" / "sana_states").glob("two_*.safetensors"))
    first, last = load_state(states[0]), load_state(states[-1])
    assert all(torch.equal(a, b) for a, b in zip(first.tensors(), last.tensors(), strict=True))


def _saved(block, name):
    return node("SanaVideoSaveState", state=[block, 1], filename_prefix=f"sana_states/{name}")


def test_a_changed_state_file_is_read_again(server):
    saved = server.run(chain(1, seed=31) | {"save": _saved("block1", "watched")})
    assert saved.error is None
    path = next((server.base / "output" / "sana_states").glob("watched_*.safetensors"))
    load = loaders() | {
        "load": node("SanaVideoLoadState", file=f"sana_states/{path.name} [output]"),
        "info": show(["load", 0]),
    }
    assert "load" in server.run(load).ran
    assert "load" not in server.run(load).ran
    server.run(chain(2, seed=31) | {"save": _saved("block2", "longer")})
    longer = next((server.base / "output" / "sana_states").glob("longer_*.safetensors"))
    path.write_bytes(longer.read_bytes())
    again = server.run(load)
    assert "load" in again.ran
    assert "2 chunks" in json.dumps(again.shown["info"])


# ---------------------------------------------------------------- progress, previews, interrupts


def test_one_bar_over_chunks_and_steps_with_previews(server):
    run = server.run(
        chain(1, seed=41) | {"long": sampler(["block1", 1], chunks=3, seed=41), "il": show(["long", 1])}
    )
    bar = [(value, most) for name, value, most in run.progress if name == "long"]
    assert bar == [(value, 9) for value in range(1, 10)]  # 3 chunks x (2 steps + absorbing)
    assert run.previews >= 9


def test_an_interrupted_sampler_loses_nothing(server):
    graph = chain(1, seed=51) | {"long": sampler(["block1", 1], chunks=40, seed=51), "il": show(["long", 1])}

    def stop(kind, data):
        if kind == "progress" and data["node"] == "long" and data["value"] == 10:
            server.ask("/interrupt", {})

    stopped = server.run(graph, on_event=stop)
    assert stopped.interrupted
    values = [value for name, value, _ in stopped.progress if name == "long"]
    assert 10 <= values[-1] < 20, values  # at the next model calls, not at the end
    again = server.run(changed(graph, "long", chunks=12))
    assert again.error is None
    assert not again.interrupted
    assert "block1" not in again.ran
    left = next(most for name, _, most in again.progress if name == "long")
    assert left in (27, 24, 21, 18), left  # of 36: three chunks or more were kept
    whole = server.run(
        chain(1, seed=51)
        | {"long": sampler(["block1", 1], chunks=12, seed=51, steps=3), "il": show(["long", 1])}
    )
    assert whole.error is None


def test_an_interrupted_video_is_kept_and_plays(server):
    graph = loaders() | {"text": prompt("a ball")}
    graph["start"] = node("SanaVideoStart", model=["model", 0], width=224, height=128, batch_size=1)
    graph |= {
        "block1": sampler(["start", 0], chunks=8),
        "film": film(["block1", 1]),
        "save": save_video(["film", 0]),
    }

    def stop(kind, data):
        if kind == "progress" and data["node"] == "film" and data["value"] >= 25:
            server.ask("/interrupt", {})

    assert server.run(graph, on_event=stop).interrupted
    kept = sorted((server.base / "output" / "video").glob("interrupted_*.mp4"))
    assert kept, "nothing was kept"
    frames = _frames(kept[-1])
    assert 80 <= len(frames) < 321
    assert not list((server.base / "temp").glob(".sana*"))
    done = server.run(graph)
    assert done.error is None
    assert len(_frames(done.files[-1])) == 321


# ---------------------------------------------------------------- ComfyUI's own samplers


@pytest.mark.parametrize("sampler_name", ["euler", "uni_pc", "dpmpp_2m"])
def test_ksampler_makes_clips(server, sampler_name):
    run = server.run(graphs.clip(sampler_name=sampler_name))
    assert run.error is None, run.error
    assert len(run.files) == 9
    assert len({path.read_bytes() for path in run.files}) > 1
    assert run.previews


# ---------------------------------------------------------------- bad input


def _with_film(graph, **changes):
    return graph | {"film": film(["block1", 1], **changes), "save": save_video(["film", 0])}


@pytest.fixture(scope="module")
def other_weights(server):
    """A second demo transformer with other weights, a VAE under a transformer's name, and a picture."""
    folder = server.base / "other"
    demo = write_demo_set(folder, seed=5)
    models = server.base / "models" / "diffusion_models"
    models.mkdir(parents=True, exist_ok=True)
    (models / "other.safetensors").write_bytes(demo.transformer.read_bytes())
    (models / "wan.safetensors").write_bytes(demo.vae.read_bytes())
    (models / "cut.safetensors").write_bytes(demo.transformer.read_bytes()[:100_000])
    Image.new("RGB", (200, 50), (200, 30, 30)).save(server.base / "input" / "wide.png")
    server.ask("/object_info/SanaVideoModelLoader")
    return folder


REFUSED = {
    "a missing model": (lambda: changed(chain(1), "model", model_name="gone.pth"), ["models/diffusion_models", "gone.pth", "Hugging Face"]),
    "a missing text encoder": (lambda: changed(chain(1), "encoder", encoder_name="gone"), ["models/text_encoders", "gone", "Hugging Face"]),
    "a missing VAE": (lambda: changed(_with_film(chain(1)), "vae", vae_name="gone.pt"), ["models/vae", "gone.pt", "Hugging Face"]),
    "a file outside of the folders": (lambda: changed(chain(1), "model", model_name="../../secret.pth"), ["no name of a file"]),
    "a state outside of the folders": (
        lambda: loaders() | {"load": node("SanaVideoLoadState", file="../../secret.safetensors [output]"), "i": show(["load", 0])},
        ["outside of ComfyUI's output and input folders"],
    ),
    "5,000 chunks": (lambda: chain(1, chunks=5000), ["5000 chunks", "1 to 102", "Chain samplers"]),
    "negative fps": (lambda: _with_film(chain(1), fps=-4.0), ["fps is -4.0", "0.01 to 1000"]),
}  # fmt: skip


@pytest.mark.parametrize("what", REFUSED)
def test_refused_before_anything_runs(server, what):
    graph, words = REFUSED[what]
    told = server.refused(graph())
    assert all(word in told for word in words), told


FAILING = {
    "a VAE as transformer": (lambda: changed(chain(1), "model", model_name="wan.safetensors"), ["wan.safetensors", "no SANA-Video transformer"]),
    "half a file": (lambda: changed(chain(1), "model", model_name="cut.safetensors"), ["cut.safetensors"]),
    "a bidirectional model on Start": (lambda: changed(chain(1), "model", family="sana_video_480p"), ["block-causal", "Load SANA-Video Model"]),
    "a size that is no multiple": (lambda: changed(chain(1), "start", width=100, height=48), ["multiple of 16", "96 or 112"]),
    "a family of another VAE": (lambda: changed(chain(1), "model", family="sana_video_720p"), ["sana_video_720p", "channels"]),
    "a chunk that is not there": (lambda: _with_film(chain(1), from_chunk=7), ["chunk 7", "has 1"]),
    "a row that is not there": (lambda: _with_film(chain(1), batch_row=3), ["Row 3", "batch of 1"]),
    "a state that leads out": (
        lambda: chain(1) | {"save": node("SanaVideoSaveState", state=["block1", 1], filename_prefix="../../up")},
        ["output folder"],
    ),
    "other weights in mid stream": (
        lambda: chain(1)
        | {
            "m2": node("SanaVideoModelLoader", model_name="other.safetensors", family="auto"),
            "block2": sampler(["block1", 1]) | {"inputs": sampler(["block1", 1])["inputs"] | {"model": ["m2", 0]}},
            "info2": show(["block2", 1]),
        },
        ["was made by the model", "Load the model that made the state"],
    ),
    "prime with both or none": (
        lambda: chain(1)
        | {
            "prime": node("SanaVideoPrime", model=["model", 0], vae=["vae", 0], positive=["text", 0], state=["start", 0]),
            "ip": show(["prime", 0]),
        },
        ["image or a video"],
    ),
    "prime a stream that has begun": (
        lambda: chain(1)
        | {
            "image": node("LoadImage", image="wide.png"),
            "prime": node(
                "SanaVideoPrime", model=["model", 0], vae=["vae", 0], positive=["text", 0], state=["block1", 1], image=["image", 0]
            ),
            "ip": show(["prime", 0]),
        },
        ["only an empty one can be primed"],
    ),
    "two images for a batch of three": (
        lambda: changed(chain(1), "start", batch_size=3)
        | {
            "image": node("LoadImage", image="wide.png"),
            "two": node("ImageBatch", image1=["image", 0], image2=["image", 0]),
            "prime": node(
                "SanaVideoPrime", model=["model", 0], vae=["vae", 0], positive=["text", 0], state=["start", 0], image=["two", 0]
            ),
            "ip": show(["prime", 0]),
        },
        ["2 images", "batch of 3"],
    ),
    "a latent with another's state": (
        lambda: chain(2)
        | {
            "decode": node("SanaVideoDecode", vae=["vae", 0], latent=["block1", 0], state=["block2", 1]),
            "save": node("SaveImage", images=["decode", 0], filename_prefix="x"),
        },
        ["one and the same sampler"],
    ),
    "an empty stream to a video": (
        lambda: chain(1) | {"film": film(["start", 0]), "save": save_video(["film", 0])},
        ["nothing to decode", "Sample a chunk first"],
    ),
    "an image for 720p": (lambda: graphs.clip(model=["core", 0]) | {"core": node("SanaVideoEmptyLatent")}, None),
}  # fmt: skip
del FAILING["an image for 720p"]


@pytest.mark.parametrize("what", FAILING)
def test_failing_in_a_sentence_and_the_next_run_works(server, other_weights, what):
    graph, words = FAILING[what]
    run = server.run(graph())
    assert run.error is not None, "it ran"
    told = run.error["exception_message"]
    assert all(word in told for word in words), told
    assert run.error["exception_type"].split(".")[-1] in ("InputError", "FileError", "StateError"), run.error[
        "exception_type"
    ]
    assert server.run(chain(1)).error is None


def test_an_image_of_another_aspect_is_filled_and_cropped(server, other_weights):
    graph = chain(0) | {
        "image": node("LoadImage", image="wide.png"),
        "prime": node(
            "SanaVideoPrime",
            model=["model", 0],
            vae=["vae", 0],
            positive=["text", 0],
            state=["start", 0],
            image=["image", 0],
        ),
        "block1": sampler(["prime", 0]),
        "info": show(["block1", 1]),
    }
    run = server.run(_with_film(graph))
    assert run.error is None, run.error
    assert len(_frames(run.files[-1])) == 41  # the image, then 40


def test_an_empty_prompt_runs_with_a_warning(server):
    assert server.run(changed(chain(1, seed=61), "text", text="   ")).error is None
    assert "The prompt is empty" in server.log.read_text()


def test_sana_weights_in_cores_loader_go_no_further(server, other_weights):
    """Core takes them for PixArt's, or for nothing; our nodes refuse what comes of it."""
    graph = chain(1)
    graph["model"] = node("UNETLoader", unet_name="other.safetensors", weight_dtype="default")
    run = server.run(graph)
    assert run.error is not None


# ---------------------------------------------------------------- without a cache


def test_cache_none(tmp_path):
    with running(tmp_path, "--cache-none") as bare:
        run = bare.run(_with_film(chain(3, seed=71)))
        assert run.error is None, run.error
        assert len(_frames(run.files[-1])) == 41
        again = bare.run(chain(3, seed=71))
        assert set(again.ran) >= {"block1", "block2", "block3"}
        assert json.dumps(again.shown["info3"]["text"]) == json.dumps(run.shown["info3"]["text"])
        time.sleep(0)
