"""What the workflows show: nodes, texts and places. build.py draws them."""

from __future__ import annotations

from typing import Any, NamedTuple

LONG, SHORT, LARGE = (f"SANA_Video_2B_{name}.pth" for name in ("480p_LongLive", "480p", "720p"))
GEMMA, WAN = "gemma_2_2b_it_elm_bf16.safetensors", "wan_2.1_vae.safetensors"
LTX = "LTX2_video_vae_bf16.safetensors"
NVIDIA = "Efficient-Large-Model/SANA-Video_2B"
MODELS = {  # file: folder under models/, and its address on Hugging Face
    LONG: ("diffusion_models", f"{NVIDIA}_480p_LongLive/resolve/main/checkpoints/{LONG}"),
    SHORT: ("diffusion_models", f"{NVIDIA}_480p/resolve/main/checkpoints/{SHORT}"),
    LARGE: ("diffusion_models", f"{NVIDIA}_720p/resolve/main/checkpoints/{LARGE}"),
    GEMMA: ("text_encoders", f"Comfy-Org/PixelDiT/resolve/main/text_encoders/{GEMMA}"),
    WAN: ("vae", f"Comfy-Org/Wan_2.1_ComfyUI_repackaged/resolve/main/split_files/vae/{WAN}"),
    LTX: ("vae", f"Kijai/LTXV2_comfy/resolve/main/VAE/{LTX}"),
}
BLUE, PURPLE, GREEN = "#5b9bc4", "#88A", "#8A8"
WIDE, MIDDLE, FILM, SCREEN = 360, 295, 430, 600  # widths of nodes
BUILT_IN = "demo (built in)"
DEMO = "**Without downloads:** the demo, *SANA-Video 0*, runs on a small built-in model."
FOX = (
    "A red fox walks along a narrow path through a snowy birch forest at dawn, its breath white in the cold "
    "air."
)
RUN = "The red fox runs through the snowy birch forest, snow sprays up under its paws."
LAKE = (
    "A frozen lake between dark firs seen from above, thin mist drifts over the ice, a slow flight forward."
)
HOUSE = (
    "The red fox reaches a wooden house with lit windows at the edge of the forest and sits down before its "
    "door."
)
CAMERA = "The camera follows at its height, soft golden light falls between the trunks."
DRAWING = (
    "A child's drawing: a girl with yellow hair and a pink dress stands on a green hill under a blue sky."
)
WAVING = "The drawn girl waves with both arms, wind moves her yellow hair, the clouds drift by."
STORY = (
    ("a ball moves", "a red ball moves right over a blue floor"),
    ("it turns yellow, in a circle", "a red ball turns yellow and moves in a circle over a blue floor"),
    ("it grows", "a yellow ball grows over a blue floor"),
)
SCRIPT = f"""0:00 {FOX} {CAMERA}
0:05 {RUN} {CAMERA}
0:10 keep: {RUN} Snow begins to fall.
0:15 cut: {LAKE}
0:20 end"""
BLUR = "blurry, distorted, deformed, flickering, jerky, low resolution, watermark, text, still picture"


class Loaded(NamedTuple):
    model: Any
    encoder: Any
    vae: Any
    start: Any  # a stream of nothing yet, or None


def loaded(
    sheet: Any, words: str, model: str = LONG, family: str = "auto", vae: str = WAN, start: bool = True
) -> Loaded:
    """The first column: a note, under it the loaders, and the size of a stream."""
    names = (model, GEMMA, vae)
    files = [f"- [{name}](https://huggingface.co/{MODELS[name][1]}) in {MODELS[name][0]}" for name in names]
    demo = DEMO if vae == WAN else "The built-in demo has no model of this kind."
    text = "\n\n".join((words, "**Download** into ComfyUI's models folder:", "\n".join(files), demo))
    sheet.note(text, WIDE + 30, 255)
    with sheet.group("Models and size" if start else "Models", BLUE, WIDE, below=True):
        loaders = (
            sheet.add("SanaVideoModelLoader", model_name=model, family=family),
            sheet.add("SanaVideoTextEncoderLoader", encoder_name=GEMMA),
            sheet.add("VAELoader" if vae == LTX else "SanaVideoVAELoader", vae_name=vae),
        )
        begun = sheet.add("SanaVideoStart", model=loaders[0]) if start else None
    return Loaded(*loaders, begun)


