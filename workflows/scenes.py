"""What the workflows show: nodes, texts and places. build.py draws them."""

from __future__ import annotations

from typing import Any, NamedTuple

LONG, SHORT, LARGE = (f"SANA_Video_2B_{name}.pth" for name in ("480p_LongLive", "480p", "720p"))
GEMMA, WAN = "gemma_2_2b_it_elm_bf16.safetensors", "wan_2.1_vae.safetensors"
LTX, LTX_2_3 = "LTX2_video_vae_bf16.safetensors", "LTX23_video_vae_bf16.safetensors"
FIFTY = "SANA_Video_2.0_5B_720p.pth"
FOUR = "SANA_Video_2.0_5B_720p_4step.pth"
NVIDIA, NVIDIA_2 = "Efficient-Large-Model/SANA-Video_2B", "Efficient-Large-Model/SANA-Video_2.0_5B"
MODELS = {  # file: folder under models/, and its address on Hugging Face
    LONG: ("diffusion_models", f"{NVIDIA}_480p_LongLive/resolve/main/checkpoints/{LONG}"),
    SHORT: ("diffusion_models", f"{NVIDIA}_480p/resolve/main/checkpoints/{SHORT}"),
    LARGE: ("diffusion_models", f"{NVIDIA}_720p/resolve/main/checkpoints/{LARGE}"),
    GEMMA: ("text_encoders", f"Comfy-Org/PixelDiT/resolve/main/text_encoders/{GEMMA}"),
    WAN: ("vae", f"Comfy-Org/Wan_2.1_ComfyUI_repackaged/resolve/main/split_files/vae/{WAN}"),
    LTX: ("vae", f"Kijai/LTXV2_comfy/resolve/main/VAE/{LTX}"),
    LTX_2_3: ("vae", f"Kijai/LTX2.3_comfy/resolve/main/vae/{LTX_2_3}"),
    FIFTY: ("diffusion_models", f"{NVIDIA_2}_720p/resolve/main/checkpoints/{FIFTY}"),
    FOUR: ("diffusion_models", f"{NVIDIA_2}_720p_4step/resolve/main/checkpoints/{FOUR}"),
}
# of the page's palette for groups: pale blue, blue, green, and cyan for what is optional
BLUE, PURPLE, GREEN, CYAN = "#3f789e", "#88A", "#8A8", "#8AA"
WIDE, MIDDLE, FILM, SCREEN = 360, 295, 430, 600  # widths of nodes
BUILT_IN = "demo (built in)"
YOUR_LORA = "your_lora.safetensors"
DEMO = "**Without downloads:** the demo, *SANA-Video 00*, runs on a small built-in model."
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
DEMO_SCRIPT = """0:00 a red ball moves right over a blue floor
0:05 a red ball turns yellow and moves in a circle over a blue floor
0:07.5 keep: a yellow ball grows over a blue floor
0:10 cut: a purple ring bounces off the walls over a green floor
0:15 end"""
SCRIPT = f"""0:00 {FOX} {CAMERA}
0:05 {RUN} {CAMERA}
0:10 keep: {RUN} Snow begins to fall.
0:15 cut: {LAKE}
0:20 end"""


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
            sheet.add("SanaVideoVAELoader", vae_name=vae),
        )
        begun = sheet.add("SanaVideoStart", model=loaders[0]) if start else None
    return Loaded(*loaders, begun)


