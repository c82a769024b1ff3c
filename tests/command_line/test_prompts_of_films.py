"""A film's prompts on the command line: the text encoder is loaded only for those that the store lacks."""

import shutil

import pytest
from comfyui_sana_video.command_line import models as module
from comfyui_sana_video.command_line.cli import _parser
from comfyui_sana_video.command_line.models import choose_models, encode_prompts, prompts_through
from comfyui_sana_video.demo.model_set import write_demo_set
from comfyui_sana_video.sana_video_core.films.store import Store
from comfyui_sana_video.sana_video_core.text.embedding import embedding_of
from safetensors.torch import load_file, save_file
from support.text_folders import forget_the_demo

INSTRUCTION = "Tell it as a fairy tale. "


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    demo = write_demo_set(tmp_path_factory.mktemp("demo") / "set")
    forget_the_demo(demo.text_encoder)
    return demo


@pytest.fixture
def ask(demo, tmp_path, monkeypatch):
    """Embeddings' contents and digests of texts, and how often the encoder was loaded for them."""
    loads, real = [], module.load_text_encoder
    monkeypatch.setattr(module, "load_text_encoder", lambda *a, **b: loads.append(a) or real(*a, **b))

    def asked(*texts, store=tmp_path / "store", **options):
        options = {"motion-score": 10, "device": "cpu", "text-encoder": demo.text_encoder, **options}
        words = ["--model", demo.transformer, "--vae", demo.vae]
        words += [word for name, value in options.items() for word in (f"--{name}", value)]
        parsed = _parser().parse_args(["generate", *texts, *map(str, words)])
        loads.clear()
        models = choose_models(parsed)
        prompts = (
            prompts_through(Store(store), models, parsed, texts)
            if store
            else encode_prompts(models, parsed, list(texts))
        )
        return [(embedding_of(prompt).content, prompt.digest, prompt.text) for prompt in prompts], len(loads)

    return asked


def test_known_prompts_need_no_encoder(ask):
    fresh, loads = ask("a red ball", "a blue cube ")
    assert loads == 1
    assert ask("a blue cube", "a red ball") == (fresh[::-1], 0)
    assert ask("a red ball", "a blue cube ", store=None) == (fresh, 1)
    more, loads = ask("a red ball", "a star")
    assert (more[0], loads) == (fresh[0], 1)


def test_what_changes_a_prompt_asks_again(ask, demo, tmp_path):
    (fresh,), _ = ask("a red ball")
    for change in ({"motion-score": 30}, {"instruction": INSTRUCTION}):
        (other,), loads = ask("a red ball", **change)
        assert loads == 1
        assert other[:2] != fresh[:2]
        assert ask("a red ball", **change) == ([other], 0)
        assert ask("a red ball", store=None, **change) == ([other], 1)
    folder = shutil.copytree(demo.text_encoder, tmp_path / "text")
    assert ask("a red ball", **{"text-encoder": folder}) == ([fresh], 0)  # a copy of the same content
    weights = load_file(folder / "model.safetensors")
    changed = {name: tensor.clone() for name, tensor in weights.items()}
    changed["norm.weight"] += 1
    save_file(changed, folder / "model.safetensors", {"format": "pt"})
    (other,), loads = ask("a red ball", **{"text-encoder": folder})
    assert loads == 1
    assert (other[0] != fresh[0], other[1] == fresh[1]) == (True, True)  # no change of prompt, but other bits


def test_a_system_prompt_beside_the_encoder_counts(ask, demo, monkeypatch):
    from comfyui_sana_video.sana_video_core.text import encoder

    monkeypatch.setattr(module, "find_system_prompt", lambda **_: None)
    monkeypatch.setattr(encoder, "find_system_prompt", lambda **_: None)
    (without,), _ = ask("a red ball")
    monkeypatch.setattr(encoder, "find_system_prompt", lambda near: INSTRUCTION)
    (found,), loads = ask("a red ball")
    assert loads == 1
    assert found[:2] != without[:2]
    assert ask("a red ball", instruction=INSTRUCTION) == ([found], 0)
    assert ask("a red ball", store=None) == ([found], 1)
    assert ask("a red ball", instruction="") == ([without], 0)
    config = demo.text_encoder / "config.json"
    before = config.read_text()
    config.write_text(before.replace("{", '{"sana_instruction": "",', 1))  # it takes none: the demo's own
    try:
        (own,), loads = ask("a red ball")
        assert (loads, own) == (1, without)
    finally:
        config.write_text(before)
