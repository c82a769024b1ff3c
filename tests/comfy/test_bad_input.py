"""A running ComfyUI: what it says about bad input, and that the next run works."""

import pytest
from comfyui_sana_video.demo.model_set import write_demo_set
from graphs import chain, changed, film, loaders, node, sampler, save_video, show, with_film
from PIL import Image
from support.comfyui import film_of, needs_comfyui

pytestmark = needs_comfyui


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
    "a missing model": (
        lambda: changed(chain(1), "model", model_name="gone.pth"),
        ["models/diffusion_models", "gone.pth", "Hugging Face"],
    ),
    "a missing text encoder": (
        lambda: changed(chain(1), "encoder", encoder_name="gone"),
        ["models/text_encoders", "gone", "Hugging Face"],
    ),
    "a missing VAE": (
        lambda: changed(with_film(chain(1)), "vae", vae_name="gone.pt"),
        ["models/vae", "gone.pt", "Hugging Face"],
    ),
    "a file outside of the folders": (
        lambda: changed(chain(1), "model", model_name="../../secret.pth"),
        ["isn't the name of a file"],
    ),
    "a state outside of the folders": (
        lambda: (
            loaders()
            | {
                "load": node("SanaVideoLoadState", file="../../secret.safetensors [output]"),
                "i": show(["load", 0]),
            }
        ),
        ["outside of ComfyUI's output and input folders"],
    ),
    "5,000 chunks": (lambda: chain(1, chunks=5000), ["5000 chunks", "1 to 102"]),
    "a size that is no multiple": (
        lambda: changed(chain(1), "start", width=100, height=48),
        ["multiple of 16", "96 or 112"],
    ),
    "a picture that is too large": (
        lambda: changed(chain(1), "start", width=8192, height=48),
        ["8192", "4096"],
    ),
    "a family that the file contradicts": (
        lambda: changed(chain(1), "model", family="longsana_480p"),
        ["family demo", "longsana_480p was chosen"],
    ),
    "a state that leads out": (
        lambda: (
            chain(1) | {"save": node("SanaVideoSaveState", state=["block1", 1], filename_prefix="../../up")}
        ),
        ["output folder"],
    ),
    "a script whose last shot has no end": (
        lambda: {"s": node("SanaVideoScript", script="0:00 a\n0:20 b", seconds=15.0, seed=0, fps=16.0)},
        ["Line 2: this last shot begins at 0:20", "“0:25 end”"],
    ),
    "negative fps": (lambda: with_film(chain(1), fps=-4.0), ["fps is -4.0", "0.01 to 1000"]),
}


@pytest.mark.parametrize("what", REFUSED)
def test_refused_before_anything_runs(server, what):
    graph, words = REFUSED[what]
    message = server.refused(graph())
    assert all(word in message for word in words), message


def prime(state, **inputs):
    links = {"model": ["model", 0], "vae": ["vae", 0], "positive": ["text", 0], "state": state}
    return node("SanaVideoPrime", **links, **inputs)


def other_weights_in_mid_stream():
    graph = chain(1) | {"m2": node("SanaVideoModelLoader", model_name="other.safetensors", family="auto")}
    return graph | {"block2": sampler(["block1", 1], model=["m2", 0]), "info2": show(["block2", 1])}


def prime_with_both_or_none():
    return chain(1) | {"prime": prime(["start", 0]), "ip": show(["prime", 0])}


def prime_a_stream_that_has_begun():
    graph = chain(1) | {"image": node("LoadImage", image="wide.png")}
    return graph | {"prime": prime(["block1", 1], image=["image", 0]), "ip": show(["prime", 0])}


def two_images_for_a_batch_of_three():
    graph = changed(chain(1), "start", batch_size=3) | {"image": node("LoadImage", image="wide.png")}
    graph["two"] = node("ImageBatch", image1=["image", 0], image2=["image", 0])
    return graph | {"prime": prime(["start", 0], image=["two", 0]), "ip": show(["prime", 0])}


