"""The workflows of the 50-step models: clips, sampled as the original does."""

from __future__ import annotations

from typing import Any

from .scenes import (
    CAMERA,
    CYAN,
    DRAWING,
    FIFTY,
    FILM,
    FOUR,
    FOX,
    GREEN,
    LARGE,
    LTX,
    LTX_2_3,
    MIDDLE,
    PURPLE,
    SHORT,
    WAN,
    WAVING,
    WIDE,
    loaded,
    prompt,
)

BLUR = "blurry, distorted, deformed, flickering, jerky, low resolution, watermark, text, still picture"


def clip(sheet: Any, note: str, name: str, text: str, image: bool = False) -> None:
    """81 frames as the original samples them: its noise levels and solver, under ComfyUI's custom sampler."""
    use, picture = loaded(sheet, note, SHORT, "sana_video_480p", WAN, start=False), {}
    with sheet.group("Picture and prompts" if image else "Prompts", PURPLE, WIDE):
        if image:
            frame = sheet.add("LoadImage", "First frame", image="example.png")
            picture = {"vae": use.vae, "image": frame}
        positive = prompt(sheet, "Prompt", use, text, motion_score=30)
        negative = prompt(sheet, "Negative prompt", use, BLUR, motion_score=0, instruction=False)
    with sheet.group("Size, noise and its levels", PURPLE, MIDDLE):
        latent = sheet.add("SanaVideoEmptyLatent", model=use.model, **picture)
        # the same numbers; ours also draws them as the original does
        ours = ("SanaVideoNoise", {"seed": 7, "device": "cpu"})
        kind, seed = ("RandomNoise", {"noise_seed": 7}) if image else ours
        noise = sheet.add(kind, "Noise", **seed)
        sigmas = sheet.add("SanaVideoSigmas", grid="euler" if image else "dpm++")
    with sheet.group("50 steps", PURPLE, MIDDLE):
        guider = sheet.add("CFGGuider", model=use.model, positive=positive, negative=negative, cfg=6)
        kind = {"sampler_name": "euler"} if image else {"solver_type": "midpoint", "eta": 0}
        solver = sheet.add("KSamplerSelect" if image else "SamplerDPMPP_2M_SDE", "Solver", **kind)
        parts = {"noise": noise, "guider": guider, "sampler": solver, "sigmas": sigmas}
        sampled = sheet.add("SamplerCustomAdvanced", "Sampler", latent_image=latent, **parts)
        images = sheet.add("SanaVideoDecode", vae=use.vae, latent=sampled)
    shown(sheet, images, name)


def shown(sheet: Any, images: Any, name: str, fps: int = 16) -> Any:
    with sheet.group("Video", GREEN, FILM):
        video = sheet.add("CreateVideo", images=images, fps=fps)
        return sheet.add("SaveVideo", video=video, filename_prefix=f"video/{name}")


def text_to_video(sheet: Any) -> None:
    note = (
        "## A clip of 5 seconds\n\nThe 50-step model sees all 81 frames at once, and samples as its authors "
        "do. The negative prompt has no instruction, motion score 0. For any length: *SANA-Video 01*."
    )
    clip(sheet, note, "text_to_video", f"{FOX} {CAMERA}")


def image_to_video(sheet: Any) -> None:
    note = (
        "## A clip that begins with a picture\n\nEmpty Latent makes the picture the first frame, which stays "
        "as it is. Say in the prompt what the picture shows, and what happens."
    )
    clip(sheet, note, "image_to_video", f"{DRAWING} {WAVING}", image=True)


def large_clip(sheet: Any) -> None:
    note = (
        "## A clip of 5 seconds at 1280 x 704\n\nThe sampler takes steps, cfg and shift of 0 from the model. "
        "Lengths are 8n + 1 frames. With a picture and the VAE in Empty Latent, the clip begins with it."
    )
    use = loaded(sheet, note, LARGE, "sana_video_720p", LTX, start=False)
    with sheet.group("Prompts", PURPLE, WIDE):
        positive = prompt(sheet, "Prompt", use, f"{FOX} {CAMERA}", motion_score=30)
        negative = prompt(sheet, "Negative prompt", use, BLUR, motion_score=0, instruction=False)
    with sheet.group("Size, and 50 steps", PURPLE, MIDDLE):
        latent = sheet.add("SanaVideoEmptyLatent", model=use.model, width=1280, height=704)
        texts = {"positive": positive, "negative": negative}
        sampled = sheet.add("SanaVideoSampler", model=use.model, latent=latent, **texts, seed=7)
        images = sheet.add("SanaVideoDecode", vae=use.vae, latent=sampled)
    shown(sheet, images, "720p")


def four_steps(sheet: Any) -> None:
    note = (
        "## 2.0 in four steps\n\nA clip of 5 seconds at 1280 x 736. This model was distilled to four steps, "
        "and needs no negative prompt. Lengths are 8n + 1 frames, up to 193. It sees the whole clip at once: "
        "there is no state to go on from."
    )
    use = loaded(sheet, note, FOUR, "sana_video2_720p_4step", LTX_2_3, start=False)
    with sheet.group("Prompt", PURPLE, WIDE):
        positive = prompt(sheet, "Prompt", use, f"{FOX} {CAMERA}", motion_score=20)
    with sheet.group("Size, and four steps", PURPLE, MIDDLE):
        latent = sheet.add("SanaVideoEmptyLatent", model=use.model, width=1280, height=736)
        sampled = sheet.add("SanaVideoSampler", model=use.model, latent=latent, positive=positive, seed=7)
        images = sheet.add("SanaVideoDecode", vae=use.vae, latent=sampled)
    saved = shown(sheet, images, "four_steps")
    size = [(latent, name) for name in ("width", "height", "length")]
    sheet.app([(positive, "text"), *size, (sampled, "seed")], [saved])


def fifty_steps(sheet: Any) -> None:
    note = (
        "## 2.0 in 50 steps\n\nA clip of 8 seconds at 1280 x 736, 24 frames a second. To begin with a "
        "picture, switch *First frame* on (select it, Ctrl+B), and say in the prompt what it shows and what "
        "happens."
    )
    use = loaded(sheet, note, FIFTY, "sana_video2_720p", LTX_2_3, start=False)
    with sheet.group("Optional: a picture (select it, Ctrl+B)", CYAN, WIDE, below=True):
        frame = sheet.add("LoadImage", "First frame", image="example.png")
        sheet.bypass(frame)
    with sheet.group("Prompts", PURPLE, WIDE):
        positive = prompt(sheet, "Prompt", use, f"{FOX} {CAMERA}", motion_score=20)
        negative = prompt(sheet, "Negative prompt", use, BLUR, motion_score=0, instruction=False)
    with sheet.group("Size, and 50 steps", PURPLE, MIDDLE):
        size = {"width": 1280, "height": 736, "length": 193}
        latent = sheet.add("SanaVideoEmptyLatent", model=use.model, vae=use.vae, image=frame, **size)
        texts = {"positive": positive, "negative": negative}
        sampled = sheet.add("SanaVideoSampler", model=use.model, latent=latent, **texts, seed=7)
        images = sheet.add("SanaVideoDecode", vae=use.vae, latent=sampled)
    shown(sheet, images, "fifty_steps", fps=24)
