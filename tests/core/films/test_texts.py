"""Prompts from the store: the same as fresh ones, and asked of an encoder only if they aren't known."""

import errno
import logging
from dataclasses import replace
from functools import partial

import pytest
import torch
from comfyui_sana_video.sana_video_core.films import store as store_module
from comfyui_sana_video.sana_video_core.films.layout import entry_path
from comfyui_sana_video.sana_video_core.films.store import Store
from comfyui_sana_video.sana_video_core.films.texts import Reading, prompts_of, stored_embedding
from comfyui_sana_video.sana_video_core.text.advice import warn_of_unread
from comfyui_sana_video.sana_video_core.text.embedding import embedding_of
from comfyui_sana_video.sana_video_core.text.prompt import encode_prompt
from support.pack import same

READING = Reading(encoder="ab" * 32, compute="a cpu", system_prompt=None, motion_score=10)
CHANGES = {
    "another file": {"encoder": "cd" * 32},
    "another machine": {"compute": "a gpu"},
    "a system prompt": {"system_prompt": "Tell it."},
    "another motion score": {"motion_score": 30},
    "no motion score": {"motion_score": None},
}


class Encoder:
    """Counts its calls. Its numbers depend on all that it is given, also in the padding."""

    def __init__(self, reading=READING, dtype=torch.float32):
        self.reading, self.dtype, self.calls = reading, dtype, []

    def resolve_system_prompt(self, system_prompt):
        return system_prompt

    def encode(self, text, *, system_prompt, motion_score):
        seed = torch.Generator().manual_seed(sum(map(ord, f"{text}{system_prompt}{motion_score}")))
        warn_of_unread(text, "", len, 30)
        mask = torch.arange(8)[None] < 1 + len(text) % 5
        return torch.randn(1, 8, 4, generator=seed).to(self.dtype), mask

    def __call__(self, texts):
        self.calls.append(list(texts))
        how = {"system_prompt": self.reading.system_prompt, "motion_score": self.reading.motion_score}
        return [encode_prompt(self, text, **how) for text in texts]


@pytest.fixture
def films(tmp_path):
    return Store(tmp_path / "store")


def alike(a, b):
    equal = same(a.embeddings, b.embeddings) and same(a.mask, b.mask)
    return equal and (a.text, a.digest, embedding_of(a).content) == (
        b.text,
        b.digest,
        embedding_of(b).content,
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_known_text_needs_no_encoder_and_is_the_same(films, dtype):
    encoder = Encoder(dtype=dtype)
    fresh = prompts_of(films, ["a fox", "snow"], READING, encoder)
    again = prompts_of(films, ["snow ", "a fox"], READING, encoder)
    assert encoder.calls == [["a fox", "snow"]]
    assert all(map(alike, fresh, again[::-1]))
    assert not any(map(alike, fresh, again))
    direct = encoder(["a fox"])[0]
    assert embedding_of(direct).content == embedding_of(again[1]).content
    assert direct.digest == again[1].digest
    assert fresh[0].embeddings.dtype == torch.float32


def test_only_what_is_unknown_is_asked_for_at_once_and_once(films):
    encoder = Encoder()
    prompts_of(films, ["a fox"], READING, encoder)
    prompts = prompts_of(films, ["snow", "a fox", "ice", "snow", " ice"], READING, encoder)
    assert encoder.calls == [["a fox"], ["snow", "ice"]]
    assert [prompt.text for prompt in prompts] == ["snow", "a fox", "ice", "snow", "ice"]


@pytest.mark.parametrize("change", CHANGES)
def test_another_way_of_reading_asks_again(films, change):
    prompts_of(films, ["a fox"], READING, Encoder())
    reading = replace(READING, **CHANGES[change])
    encoder = Encoder(reading)
    first = prompts_of(films, ["a fox"], reading, encoder)
    assert len(encoder.calls) == 1
    assert alike(first[0], prompts_of(films, ["a fox"], reading, encoder)[0])
    assert len(encoder.calls) == 1


def test_no_motion_score_is_a_score_of_zero(films):
    encoder = Encoder()
    for score in (None, 0):
        prompts_of(films, ["a fox"], replace(READING, motion_score=score), encoder)
    assert len(encoder.calls) == 1


def test_of_an_unknown_encoder_only_the_embeddings_are_kept(films):
    reading, encoder = replace(READING, encoder=None), Encoder()
    (prompt,) = prompts_of(films, ["a fox"], reading, encoder)
    prompts_of(films, ["a fox"], reading, encoder)
    assert len(encoder.calls) == 2
    kept = stored_embedding(films, embedding_of(prompt).content)
    assert same(kept.embeddings, prompt.embeddings)
    assert not (films.folder / "texts").exists()


def test_without_a_store_prompts_are_the_same(films):
    encoder = Encoder()
    assert alike(*(prompts_of(store, ["a fox"], READING, encoder)[0] for store in (None, films)))


@pytest.mark.parametrize("damage", ["gone", "cut short"])
def test_an_embedding_that_was_lost_is_made_again(films, damage, caplog):
    encoder = Encoder()
    (prompt,) = prompts_of(films, ["a fox"], READING, encoder)
    path = entry_path(films.folder, "embeddings", embedding_of(prompt).content)
    path.unlink() if damage == "gone" else path.write_bytes(path.read_bytes()[:-4])
    for calls in (2, 2):
        assert alike(prompt, prompts_of(films, ["a fox"], READING, encoder)[0])
        assert len(encoder.calls) == calls
    assert ("is damaged" in caplog.text) == (damage == "cut short")


def test_an_embedding_under_the_name_of_another_is_not_taken(films):
    one, other = (embedding_of(prompt) for prompt in Encoder()(["a fox", "snow"]))
    films.write("embeddings", one.content, {"embeddings": other.embeddings, "mask": other.mask}, {})
    assert stored_embedding(films, one.content) is None


def test_a_full_disk_is_one_warning(films, caplog, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(store_module, "save_entry", full)
    prompts = prompts_of(films, ["a fox", "snow"], READING, Encoder())
    assert [prompt.text for prompt in prompts] == ["a fox", "snow"]
    (record,) = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert "encoded again each time" in record.getMessage()


def test_what_a_text_says_in_vain_is_told_of_known_ones_too(films, caplog):
    text = "a (fox:1.3) in a wood of high trees --ar 16:9"
    ask = partial(prompts_of, films, [text], READING, Encoder())
    told = []
    for _ in range(2):
        caplog.clear()
        ask()
        told.append([record.getMessage() for record in caplog.records])
    assert sorted(told[0]) == sorted(told[1])
    assert len(told[0]) == 3
    assert any("“trees” had no effect" in sentence for sentence in told[0])
