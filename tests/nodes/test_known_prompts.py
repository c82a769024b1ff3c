"""A film's prompts in the fake host: the encoder works only for those that the store lacks."""

import pytest
from comfyui_sana_video.bridge.prompts import prompts_through
from comfyui_sana_video.bridge.text_encoders import HostedTextEncoder, prompt_of
from comfyui_sana_video.sana_video_core.errors import InputError
from comfyui_sana_video.sana_video_core.films.store import Store
from comfyui_sana_video.sana_video_core.text.embedding import embedding_of
from support.artist import demo, run

HOW = {"motion_score": 10, "instruction": False}


@pytest.fixture
def asked(monkeypatch):
    """What the encoder was asked for, once it is loaded."""
    demo()
    seen, encode = [], HostedTextEncoder.encode
    monkeypatch.setattr(
        HostedTextEncoder, "encode", lambda self, text, **how: seen.append(text) or encode(self, text, **how)
    )
    return seen


def test_known_prompts_are_those_of_text_encode_without_an_encoder(asked, tmp_path, monkeypatch):
    store, encoder = Store(tmp_path / "store"), demo().encoder
    monkeypatch.setattr(encoder, "path", tmp_path / "encoder.safetensors")
    encoder.path.write_bytes(b"its content")
    first = prompts_through(store, encoder, ["a red ball rolls", "snow"], **HOW)
    again = prompts_through(store, encoder, ["snow", "a red ball rolls"], **HOW)
    assert asked == ["a red ball rolls", "snow"]
    node = prompt_of(demo().positive)
    for prompt in (first[0], again[1]):
        assert embedding_of(prompt).content == embedding_of(node).content
        assert (prompt.digest, prompt.text) == (node.digest, node.text)
    encoder.path.write_bytes(b"another content")
    prompts_through(store, encoder, ["snow"], **HOW)
    prompts_through(store, encoder, ["snow"], motion_score=30, instruction=False)
    assert asked[2:] == ["snow", "snow"]


def test_where_nobody_knows_the_encoder_it_is_asked_each_time(asked, tmp_path, monkeypatch, caplog):
    store, encoder = Store(tmp_path / "store"), demo().encoder
    for path, said in ((None, 0), (tmp_path / "gone.safetensors", 1)):
        monkeypatch.setattr(encoder, "path", path)
        asked.clear()
        caplog.clear()
        for number in (1, 2):
            prompts_through(store, encoder, ["snow"], **HOW)
            assert len(asked) == number
        assert len(caplog.records) == 2 * said
    prompts_through(None, encoder, ["snow"], **HOW)
    assert len(asked) == 3


def test_the_loader_remembers_where_the_encoder_came_from():
    assert demo().encoder.path.name == "demo_text"
    assert run("TextEncoderLoader", "demo (built in)").path.is_dir()


def test_only_text_encoders_are_taken(tmp_path):
    with pytest.raises(InputError, match="connected as text encoder"):
        prompts_through(Store(tmp_path), demo().vae, ["snow"], **HOW)
