"""The stream as an artist builds it: loaders, encode, start, block samplers."""

import logging

import pytest
import torch
from comfy import model_management as management
from comfy import sd, utils
from comfyui_sana_video.bridge.text_encoders import prompt_of
from comfyui_sana_video.sana_video_core.text.prompt import embedding_digest, prompt_digest
from support.artist import (
    HEIGHT,
    WIDTH,
    demo,
    folders,
    latents,
    node,
    one_chunk,
    output_of,
    refused,
    run,
    same_state,
    sample,
    start,
    two_chunks,
)
from support.pack import same


@pytest.fixture(autouse=True)
def base(tmp_path):
    with folders(tmp_path):
        yield tmp_path


# --- prompts


def test_a_prompt_carries_mask_text_and_digest():
    ((embeddings, extra),) = demo().positive
    assert embeddings.shape == (1, 300, 32)
    assert extra["attention_mask"].shape == (1, 300)
    assert 0 < extra["attention_mask"].sum() < 300
    assert extra["sana_words"] == "a red ball rolls"
    assert extra["sana_digest"] == prompt_digest("a red ball rolls", system_prompt=None, motion_score=10)


def test_motion_score_and_system_prompt_reach_the_prompt(monkeypatch):
    monkeypatch.setattr(demo().encoder.encoder, "system_prompt", "Make it good: ")
    calm, lively, plain = (
        run("TextEncode", demo().encoder, "a ball", *options)
        for options in ((10, True), (30, True), (10, False))
    )
    assert not torch.equal(calm[0][0], lively[0][0])
    assert not torch.equal(calm[0][0], plain[0][0])
    digests = [entry[0][1]["sana_digest"] for entry in (calm, lively, plain)]
    assert len(set(digests)) == 3
    assert digests[0] == prompt_digest("a ball", system_prompt="Make it good: ", motion_score=10)


@pytest.mark.parametrize("text, warnings", [(" ", 1), ("--ar 16:9", 2)])
def test_an_empty_prompt_is_reported_and_keeps_the_system_prompt(monkeypatch, caplog, text, warnings):
    """As in the original, where the instruction stands before every prompt."""
    monkeypatch.setattr(demo().encoder.encoder, "system_prompt", "Make it good: ")
    with caplog.at_level(logging.WARNING):
        empty = run("TextEncode", demo().encoder, text, 30, True)
    assert "prompt is empty" in caplog.messages[-1]
    assert len(caplog.messages) == warnings
    expected = demo().encoder.encoder.encode("", system_prompt="Make it good: ", motion_score=30)[0]
    assert torch.equal(empty[0][0], expected)
    assert not torch.equal(empty[0][0], run("TextEncode", demo().encoder, "", 30, False)[0][0])


def test_foreign_conditioning_is_read_whole_and_identified_by_its_bytes():
    embeddings, mask = torch.ones(1, 5, 32), torch.ones(1, 3)
    prompt = prompt_of([[embeddings, {"attention_mask": mask}]])  # concatenated: its mask is too short
    assert prompt.mask is None
    assert prompt.digest == embedding_digest(embeddings, None)
    latent, _, _ = sample(positive=[[embeddings, {}]])
    assert latent["samples"].isfinite().all()


# --- chunks


def test_shapes_and_frames():
    latent, state, frames = one_chunk()
    assert latent["samples"].shape == (1, 16, 11, 4, 6)
    assert (frames, state.state.frames) == (41, 41)
    latent, state, frames = two_chunks()
    assert latent["samples"].shape == (1, 16, 21, 4, 6)
    assert (frames, state.state.plan) == (81, ((11, 10),))


def test_chained_samplers_are_bit_identical_to_one():
    whole, whole_state, _ = two_chunks()
    latent, state, frames = sample(one_chunk()[1])
    assert frames == 81
    assert same_state(state, whole_state)
    assert same(torch.cat([one_chunk()[0]["samples"], latent["samples"]], dim=2), whole["samples"])


def test_the_latent_holds_the_new_chunks_of_the_history():
    latent, state, _ = sample(one_chunk()[1], chunks=2)
    new = state.state.history[1:]
    assert latent["samples"].shape[2] == 20
    assert same(latent["samples"], torch.cat([latents(chunk) for chunk in new], dim=2))


def test_a_state_socket_lists_the_tensors_of_its_state():
    """ComfyUI's memory accounting looks into tuples, not into classes."""
    _, state, _ = two_chunks()
    assert isinstance(state, tuple)
    assert state._fields == ("state", "tensors")
    assert [id(tensor) for tensor in state.tensors] == [id(tensor) for tensor in state.state.tensors()]
    assert isinstance(state.tensors, tuple)
    assert (
        len(state.tensors) == 2 * 3 * 3 + 2 + 2
    )  # two memories of three blocks, the history, and its one text with its mask
    assert {type(socket).__name__ for socket in (state, start())} == {"SocketState"}