def a_latent_with_anothers_state():
    graph = chain(2)
    graph["decode"] = node("SanaVideoDecode", vae=["vae", 0], latent=["block1", 0], state=["block2", 1])
    return graph | {"save": node("SaveImage", images=["decode", 0], filename_prefix="x")}


FAILING = {
    "a VAE as transformer": (
        lambda: changed(chain(1), "model", model_name="wan.safetensors"),
        ["wan.safetensors", "isn't a SANA-Video transformer"],
    ),
    "half a file": (lambda: changed(chain(1), "model", model_name="cut.safetensors"), ["cut.safetensors"]),
    "a bidirectional model on Start": (
        lambda: changed(chain(1), "model", family="sana_video_480p"),
        ["block-causal", "Load SANA-Video Model"],
    ),
    "8 bits on a processor": (
        lambda: changed(chain(1), "model", precision="fp8"),
        ["fp8 cannot run here", "Choose full precision"],
    ),
    "a family of another VAE": (
        lambda: changed(chain(1), "model", family="sana_video_720p"),
        ["sana_video_720p", "channels"],
    ),
    "a chunk that is not there": (lambda: with_film(chain(1), from_chunk=7), ["chunk 7", "has 1"]),
    "a row that is not there": (lambda: with_film(chain(1), batch_row=3), ["Row 3", "batch of 1"]),
    "an empty stream to a file": (
        lambda: chain(1) | {"save": node("SanaVideoSaveState", state=["start", 0], filename_prefix="empty")},
        ["stream is empty"],
    ),
    "other weights in mid stream": (
        other_weights_in_mid_stream,
        ["was made by the model", "Load the model that made the state"],
    ),
    "prime with both or none": (prime_with_both_or_none, ["image or a video"]),
    "prime a stream that has begun": (prime_a_stream_that_has_begun, ["only an empty one can be primed"]),
    "two images for a batch of three": (two_images_for_a_batch_of_three, ["2 images", "batch of 3"]),
    "a latent with another's state": (a_latent_with_anothers_state, ["one and the same sampler"]),
    "an empty stream to a video": (
        lambda: chain(1) | {"film": film(["start", 0]), "save": save_video(["film", 0])},
        ["nothing to decode", "Sample a chunk first"],
    ),
}


@pytest.mark.parametrize("what", FAILING)
def test_a_failure_gives_a_reason_and_the_next_run_works(server, other_weights, what):
    graph, words = FAILING[what]
    run = server.run(graph())
    assert run.error is not None, "it ran"
    message = run.error["exception_message"]
    assert all(word in message for word in words), message
    # the page writes it before the message
    assert run.error["exception_type"] in [f"SANA-Video.{k}Error" for k in ("Input", "File", "State")]
    assert message.strip() in run.words[run.error["node_id"]]
    assert server.run(chain(1)).error is None


def test_a_script_runs_unwired_and_shows_its_plan(server):
    graph = {"s": node("SanaVideoScript", script="a {b|c}\ncut: d", seconds=5.0, seed=7, fps=16.0)}
    run = server.run(graph)
    assert run.words["s"].startswith("2 chunks · 2 scenes · 82 frames")
    assert run.shown["s"]["text"][0].splitlines()[1].endswith("seed 7 · a {b|c}")


def test_an_image_of_another_aspect_is_center_cropped(server, other_weights):
    graph = chain(0) | {
        "image": node("LoadImage", image="wide.png"),
        "prime": prime(["start", 0], image=["image", 0]),
        "block1": sampler(["prime", 0]),
        "info": show(["block1", 1]),
    }
    run = server.run(with_film(graph))
    assert run.error is None, run.error
    assert len(film_of(run)) == 41  # the image, then 40


def test_an_empty_prompt_runs_with_a_warning(server):
    assert server.run(changed(chain(1, seed=61), "text", text="   ")).error is None
    assert "The prompt is empty" in server.log.read_text()


def test_sana_weights_from_cores_loader_are_refused(server, other_weights):
    """Core mistakes them for PixArt's, or recognises nothing; our nodes refuse the result."""
    graph = chain(1)
    graph["model"] = node("UNETLoader", unet_name="other.safetensors", weight_dtype="default")
    run = server.run(graph)
    assert run.error is not None
