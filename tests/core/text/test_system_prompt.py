"""The original system prompt is found where people have it, and nothing else is mistaken for it.

It is not in this repository; the tests read it from the installed diffusers.
"""

import hashlib
import importlib.util
import logging
import sys
from types import ModuleType

import pytest
import torch
import yaml
from comfyui_sana_video.sana_video_core.text import encoder as encoder_module
from comfyui_sana_video.sana_video_core.text import system_prompt
from comfyui_sana_video.sana_video_core.text.system_prompt import ORIGINAL_SHA256, find_system_prompt
from support.text_folders import build_encoder_with_system_prompt

# any text will do where the original is not the point
SYSTEM_PROMPT = "Describe the scene for a painter.\nPrompt: "


@pytest.fixture(scope="module")
def original() -> str:
    if importlib.util.find_spec("diffusers") is None:
        pytest.skip("diffusers is not installed")
    text = find_system_prompt()
    assert text is not None
    return text


@pytest.fixture
def no_diffusers(monkeypatch):
    monkeypatch.setattr(system_prompt.importlib.util, "find_spec", lambda name: None)


def write_yaml(folder, lines, name="model.yaml"):
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(yaml.safe_dump({"text_encoder": {"chi_prompt": lines}}), encoding="utf-8")


def test_found_in_the_source_of_diffusers(original):
    assert hashlib.sha256(original.encode()).hexdigest() == ORIGINAL_SHA256
    assert len(original) == 1057
    assert len(original.split("\n")) == 8
    assert original.endswith(": ")


def test_diffusers_is_read_without_being_imported(original, monkeypatch):
    for name in [name for name in sys.modules if name.split(".")[0] == "diffusers"]:
        monkeypatch.delitem(sys.modules, name)
    assert find_system_prompt() == original
    assert "diffusers" not in sys.modules


def test_nothing_anywhere(no_diffusers, tmp_path):
    assert find_system_prompt(near=[tmp_path, tmp_path / "no such folder"], extra=["", "something"]) is None


@pytest.mark.parametrize("name", ["Sana_video.yaml", "config.yml", "CONFIG.YAML"])
def test_found_in_a_yaml(original, no_diffusers, tmp_path, name):
    write_yaml(tmp_path, original.split("\n"), name)
    assert find_system_prompt(near=[tmp_path / "no such folder", tmp_path]) == original


def test_found_among_the_texts_of_a_host(original, no_diffusers):
    assert find_system_prompt(extra=["something else", original]) == original


def test_a_changed_text_is_refused_everywhere(original, no_diffusers, tmp_path):
    write_yaml(tmp_path, [*original.split("\n")[:-1], "User prompt: "])
    assert (
        find_system_prompt(near=[tmp_path], extra=[original.strip(), original + " ", "half \ud83d"]) is None
    )


def test_a_wrong_candidate_does_not_hide_a_right_one(original, no_diffusers, tmp_path):
    write_yaml(tmp_path, ["other words: "], "a.yaml")
    write_yaml(tmp_path, original.split("\n"), "b.yaml")
    assert find_system_prompt(near=[tmp_path], extra=["other words: "]) == original


@pytest.mark.parametrize(
    "content",
    [
        b"chi_prompt: [unclosed",
        b"\xff\xfe chi_prompt",
        b"- chi_prompt",
        b"text_encoder: chi_prompt",
        b"text_encoder: {chi_prompt: 5}",
        b"text_encoder: {chi_prompt: [1, 2]}",
        b"",
    ],
)
def test_an_unreadable_yaml_is_skipped(original, no_diffusers, tmp_path, content):
    (tmp_path / "a.yaml").write_bytes(content)
    assert find_system_prompt(near=[tmp_path]) is None
    write_yaml(tmp_path, original.split("\n"), "b.yaml")
    assert find_system_prompt(near=[tmp_path]) == original


def test_an_unreadable_yaml_is_named_in_the_debug_log(no_diffusers, tmp_path, caplog):
    (tmp_path / "broken.yaml").write_bytes(b"chi_prompt: [unclosed")
    with caplog.at_level(logging.DEBUG, logger="sana_video"):
        find_system_prompt(near=[tmp_path])
    assert [record.levelname for record in caplog.records] == ["DEBUG"]
    assert "broken.yaml" in caplog.text