def test_inputs_are_never_written_to():
    _, state, _ = one_chunk()
    weights = demo().model.model.diffusion_model.state_dict()
    prompts = [(entry[0][0], entry[0][1]["attention_mask"]) for entry in (demo().positive, demo().other)]
    watched = [*state.tensors, *weights.values(), *(tensor for pair in prompts for tensor in pair)]
    before = [tensor.clone() for tensor in watched]
    extra = dict(demo().other[0][1])
    for change in ("recache", "keep", "cut"):
        sample(state, positive=demo().other, on_prompt_change=change)
    run("StateInfo", state)
    run("Decode", demo().vae, one_chunk()[0], state)
    assert all(same(a, b) for a, b in zip(before, watched, strict=True))
    assert demo().other[0][1] == extra


def test_branches_do_not_affect_each_other():
    _, trunk, _ = one_chunk()
    prompts = (demo().positive, demo().other)
    left, right = (sample(trunk, positive=positive) for positive in prompts)
    right_first, left_last = (sample(trunk, positive=positive) for positive in reversed(prompts))
    assert same_state(left[1], left_last[1])
    assert same_state(right[1], right_first[1])
    assert not torch.equal(left[0]["samples"], right[0]["samples"])


def test_a_change_of_prompt_is_seen_and_recorded():
    made = {
        change: sample(one_chunk()[1], positive=demo().other, on_prompt_change=change)
        for change in ("recache", "keep", "cut")
    }
    for change, (latent, state, frames) in made.items():
        first, last = state.state.history
        assert (first.prompt, last.prompt) == ("a red ball rolls", "a blue cube falls")
        assert first.digest != last.digest
        cut = change == "cut"
        assert (last.scene, frames, latent["samples"].shape[2]) == ((1, 82, 11) if cut else (0, 81, 10))
    new = [latent["samples"][:, :, :10] for latent, _, _ in made.values()]
    assert not any(torch.equal(new[a], new[b]) for a, b in ((0, 1), (1, 2), (0, 2)))
    memories = {change: state.state.memory_before for change, (_, state, _) in made.items()}
    assert memories["keep"][0].vk is one_chunk()[1].state.memory[0].vk
    assert memories["cut"] is None
    assert not torch.equal(memories["recache"][1].vk, memories["keep"][1].vk)


def test_a_batch_is_streams_with_seeds_that_follow():
    latent, state, frames = sample(start(batch=2), seed=8)
    assert latent["samples"].shape == (2, 16, 11, 4, 6)
    assert (state.state.identity.batch, frames) == (2, 41)
    alone = sample(seed=9)[0]["samples"]
    assert torch.allclose(latent["samples"][1], alone[0], atol=1e-4)
    assert not torch.allclose(latent["samples"][0], alone[0], atol=0.1)


def test_progress_runs_over_all_calls():
    reports = []
    utils.set_progress_bar_global_hook(
        lambda value, total, preview, node_id: reports.append((value, total, preview))
    )
    try:
        sample(one_chunk()[1], 2, positive=demo().other)  # the recache is not counted
    finally:
        utils.set_progress_bar_global_hook(None)
    # pictures come from a thread of their own
    assert reports == [(step, 6, None) for step in range(1, 7)]


# --- what an artist does wrong


@pytest.fixture
def no_work(monkeypatch):
    """A model that is called or loaded fails the test."""

    def refuse(*arguments, **options):
        raise AssertionError("the model was called or loaded")

    for patcher in (demo().model, demo().bidirectional):
        monkeypatch.setattr(patcher.model.diffusion_model, "_forward", refuse)
    monkeypatch.setattr(management, "load_models_gpu", refuse)


def test_a_bidirectional_model_is_refused_by_start_and_sampler(no_work):
    state = run("Start", demo().model, 48, 32, 1)
    with refused("bidirectional", "longsana_480p", "Load SANA-Video Model"):
        run("Start", demo().bidirectional, 64, 48, 1)
    with refused("bidirectional", "longsana_480p", "Load SANA-Video Model"):
        sample(state, model=demo().bidirectional)


def test_the_model_of_another_node_is_refused_with_our_loaders_name():
    class Patcher:
        model = torch.nn.Identity()

    for stranger in (Patcher(), object()):
        with refused("not SANA-Video", "Load SANA-Video Model"):
            run("Start", stranger, 64, 48, 1)


