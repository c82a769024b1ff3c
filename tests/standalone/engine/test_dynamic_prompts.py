"""{a|b} in prompts. What is expected was compared with the page's own function (frontend 1.47.10)."""

import pytest
from comfyui_sana_video.sana_video_core.errors import InputError
from comfyui_sana_video.standalone.engine.dynamic_prompts import resolve


def first(choices):
    return choices[0]


def last(choices):
    return choices[-1]


@pytest.mark.parametrize(
    ("text", "choose", "becomes"),
    [
        ("a fox", first, "a fox"),
        ("a {red|blue} fox", first, "a red fox"),
        ("a {red|blue} fox", last, "a blue fox"),
        ("{a|b}{c|d}", last, "bd"),
        ("{red}", first, "red"),
        ("{|red}", first, ""),
        ("{a|{b|c} d}", last, "c d"),
        ("{{a|b}|c}", first, "a"),
        ("a // to the end of the line {x|y}\nb", first, "a \nb"),
        ("a /* {x|y}\n */ b", first, "a  b"),
        ("https://example.org", first, "https:"),
        (r"\{a\|b\}", first, "{a|b}"),
        (r"{a\|b|c}", first, "a|b"),
        (r"{\}|c}", first, "}"),
        (r"{\}|c}", last, "c"),
        (r"a \ b \\ c", first, r"a \ b \\ c"),
        ("{a|b", last, "b"),
        ("{a|{b|c", last, "c"),
        ("a} | b", first, "a} | b"),
        ("", first, ""),
        ("\\", first, "\\"),
        ("{a|/* b|c */d}", last, "d"),
        ("红{狐狸|狼}", last, "红狼"),
    ],
)
def test_choices(text, choose, becomes):
    assert resolve(text, choose) == becomes


def test_a_choice_is_one_of_them():
    assert {resolve("{a|b|c}") for _ in range(200)} == {"a", "b", "c"}


def test_too_many_braces_are_refused_at_once():
    with pytest.raises(InputError, match=r"has 100,000 “{”.*at most 1,000"):
        resolve("{" * 100_000)


def test_braces_as_deep_as_a_text():
    assert resolve("{" * 700 + "x" + "}" * 700) == "x"