def test_large_yaml_files_are_not_parsed(original, no_diffusers, tmp_path):
    write_yaml(tmp_path, original.split("\n"))
    with (tmp_path / "model.yaml").open("a") as file:
        file.write("#" * (1 << 20))
    assert find_system_prompt(near=[tmp_path]) is None


PIPELINE = (
    "class SanaPipeline:\n    def __call__(self, a, complex_human_instruction={default}):\n        pass\n"
)


@pytest.mark.parametrize(
    "source",
    [
        "def (",
        "",
        PIPELINE.format(default="None"),
        PIPELINE.format(default="some_name"),
        PIPELINE.format(default="7"),
        PIPELINE.format(default="['a', 1]"),
    ],
)
def test_another_diffusers_gives_nothing(monkeypatch, tmp_path, source):
    package = tmp_path / "pipelines" / "sana"
    package.mkdir(parents=True)
    (package / "pipeline_sana.py").write_text(source)
    spec = system_prompt.importlib.util.spec_from_loader("diffusers", None, is_package=True)
    spec.submodule_search_locations = [str(tmp_path)]
    monkeypatch.setattr(system_prompt.importlib.util, "find_spec", lambda name: spec)
    assert find_system_prompt() is None


def test_a_stand_in_for_diffusers_gives_nothing(monkeypatch):
    monkeypatch.setitem(sys.modules, "diffusers", ModuleType("diffusers"))  # its __spec__ is None
    assert find_system_prompt() is None


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    return encoder_module.load_text_encoder(
        build_encoder_with_system_prompt(tmp_path_factory.mktemp("demo")), system_prompt=SYSTEM_PROMPT
    )


def read_ids(encoder, *args, **kwargs):
    """The token ids [B, L] and the mask [B, L] that the model really gets."""
    seen = {}
    hook = encoder.model.register_forward_pre_hook(lambda _, __, kw: seen.update(kw), with_kwargs=True)
    try:
        encoder.encode(*args, **kwargs)
    finally:
        hook.remove()
    return seen["input_ids"], seen["attention_mask"].bool()


def read_text(encoder, *args, **kwargs):
    ids, mask = read_ids(encoder, *args, **kwargs)
    return encoder.tokenizer.decode(ids[0][mask[0]])


def hidden_states(encoder, ids, mask):
    with torch.no_grad():
        return encoder.model(input_ids=ids, attention_mask=mask.long()).last_hidden_state


class TestUse:
    """Which system prompt an encoder uses, and what it says when it has none."""

    @pytest.fixture
    def bare(self, encoder):
        encoder_module._warn_no_system_prompt.cache_clear()
        yield encoder_module.TextEncoder(encoder.tokenizer, encoder.model)
        encoder_module._warn_no_system_prompt.cache_clear()

    def test_without_one_it_warns_once_in_plain_english(self, bare, caplog):
        with caplog.at_level(logging.WARNING, logger="sana_video"):
            plain = bare.encode("a cat", system_prompt=False)
            bare.encode("a cat", system_prompt="Mine: ")
            assert not caplog.records
            without = bare.encode("a cat")
            encoder_module.TextEncoder(bare.tokenizer, bare.model).encode("a dog")
            assert bare.resolve_system_prompt(True) is None
        assert len(caplog.records) == 1
        assert "followed less closely" in caplog.text
        assert "To give it" in caplog.text
        assert all(torch.equal(a, b) for a, b in zip(plain, without, strict=True))

    def test_a_known_one_is_used_silently(self, encoder, bare, caplog):
        assert encoder.resolve_system_prompt(True) == SYSTEM_PROMPT
        assert encoder.resolve_system_prompt("Mine: ") == "Mine: "
        assert [encoder.resolve_system_prompt(none) for none in (False, None, "")] == [None] * 3
        by_default, by_name = encoder.encode("a cat"), bare.encode("a cat", system_prompt=SYSTEM_PROMPT)
        assert all(torch.equal(a, b) for a, b in zip(by_default, by_name, strict=True))
        assert not caplog.records