def test_five_thousand_chunks():
    check = node("BlockSampler").validate_inputs
    assert [check(chunks) for chunks in (None, 1, 102)] == [True] * 3
    for impossible in (0, 103, 5000):
        said = check(impossible)
        assert all(word in str(said) for word in (f"{impossible} chunks", "1 to 102"))


def test_too_many_chunks_are_refused_before_any_work(no_work):
    """A linked number is unknown before the run."""
    for impossible in (0, 103, 5000):
        with refused(f"{impossible} chunks", "1 to 102"):
            sample(start(), impossible)
    with refused("room for 1013 more (101 chunks)", "cut"):
        sample(one_chunk()[1], 102, on_prompt_change="keep")


def test_a_size_that_does_not_divide_names_the_next():
    with refused("width is 72", "64 or 80"):
        start(width=72)


def test_a_text_that_other_nodes_changed_has_a_name_in_the_history():
    ((embeddings, extra),) = demo().positive
    combined = [[torch.cat([embeddings, embeddings], 1), extra.copy()]]  # as ConditioningConcat does
    foreign = [[embeddings * 2, {"attention_mask": extra["attention_mask"], "pooled_output": None}]]
    for positive, text in ((combined, "combined text"), (foreign, "text of another node")):
        state = sample(positive=positive)[1]
        assert [chunk.prompt for chunk in state.state.history] == [text]
        assert text in run("StateInfo", state)[1]
    assert prompt_of(combined).digest != prompt_of(demo().positive).digest


def test_parts_of_a_conditioning_that_a_stream_ignores_are_told(caplog):
    ((embeddings, extra),) = demo().positive
    prompt_of([[embeddings, extra | {"area": (1, 1, 0, 0), "start_percent": 0.5}]])
    assert "area and start_percent of this CONDITIONING does nothing" in caplog.text
    caplog.clear()
    prompt_of(demo().positive)
    assert caplog.text == ""


def test_two_prompts_at_once_are_refused():
    with refused("2 entries", "chain block samplers"):
        sample(positive=[*demo().positive, *demo().other])


def test_the_wrong_thing_on_a_socket_is_named():
    with refused("str was connected as VAE", "Load SANA-Video VAE"):
        run("Decode", "vae", one_chunk()[0])
    with refused("VAE was connected as text encoder", "Load SANA-Video Text Encoder"):
        run("TextEncode", demo().vae, "a ball", 10, True)
    clip = sd.CLIP()
    clip.tokenizer = "SD1Tokenizer"
    with refused("loaded for another model", "pixeldit"):
        run("TextEncode", clip, "a ball", 10, True)


def test_a_lora_that_is_none_or_gone_is_refused(base):
    path = base / "models" / "loras" / "style.safetensors"
    path.parent.mkdir(parents=True)
    path.touch()
    with refused("style.safetensors"):
        run("LoraLoader", demo().model, "style.safetensors", 1.0)
    with refused("gone.safetensors", "models/loras"):
        run("LoraLoader", demo().model, "gone.safetensors", 1.0)


def test_an_impossible_sampler_is_refused():
    with refused("heun", "few_step, euler"):
        sample(sampler="heun")
    assert not torch.equal(sample(sampler="euler")[0]["samples"], one_chunk()[0]["samples"])


def test_outputs_are_as_many_as_the_schema_says():
    for name, output in (
        ("Start", output_of("Start", demo().model, 64, 48, 1)),
        ("StateInfo", output_of("StateInfo", one_chunk()[1])),
    ):
        assert len(output.args) == len(node(name).GET_SCHEMA().outputs)


# --- the window


def test_the_window_reaches_every_chunk_and_0_is_the_whole_past():
    """As the core's own: a window of one chunk changes the third chunk, 0 or nothing is the whole past."""
    whole = sample(start(), chunks=3)
    for nothing in (0, None):
        state = run("Start", demo().model, WIDTH, HEIGHT, 1, nothing)
        assert torch.equal(sample(state, chunks=3)[0]["samples"], whole[0]["samples"])
    state = run("Start", demo().model, WIDTH, HEIGHT, 1, 1)
    assert state.state.identity.window == 1
    windowed, after, _ = sample(state, chunks=3)
    assert all(block.window == 1 and len(block.sums) == 1 for block in after.state.memory)
    new = windowed["samples"].split((11, 10, 10), dim=2)
    old = whole[0]["samples"].split((11, 10, 10), dim=2)
    assert torch.equal(new[1], old[1])
    assert not torch.equal(new[2], old[2])