def without_downloads(sheet: Any) -> None:
    sheet.note(
        "## Three prompts, one film, on a small model\n\nPress Run. This model comes with the pack and knows "
        "one kind of scene: *a red ball moves right over a blue floor*.\n\n- colours: red, orange, yellow, "
        "green, blue, purple, white\n- shapes: ball, square, triangle, star, ring, cross\n- moves left, "
        "right, up or down, moves in a circle, bounces off the walls, grows, shrinks, spins, stops; also "
        "*turns green and moves up*\n- floors: blue, green, grey, brown, purple, black\n\n**Download** "
        "nothing; the other workflows do the same with the models of SANA-Video. This is the demo.",
        WIDE + 30,
        255,
    )
    with sheet.group("Models and size", BLUE, WIDE, below=True):
        loaders = (
            sheet.add("SanaVideoModelLoader", model_name=BUILT_IN),
            sheet.add("SanaVideoTextEncoderLoader", encoder_name=BUILT_IN),
            sheet.add("SanaVideoVAELoader", vae_name=BUILT_IN),
        )
        begun = sheet.add("SanaVideoStart", model=loaders[0], width=128, height=128)
    use = Loaded(*loaders, begun)
    state = use.start
    for number, (title, text) in enumerate(STORY, 1):
        with sheet.group(f"Shot {number}: {title}", PURPLE, MIDDLE):
            words = prompt(sheet, f"Prompt {number}", use, text)
            state = sampler(sheet, f"Shot {number}", use, words, state, seed=5)
            sheet.add("SanaVideoStateInfo", f"After shot {number}", state=state)
    film(sheet, "Video", "without_downloads", use, state)


def film(
    sheet: Any, title: str, file: str, use: Loaded, state: Any, chunk: int = 0, below: bool = False
) -> None:
    """Decodes a stream and saves it as a video file."""
    with sheet.group(title, GREEN, FILM, below):
        video = sheet.add("SanaVideoDecodeStream", vae=use.vae, state=state, from_chunk=chunk)
        sheet.add("SaveVideo", video=video, filename_prefix=f"video/{file}")


def prompt(sheet: Any, title: str, use: Loaded, words: str, **options: Any) -> Any:
    return sheet.add("SanaVideoTextEncode", title, text_encoder=use.encoder, text=words, **options)


def sampler(sheet: Any, title: str, use: Loaded, words: Any, state: Any, chunks: int = 2, **more: Any) -> Any:
    inputs = {"model": use.model, "positive": words, "state": state, "chunks": chunks, "seed": 7}
    return sheet.add("SanaVideoBlockSampler", title, **inputs | more)


def look(sheet: Any, state: Any, title: str = "") -> None:
    with sheet.group("What the state holds", BLUE, MIDDLE):
        sheet.add("SanaVideoStateInfo", title, state=state)


def first_long_video(sheet: Any) -> None:
    use = loaded(
        sheet,
        "## One prompt, 15 seconds\n\nSix chunks of 2.5 s, one after the other. The past travels as a "
        "*state* of fixed size: 60 chunks need no more memory than 6.",
    )
    with sheet.group("Prompt and six chunks", PURPLE, WIDE):
        words = prompt(sheet, "Prompt", use, f"{FOX} {CAMERA}")
        stream = sampler(sheet, "", use, words, use.start, 6)
    look(sheet, stream)
    film(sheet, "Video", "first_long_video", use, stream)


