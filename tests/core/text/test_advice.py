"""Warnings about what a prompt says in vain."""

import logging

import pytest
from comfyui_sana_video.sana_video_core.text.advice import warn_of_syntax, warn_of_unread


@pytest.fixture
def warned(caplog):
    caplog.set_level(logging.WARNING, "sana_video")
    return lambda: [record.getMessage() for record in caplog.records if record.name == "sana_video"]


@pytest.mark.parametrize(
    "text, found",
    [
        ("a (red:1.3) ball", "“(red:1.3)”"),
        ("a (red ball:0.5) and (blue : 1.2)", "“(red ball:0.5), (blue : 1.2)”"),
        ("a (red:2) ball", "“(red:2)”"),
        ("a (red:-0.5) ball", "“(red:-0.5)”"),
        ("a (take 2:1.3) ball", "“(take 2:1.3)”"),
        ("a ((red)) ball", "“((red))”"),
        ("[red:blue:0.5] ball", "“[red:blue:0.5]”"),
        ("ball, embedding:my-style.pt, red", "“embedding:my-style.pt”"),
        ("ball <lora:film:0.8>", "“<lora:film:0.8>”"),
        ("ball <LoRA:film>", "“<LoRA:film>”"),
        ("ball <hypernet:x:1>", "“<hypernet:x:1>”"),
        ("(a:1.1) <lora:b:1> embedding:c (a:1.1)", "“(a:1.1), <lora:b:1>, embedding:c”"),
    ],
)
def test_syntax_of_others_is_told(warned, text, found):
    warn_of_syntax(text)
    (said,) = warned()
    assert said.startswith(f"{found} in the prompt: ")
    assert all(word in said for word in ("do nothing", "Load SANA-Video LoRA"))


@pytest.mark.parametrize(
    "text",
    [
        "a red ball (small, shiny) rolls",
        "at noon (12:30) a train leaves",
        "a screen (16:9) glows",
        "the score (3:2) is shown",
        "three things: a ball, a cube (blue) and 1.5 stars",
        "[1] a list [2]",
        "a < b and c > d",
        "the embedding of words",
    ],
)
def test_plain_text_is_let_alone(warned, text):
    warn_of_syntax(text)
    assert warned() == []


def by_words(text):
    return len(text.split())


@pytest.mark.parametrize(
    "text, suffix, tokens, unread",
    [
        ("one two three four five six", "", 6, "“five six”"),
        ("one two three four five", " motion: 10.", 7, "“five” and the motion score"),
        ("one two three four", " motion: 10.", 6, "the motion score"),
        ("one two three", " motion: 10.", 5, "the motion score"),
    ],
)
def test_the_end_that_is_not_read_is_told(warned, text, suffix, tokens, unread):
    warn_of_unread(text, suffix, by_words, 4)
    assert warned() == [
        f"The prompt has {tokens} tokens and the model reads 4: {unread} had no effect. Shorten it."
    ]


def test_a_text_that_fits_is_let_alone(warned):
    warn_of_unread("one two", " motion: 10.", by_words, 4)
    assert warned() == []


def test_the_end_of_a_text_without_spaces_begins_at_its_letter(warned):
    warn_of_unread("一只红色的球在滚动", "", len, 6)
    assert "“在滚动” had no effect" in warned()[0]


def test_a_long_end_is_shortened(warned):
    warn_of_unread("word " * 1000, "", by_words, 4)
    assert len(warned()[0]) < 420
    assert " …”" in warned()[0]
