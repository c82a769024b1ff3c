"""Prompts in API format for the tests, with the demo's models."""

from __future__ import annotations

import copy
import json

DEMO = "demo (built in)"
WIDTH, HEIGHT = 64, 48


def node(class_type, **inputs):
    return {"class_type": class_type, "inputs": inputs}


def loaders(family="auto", model=DEMO):
    return {
        "model": node("SanaVideoModelLoader", model_name=model, family=family),
        "encoder": node("SanaVideoTextEncoderLoader", encoder_name=DEMO),
        "vae": node("SanaVideoVAELoader", vae_name=DEMO),
    }


def prompt(text, instruction=True):
    return node(
        "SanaVideoTextEncode",
        text_encoder=["encoder", 0],
        text=text,
        motion_score=10,
        instruction=instruction,
    )


def sampler(state, text="text", **changes):
    inputs = {"model": ["model", 0], "positive": [text, 0], "state": state}
    inputs |= {
        "chunks": 1,
        "seed": 3,
        "steps": 2,
        "sampler": "few_step",
        "on_prompt_change": "recache",
        **changes,
    }
    return node("SanaVideoBlockSampler", **inputs)


def show(state):
    return node("SanaVideoStateInfo", state=state)


def film(state, **changes):
    inputs = {"vae": ["vae", 0], "state": state, "from_chunk": 0, "fps": 16.0}
    inputs |= {"codec": "h264", "batch_row": 0}
    return node("SanaVideoDecodeStream", **inputs | changes)


def save_video(video, prefix="video/test"):
    return node("SaveVideo", video=video, filename_prefix=prefix, format="auto", codec="auto")


def chain(count, **changes):
    """start -> block1 -> … -> blockN, with info1 … infoN behind the blocks."""
    graph = loaders() | {"text": prompt("a red ball rolls")}
    graph["start"] = node("SanaVideoStart", model=["model", 0], width=WIDTH, height=HEIGHT, batch_size=1)
    last = ["start", 0]
    for i in range(1, count + 1):
        graph[f"block{i}"] = sampler(last, **changes)
        last = [f"block{i}", 1]
        graph[f"info{i}"] = show(last)
    return graph


def changed(graph, name, **inputs):
    """A copy with other inputs on one node."""
    graph = copy.deepcopy(graph)
    graph[name]["inputs"] |= inputs
    return graph


def clip(**changes):
    """A clip of 9 frames by ComfyUI's KSampler with the demo's weights as a bidirectional model."""
    graph = loaders("sana_video_480p") | {"text": prompt("a red ball"), "no": prompt("blurry", False)}
    graph["latent"] = node(
        "SanaVideoEmptyLatent", model=["model", 0], width=WIDTH, height=HEIGHT, length=9, batch_size=1
    )
    sampling = {"seed": 1, "steps": 3, "cfg": 4.0}
    sampling |= {"sampler_name": "euler", "scheduler": "simple", "denoise": 1.0}
    links = {"model": ["model", 0], "positive": ["text", 0], "negative": ["no", 0]}
    links |= {"latent_image": ["latent", 0]}
    graph["sample"] = node("KSampler", **sampling | links | changes)
    graph["decode"] = node("SanaVideoDecode", vae=["vae", 0], latent=["sample", 0])
    graph["save"] = node("SaveImage", images=["decode", 0], filename_prefix="clip")
    return graph


def with_film(graph, **changes):
    """The graph with a video of its first block."""
    return graph | {"film": film(["block1", 1], **changes), "save": save_video(["film", 0])}


def long_video(script, **changes):
    """A film of a script."""
    graph = loaders()
    inputs = {"model": ["model", 0], "text_encoder": ["encoder", 0], "vae": ["vae", 0], "script": script}
    inputs |= {"seconds": 10.0, "width": WIDTH, "height": HEIGHT, "seed": 3, "fps": 16.0}
    inputs |= {"filename_prefix": "sana_films/film", "resume": True, "steps": 2}
    graph["film"] = node("SanaVideoLongVideo", **inputs | changes)
    return graph


def saved_in(path):
    """All that is in a state's file, but for the workflow, which names it. Its metadata has any order."""
    data = path.read_bytes()
    end = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:end])
    del header["__metadata__"]["workflow"]
    return header, data[end:]


def saved(state, name, what="everything"):
    return node("SanaVideoSaveState", state=state, filename_prefix=f"sana_states/{name}", what=what)