def three_shots(sheet: Any) -> None:
    use = loaded(
        sheet,
        "## Three prompts, one film\n\nEach sampler continues from the state of the one before. When the "
        "prompt changes, *recache* reads the last chunk again with the new prompt (same scene, new action), "
        "*keep* leaves the memory as it is, *cut* begins a new scene.",
    )
    shots = (
        ("Shot 1: a fox walks", f"{FOX} {CAMERA}", "recache"),
        ("Shot 2: it runs (recache)", f"{RUN} {CAMERA}", "recache"),
        ("Shot 3: a lake (cut)", LAKE, "cut"),
    )
    state = use.start
    for number, (title, text, change) in enumerate(shots, 1):
        with sheet.group(title, PURPLE, MIDDLE):
            words = prompt(sheet, f"Prompt {number}", use, text)
            state = sampler(sheet, f"Shot {number}", use, words, state, on_prompt_change=change)
            sheet.add("SanaVideoStateInfo", f"After shot {number}", state=state)
    film(sheet, "Video", "three_shots", use, state)


def two_endings(sheet: Any) -> None:
    use = loaded(
        sheet,
        "## One beginning, two endings\n\nConnect a state to two samplers, and both continue from the same "
        "moment. The beginning is made once; change one ending, and only that one is made again.",
    )
    with sheet.group("Beginning", PURPLE, MIDDLE):
        words = prompt(sheet, "Prompt", use, f"{FOX} {CAMERA}")
        begun = sampler(sheet, "Beginning", use, words, use.start)
    look(sheet, begun, "Where both continue")
    ends = []
    for letter, text in (("A", RUN), ("B", HOUSE)):
        with sheet.group(f"Ending {letter}", PURPLE, MIDDLE):
            words = prompt(sheet, f"Prompt {letter}", use, f"{text} {CAMERA}")
            ends.append(sampler(sheet, f"Ending {letter}", use, words, begun))
    for letter, end in zip("AB", ends, strict=True):
        film(sheet, f"Video {letter}", f"ending_{letter.lower()}", use, end, below=letter == "B")


def save_today(sheet: Any) -> None:
    use = loaded(
        sheet,
        "## Today: make a beginning and keep its state\n\nSave State writes "
        "output/sana_states/today_00001_.safetensors. Tomorrow open *SANA-Video 4b*: it continues as "
        "if the video had never stopped.",
    )
    with sheet.group("Prompt and four chunks", PURPLE, WIDE):
        words = prompt(sheet, "Prompt", use, f"{FOX} {CAMERA}")
        stream = sampler(sheet, "", use, words, use.start, 4)
    look(sheet, stream)
    with sheet.group("Keep the state", BLUE, FILM):
        sheet.add("SanaVideoSaveState", state=stream, filename_prefix="sana_states/today")
    film(sheet, "Video", "today", use, stream, below=True)


def continue_tomorrow(sheet: Any) -> None:
    use = loaded(
        sheet,
        "## Tomorrow: continue from the saved state\n\nNeeds the file that *SANA-Video 4a* wrote (press R if "
        "it isn't in the list) and the same model. The video shows only what is new: from chunk 4 on.",
        start=False,
    )
    with sheet.group("Yesterday", BLUE, WIDE):
        state = sheet.add("SanaVideoLoadState", file="sana_states/today_00001_.safetensors [output]")
        sheet.add("SanaVideoStateInfo", state=state)
    with sheet.group("Prompt and four chunks more", PURPLE, WIDE):
        words = prompt(sheet, "Prompt", use, f"{RUN} {CAMERA}")
        stream = sampler(sheet, "", use, words, state, 4)
    film(sheet, "Video of the new part", "tomorrow", use, stream, 4)


def from_an_image(sheet: Any) -> None:
    use = loaded(
        sheet,
        "## Begin with a picture\n\nPrime makes the picture the first frame of the stream; the samplers "
        "continue from there. Say in prompt 1 what the picture shows. Prime also continues a video.",
    )
    with sheet.group("Picture", BLUE, MIDDLE):
        words = prompt(sheet, "Prompt 1", use, DRAWING)
        ready = {"model": use.model, "vae": use.vae, "positive": words, "state": use.start}
        image = sheet.add("LoadImage", image="example.png")
        state = sheet.add("SanaVideoPrime", image=image, **ready)
    with sheet.group("Shot 1", PURPLE, MIDDLE):
        state = sampler(sheet, "Shot 1", use, words, state)
    with sheet.group("Shot 2", PURPLE, MIDDLE):
        words = prompt(sheet, "Prompt 2", use, WAVING)
        state = sampler(sheet, "Shot 2", use, words, state)
    film(sheet, "Video", "from_an_image", use, state)