class TestWindow:
    def test_the_first_word_opens_the_window(self, encoder):
        n_chi = len(encoder.tokenizer.encode(SYSTEM_PROMPT))
        ids, mask = read_ids(encoder, "circle grows")
        assert ids.shape == (1, n_chi + 298)
        assert encoder.tokenizer.convert_ids_to_tokens(int(ids[0, n_chi - 1])) == "▁circle"
        assert int(ids[0, n_chi - 2]) == encoder.tokenizer.encode(SYSTEM_PROMPT)[-2]

        hidden = hidden_states(encoder, ids, mask)
        embeddings, kept = encoder.encode("circle grows")
        assert embeddings.shape == (1, 300, 32)
        assert torch.equal(embeddings[:, 0], hidden[:, 0])
        assert torch.equal(embeddings[:, 1:], hidden[:, n_chi - 1 :])
        words = len(encoder.tokenizer.encode(" circle grows"))
        assert kept.dtype == torch.bool
        assert kept[0].tolist() == [True] * words + [False] * (300 - words)

    def test_a_digit_leaves_the_space_alone(self, encoder):
        n_chi = len(encoder.tokenizer.encode(SYSTEM_PROMPT))
        window = read_ids(encoder, "3 circles")[0][0, n_chi - 1 : n_chi + 1]
        assert encoder.tokenizer.convert_ids_to_tokens(window.tolist()) == ["▁", "3"]

    def test_the_kept_words_have_read_the_system_prompt(self, encoder):
        first, _ = encoder.encode("circle")
        second, _ = encoder.encode("circle", system_prompt="Other words: ")
        assert torch.equal(first[:, 0], second[:, 0])
        assert (first[:, 1] - second[:, 1]).abs().max() > 1e-2

    def test_without_a_system_prompt_everything_is_kept(self, encoder):
        ids, mask = read_ids(encoder, "a cat", system_prompt=False)
        embeddings, kept = encoder.encode("a cat", system_prompt=False)
        assert ids.shape == kept.shape == (1, 300)
        assert torch.equal(embeddings, hidden_states(encoder, ids, mask))
        assert torch.equal(kept, mask)
        assert ids[mask].tolist() == encoder.tokenizer.encode("a cat")

    def test_a_long_prompt_loses_its_end_and_first_the_motion_score(self, encoder):
        start = len(encoder.tokenizer.encode(SYSTEM_PROMPT)) - 1
        suffix = encoder.tokenizer.encode(" motion score: 9.", add_special_tokens=False)
        word = encoder.tokenizer.encode(" x", add_special_tokens=False)
        for words in (294, 299, 400):  # the window has room for 299
            ids, mask = read_ids(encoder, "x " * words, motion_score=9)
            assert mask.all()
            assert ids[0, start:].tolist() == (word * words + suffix)[:299]
        assert len(suffix) > 299 - 294

    @pytest.mark.parametrize("length", [1, 2])
    def test_the_shortest_windows(self, encoder, length):
        embeddings, mask = encoder.encode("a cat", max_tokens=length)
        assert embeddings.shape == (1, length, 32)
        assert mask.shape == (1, length)
        assert mask.all()

    def test_what_the_model_reads(self, encoder):
        assert (
            read_text(encoder, "  A Red CAT\n", motion_score=10)
            == f"<bos>{SYSTEM_PROMPT}A Red CAT motion score: 10."
        )
        assert read_text(encoder, "A cat", motion_score=0) == f"<bos>{SYSTEM_PROMPT}A cat"
        assert read_text(encoder, "红 😀 é", system_prompt=False) == "<bos>红 😀 é"
        assert (
            read_text(encoder, "A", system_prompt=" Mine:", motion_score=30)
            == "<bos> Mine:A motion score: 30."
        )
        ids, mask = read_ids(encoder, "", system_prompt=False)
        assert ids[0].tolist() == [2] + [0] * 299
        assert mask.sum() == 1