def without_downloads(sheet: Any) -> None:
    sheet.note(
        "## Four lines, one film\n\nPress Run: this small model, the demo, comes with the pack. A line is "
        "a shot. Change one and run again: only the later chunks of its scene are made.\n\nThe model knows "
        "one kind of sentence, *a red ball moves right over a blue floor*:\n\n- colours: red, orange, "
        "yellow, green, blue, purple, white\n- shapes: ball, square, triangle, star, ring, cross\n- moves "
        "left, right, up or down, moves in a circle, bounces off the walls, grows, shrinks, spins, stops, "
        "*turns green and moves up*\n- floors: blue, green, grey, brown, purple, black\n\n**Download** "
        "nothing here. For real films open *SANA-Video 09*; its note has the links: a model of 4 to 8 GB, a "
        "text encoder of 5.2 GB, a VAE of 0.25 GB. 8 GB of GPU memory are enough.",
        WIDE + 30,
        255,
    )
    with sheet.group("Models", BLUE, WIDE, below=True):
        use = Loaded(
            sheet.add("SanaVideoModelLoader", model_name=BUILT_IN),
            sheet.add("SanaVideoTextEncoderLoader", encoder_name=BUILT_IN),
            sheet.add("SanaVideoVAELoader", vae_name=BUILT_IN),
            None,
        )
    # square, so the node is as narrow as the page draws the film high
    made = screen(sheet, use, WIDE, script=DEMO_SCRIPT, seconds=15, seed=5, width=128, height=128)
    sheet.app([(made, name) for name in ("script", "seconds", "width", "height", "seed")], [made])


def screen(sheet: Any, use: Loaded, room: int = SCREEN, **film: Any) -> Any:
    with sheet.group("The film", PURPLE, room):
        models = {"model": use.model, "text_encoder": use.encoder, "vae": use.vae}
        return sheet.add("SanaVideoLongVideo", **models, **film)


def film(
    sheet: Any, title: str, file: str, use: Loaded, state: Any, chunk: int = 0, below: bool = False
) -> Any:
    """Decodes a stream and saves it as a video file."""
    with sheet.group(title, GREEN, FILM, below):
        video = sheet.add("SanaVideoDecodeStream", vae=use.vae, state=state, from_chunk=chunk)
        return sheet.add("SaveVideo", video=video, filename_prefix=f"video/{file}")


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
    with sheet.group("Optional: a LoRA (select it, Ctrl+B)", CYAN, WIDE, below=True):
        lora = sheet.add("SanaVideoLoraLoader", model=use.model, lora_name=YOUR_LORA)
    sheet.bypass(lora)
    use = use._replace(model=lora)
    with sheet.group("Prompt and six chunks", PURPLE, WIDE):
        words = prompt(sheet, "Prompt", use, f"{FOX} {CAMERA}")
        stream = sampler(sheet, "", use, words, use.start, 6)
    look(sheet, stream)
    video = film(sheet, "Video", "first_long_video", use, stream)
    sheet.app(
        [(words, "text"), (stream, "chunks"), (use.start, "width"), (use.start, "height"), (stream, "seed")],
        [video],
    )


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
        "output/sana_states/today_00001_.safetensors. Tomorrow open *SANA-Video 04b*: it continues as "
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
        "## Tomorrow: continue from the saved state\n\nNeeds the file that *SANA-Video 04a* wrote (press R "
        "if it isn't in the list) and the same model. The video shows only what is new: from chunk 4 on.",
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
    first, begun = words, state
    with sheet.group("Shot 2", PURPLE, MIDDLE):
        words = prompt(sheet, "Prompt 2", use, WAVING)
        state = sampler(sheet, "Shot 2", use, words, state)
    video = film(sheet, "Video", "from_an_image", use, state)
    lengths = [(begun, "chunks"), (state, "chunks"), (use.start, "width"), (use.start, "height")]
    seeds = [(begun, "seed"), (state, "seed")]
    sheet.app([(image, "image"), (first, "text"), (words, "text"), *lengths, *seeds], [video])


def from_a_script(sheet: Any) -> None:
    use = loaded(
        sheet,
        "## A film from a script\n\nA line is a shot. *keep:* leaves the memory as it is, *cut:* begins a "
        "new scene. Stop it, or close ComfyUI: Run goes on where it ended. Change a line, and only the later "
        "chunks of its scene are made.",
        start=False,
    )
    with sheet.group("Optional: the plan alone (select it, Ctrl+B)", CYAN, WIDE, below=True):
        sheet.bypass(sheet.add("SanaVideoScript", script=SCRIPT, seconds=20, seed=7))
    made = screen(sheet, use, script=SCRIPT, seconds=20, seed=7)
    sheet.app([(made, name) for name in ("script", "seconds", "width", "height", "seed")], [made])