def clip(sheet: Any, note: str, name: str, text: str, image: bool = False, large: bool = False) -> None:
    """81 frames as the original samples them: its noise levels and solver, under ComfyUI's custom sampler."""
    files = (LARGE, "sana_video_720p", LTX) if large else (SHORT, "sana_video_480p", WAN)
    use = loaded(sheet, note, *files, start=False)
    size, picture = {"width": 1280, "height": 704} if large else {}, {}
    with sheet.group("Picture and prompts" if image else "Prompts", PURPLE, WIDE):
        if image:
            frame = sheet.add("LoadImage", "First frame", image="example.png")
            picture = {"vae": use.vae, "image": frame}
        positive = prompt(sheet, "Prompt", use, text, motion_score=30)
        negative = prompt(sheet, "Negative prompt", use, BLUR, motion_score=0, instruction=False)
    with sheet.group("Size, noise and its levels", PURPLE, MIDDLE):
        latent = sheet.add("SanaVideoEmptyLatent", model=use.model, **size, **picture)
        noise = sheet.add("RandomNoise", "Noise", noise_seed=7)
        sigmas = sheet.add("SanaVideoSigmas", grid="euler" if image else "dpm++")
    with sheet.group("50 steps", PURPLE, MIDDLE):
        guider = sheet.add("CFGGuider", model=use.model, positive=positive, negative=negative, cfg=6)
        kind = {"sampler_name": "euler"} if image else {"solver_type": "midpoint", "eta": 0}
        solver = sheet.add("KSamplerSelect" if image else "SamplerDPMPP_2M_SDE", "Solver", **kind)
        parts = {"noise": noise, "guider": guider, "sampler": solver, "sigmas": sigmas}
        sampled = sheet.add("SamplerCustomAdvanced", "Sampler", latent_image=latent, **parts)
        decode, socket = ("VAEDecode", "samples") if large else ("SanaVideoDecode", "latent")
        images = sheet.add(decode, vae=use.vae, **{socket: sampled})
    with sheet.group("Video", GREEN, FILM):
        video = sheet.add("CreateVideo", images=images, fps=16)
        sheet.add("SaveVideo", video=video, filename_prefix=f"video/{name}")


def text_to_video(sheet: Any) -> None:
    note = (
        "## A clip of 5 seconds\n\nThe 50-step model sees all 81 frames at once, and samples as its authors "
        "do. The negative prompt has no instruction, motion score 0. For any length: *SANA-Video 1*."
    )
    clip(sheet, note, "text_to_video", f"{FOX} {CAMERA}")


def image_to_video(sheet: Any) -> None:
    note = (
        "## A clip that begins with a picture\n\nEmpty Latent makes the picture the first frame, which stays "
        "as it is. Say in the prompt what the picture shows, and what happens."
    )
    clip(sheet, note, "image_to_video", f"{DRAWING} {WAVING}", image=True)


def from_a_script(sheet: Any) -> None:
    use = loaded(
        sheet,
        "## A film from a script\n\nA line is a shot. *keep:* leaves the memory as it is, *cut:* begins a "
        "new scene. Stop it, or close ComfyUI: Run goes on where it ended. Change a line, and only the later "
        "chunks of its scene are made.",
        start=False,
    )
    with sheet.group("The film", PURPLE, SCREEN):
        models = {"model": use.model, "text_encoder": use.encoder, "vae": use.vae}
        sheet.add("SanaVideoLongVideo", script=SCRIPT, seconds=20, seed=7, **models)


def large_clip(sheet: Any) -> None:
    note = (
        "## A clip of 5 seconds at 1280 x 704\n\nThe 720p model works with the LTX-2 video VAE, which "
        "ComfyUI's own Load VAE and VAE Decode know. Lengths are 8n + 1 frames."
    )
    clip(sheet, note, "720p", f"{FOX} {CAMERA}", large=True)
