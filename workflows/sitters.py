"""The graphs in which portraits.py photographs the nodes, and who is in which picture."""

from __future__ import annotations

from typing import Any

from .arrange import Node
from .build import Sheet
from .scenes import BUILT_IN

Portraits = dict[str, list[Node]]  # by the name of the node: what is seen, from left to right


def stream(sheet: Sheet) -> Portraits:
    model, encoder, vae = (
        sheet.add("SanaVideoModelLoader", model_name=BUILT_IN),
        sheet.add("SanaVideoTextEncoderLoader", encoder_name=BUILT_IN),
        sheet.add("SanaVideoVAELoader", vae_name=BUILT_IN),
    )
    size: dict[str, Any] = {"width": 128, "height": 128}
    start = sheet.add("SanaVideoStart", model=model, **size)
    texts = ("a red ball moves right over a blue floor", "a red ball turns yellow and moves in a circle")
    words = [sheet.add("SanaVideoTextEncode", text_encoder=encoder, text=text) for text in texts]
    use: dict[str, Any] = {"model": model, "seed": 5, "chunks": 2}
    shot = sheet.add("SanaVideoBlockSampler", "Shot 1", positive=words[0], state=start, **use)
    after = sheet.add("SanaVideoBlockSampler", "Shot 2", positive=words[1], state=shot, **use)
    info = sheet.add("SanaVideoStateInfo", state=after)
    save = sheet.add("SanaVideoSaveState", state=after, filename_prefix="sana_states/ball")
    video = sheet.add("SanaVideoDecodeStream", vae=vae, state=after)
    keep = sheet.add("SaveVideo", video=video, filename_prefix="video/ball")
    frames = sheet.add("SanaVideoDecode", vae=vae, latent=shot, state=shot)
    script = "0:00 a red ball moves right over a blue floor\n0:05 cut: a green ring grows over a grey floor"
    plan = sheet.add("SanaVideoScript", script=script, seconds=10)
    loaded: dict[str, Any] = {"model": model, "text_encoder": encoder, "vae": vae}
    wide: dict[str, Any] = {"width": 144, "height": 80}
    film = sheet.add("SanaVideoLongVideo", script=script, seconds=10, seed=5, **loaded, **wide)
    film["size"][0] = 420  # it has so many widgets that it would be a tower
    return {
        **{node["type"]: [node] for node in (model, encoder, vae, start, words[0], info, save, plan, film)},
        "SanaVideoBlockSampler": [shot, after],
        "SanaVideoDecodeStream": [video, keep],
        "SanaVideoDecode": [shot, frames],
    }


def beginnings(sheet: Sheet) -> Portraits:
    """Needs what the stream has left: its state, and a picture of its film."""
    model = sheet.add("SanaVideoModelLoader", model_name=BUILT_IN)
    encoder = sheet.add("SanaVideoTextEncoderLoader", encoder_name=BUILT_IN)
    vae = sheet.add("SanaVideoVAELoader", vae_name=BUILT_IN)
    words = sheet.add("SanaVideoTextEncode", text_encoder=encoder, text="a yellow ball grows")
    load = sheet.add("SanaVideoLoadState", file="sana_states/ball_00001_.safetensors [output]")
    use: dict[str, Any] = {"model": model, "positive": words, "seed": 5}
    after = sheet.add("SanaVideoBlockSampler", state=load, **use)
    sheet.add("SanaVideoStateInfo", state=after)
    begun = sheet.add("SanaVideoStart", model=model, width=128, height=128)
    image = sheet.add("LoadImage", image="ball.png")
    prime = sheet.add("SanaVideoPrime", model=model, vae=vae, positive=words, state=begun, image=image)
    sheet.add("SanaVideoStateInfo", state=sheet.add("SanaVideoBlockSampler", state=prime, **use))
    return {"SanaVideoLoadState": [load, after], "SanaVideoPrime": [image, prime]}


def clips(sheet: Sheet) -> Portraits:
    """Isn't run: only ComfyUI has the samplers."""
    model = sheet.add("SanaVideoModelLoader", model_name=BUILT_IN)
    lora = sheet.add("SanaVideoLoraLoader", model=model, lora_name="watercolour.safetensors", strength=0.8)
    latent = sheet.add("SanaVideoEmptyLatent", model=lora)
    noise, sigmas = sheet.add("SanaVideoNoise"), sheet.add("SanaVideoSigmas")
    sampler = sheet.add("SamplerCustomAdvanced", noise=noise, sigmas=sigmas, latent_image=latent)
    other = sheet.add("SamplerCustomAdvanced", noise=noise, sigmas=sigmas, latent_image=latent)
    encoder = sheet.add("SanaVideoTextEncoderLoader", encoder_name=BUILT_IN)
    words = sheet.add("SanaVideoTextEncode", text_encoder=encoder, text="a red fox runs through snow")
    ours = sheet.add("SanaVideoSampler", model=lora, positive=words, latent=latent, seed=7)
    return {
        "SanaVideoSampler": [latent, ours],
        "SanaVideoLoraLoader": [lora],
        "SanaVideoEmptyLatent": [latent],
        "SanaVideoNoise": [noise, sampler],
        "SanaVideoSigmas": [sigmas, other],
    }
