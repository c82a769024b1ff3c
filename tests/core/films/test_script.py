"""A film's script: what is read, how times become chunks, and every mistake with its line."""

import random
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import pytest
from comfyui_sana_video.sana_video_core.config import DEMO, LONGSANA_480P, SANA_VIDEO_720P
from comfyui_sana_video.sana_video_core.errors import InputError
from comfyui_sana_video.sana_video_core.films.plan import describe, script_of
from comfyui_sana_video.sana_video_core.films.script import parse_script

ISSUE = """0:00 a fox runs through snow
0:05 the fox stops
0:10 cut: a frozen lake
0:20 keep: it begins to snow
0:30 end
"""


def parse(text, **options):
    return parse_script(text, **{"seconds": 15, "seed": 7, **options})


def shots(text, **options):
    return [(shot.text, shot.change, shot.seed, shot.chunks) for shot in parse(text, **options).shots]


def counts(text, **options):
    return [shot.chunks for shot in parse(text, **options).shots]


def refusal(text, **options):
    with pytest.raises(InputError) as caught:
        parse(text, **options)
    return str(caught.value)


# --- the plan


def test_the_script_of_the_issue():
    plan = parse(ISSUE, seconds=float("nan"))  # isn't read
    assert [(s.line, s.text, s.change, s.seed, s.scene, s.first_chunk, s.chunks) for s in plan.shots] == [
        (1, "a fox runs through snow", "start", 7, 0, 0, 2),
        (2, "the fox stops", "recache", 7, 0, 2, 2),
        (3, "a frozen lake", "cut", 8, 1, 4, 4),
        (4, "it begins to snow", "keep", 8, 1, 8, 4),
    ]
    assert (plan.chunks, plan.scenes, plan.frames, plan.seconds) == (12, 2, 482, 482 / 16)
    assert plan.lengths == (11, 10, 10, 10, 11, 10, 10, 10, 10, 10, 10, 10)
    assert [plan.frames_before(chunk) for chunk in (0, 1, 4, 5, 12)] == [0, 41, 161, 202, 482]
    assert [plan.shot_of(chunk).line for chunk in range(12)] == [1] * 2 + [2] * 2 + [3] * 4 + [4] * 4


def test_the_plan_to_read():
    assert describe(parse(ISSUE)) == [
        "12 chunks · 2 scenes · 482 frames · 30.1 s at 16 fps",
        "0:00.0 to 0:05.1 · 2 chunks · scene 1 · seed 7 · a fox runs through snow",
        "0:05.1 to 0:10.1 · 2 chunks · scene 1 · seed 7 · the fox stops",
        "0:10.1 to 0:20.1 · 4 chunks · scene 2, cut · seed 8 · a frozen lake",
        "0:20.1 to 0:30.1 · 4 chunks · scene 2, keep · seed 8 · it begins to snow",
    ]
    long = describe(parse("fox " * 100, seconds=2.5))
    assert long[0].startswith("1 chunk · 1 scene · 41 frames · 2.6 s")
    assert long[1].endswith("fox …")
    assert len(long[1]) < 150


def test_the_script_of_a_plan():
    assert script_of(parse(ISSUE)) == (
        "0:00 seed=7 a fox runs through snow\n0:05 the fox stops\n"
        "0:10 cut: seed=8 a frozen lake\n0:20 keep: it begins to snow\n0:30 end"
    )
    assert script_of(parse("0:00 a\n0:06 b seed=9\n0:10 c\n0:20 cut: seed=7 d\n0:30 end")) == (
        "0:00 seed=7 a\n0:05 seed=9 b\n0:10 c\n0:20 cut: seed=7 d\n0:30 end"
    )
    assert script_of(parse("a", seconds=7.5, fps=24)) == "0:00 seed=7 a\n0:06.667 end"
    assert (
        script_of(parse("\n".join(["cut: a"] * 40), seconds=4000)).splitlines()[37].startswith("1:01:40 cut")
    )


def test_numbers_come_from_the_family_and_the_frame_rate():
    assert counts("0:00 a\n0:05 b", fps=32) == [4, 8]
    assert counts("0:00 a\n0:05 b", fps=8) == [1, 2]
    assert parse("a", fps=29.97).fps == Fraction(30000, 1001)
    assert parse("a").fps == parse("a", family=DEMO).fps == 16
    strided = parse("a\ncut: b", seconds=10, family=SANA_VIDEO_720P)  # 80 frames a chunk, 81 the first
    assert (strided.chunks, strided.frames) == (2, 162)


# --- times


def test_a_shot_ends_as_near_to_the_next_time_as_chunks_allow():
    for time, chunks in (("0:01.3", 1), ("0:03.7", 1), ("0:03.9", 2), ("0:06.2", 2), ("0:06.4", 3)):
        assert counts(f"0:00 a\n{time} b\n0:20 end") == [chunks, 8 - chunks], time


def test_scenes_do_not_drift():
    """Each scene has a frame more than its chunks; after a hundred of them that would be six seconds."""
    lines = [f"{5 * i // 60}:{5 * i % 60:02} cut: a" for i in range(121)]
    plan = parse("\n".join([*lines, "10:05 end"]))
    late = [plan.frames_before(shot.first_chunk) / 16 - 5 * place for place, shot in enumerate(plan.shots)]
    assert max(map(abs, late)) < 1.3
    assert abs(plan.seconds - 605) < 1.3


def test_cuts_at_every_chunk_are_no_mistake():
    times = [f"{int(2.5 * i) // 60}:{2.5 * i % 60:04.1f}" for i in range(61)]
    assert counts("\n".join(f"{time} cut: a" for time in times), seconds=152.5) == [1] * 61
    assert counts("\n".join(["cut: a"] * 61), seconds=152.5) == [1] * 61


def test_lines_without_times_share_the_seconds():
    assert counts("a\nb\nc") == [2, 2, 2]
    assert counts("a\nb\nc\nd") == [2, 1, 2, 1]
    assert counts("a\nb", seconds=2.5 * 5) == [3, 2]
    assert counts("a\nb\n0:30 end") == [6, 6]
    assert counts("a", seconds=0.1 + 1.25) == [1]
    assert counts("\n".join("abcdef")) == [1] * 6
    for lines in range(1, 40):
        chunks = counts("\n".join(["a"] * lines), seconds=100)
        assert sum(chunks) == 40
        assert max(chunks) - min(chunks) <= 1


def test_the_end_is_the_end_line_or_the_seconds():
    assert counts("0:00 a\n0:05 b\n0:10 end", seconds=60) == [2, 2]
    assert counts("0:00 a\n0:05 b", seconds=60) == [2, 22]
    for end in ("0:10 end", "[0:10] END", "0:10 - end -", "0:10 End.", "0:10: end"):
        assert counts(f"0:00 a\n{end}") == [4], end


# --- forms


@pytest.mark.parametrize(
    "time",
    [
        *("0:05", "00:05", "0:00:05", "00:00:05", "0:5", "0:05.0", "0:05.000", "00:00:05,000", "0:05s"),
        *("[0:05]", "(0:05)", "{0:05}", "0:05 -", "0:05 \u2013", "0:05\u2014", "0:05:", "0:05 :", "0:05,"),
        *("0:05)", "0:05.", "0:05 |", "0:05\u2192", "@0:05", "- 0:05", "\u2022 0:05", "2. 0:05", "2) [0:05]"),
        *("0\uff1a05", "\uff10\uff1a\uff10\uff15", "\ufeff0:05", "\u200b0:05", "\u30000:05", "\xa00:05"),
        *("  \t0:05\t", "0:05\xa0-\xa0", "<0:05>", "0:04.9", "0:05 --"),
        *("**0:05**", "- **0:05**", "**0:05:**", "**0:05**:", "**[0:05]**", "`0:05`", "1. **0:05** \u2013"),
    ],
)
def test_times_as_people_write_them(time):
    assert shots(f"0:00 a fox\n{time} the fox stops\n0:10 end") == [
        ("a fox", "start", 7, 2),
        ("the fox stops", "recache", 7, 2),
    ]


def test_line_ends_of_all_systems_comments_and_blank_lines_keep_their_numbers():
    for end in ("\n", "\r\n", "\r", "\u2028"):
        text = end.join(
            ["\ufeff# my film", "", "0:00 a", "  # later", "\t", "0:05 b #1", "0:10 end", "# x", ""]
        )
        assert [(shot.line, shot.text) for shot in parse(text).shots] == [(3, "a"), (6, "b #1")]


@pytest.mark.parametrize(
    "line, text",
    [
        ("0:00\u72d0\u72f8", "\u72d0\u72f8"),
        ("0:00 -5 degrees", "-5 degrees"),
        ("0:00 a fox:  a  close-up", "a fox:  a  close-up"),
        ("0:00 close-up: a fox", "close-up: a fox"),
        ("0:00 a\xa0fox\tand\u200b a hare", "a fox and a hare"),
        ("0:00 cutting a cake", "cutting a cake"),
        ("0:00 cut flowers", "cut flowers"),
        ("0:00 cut-out paper foxes", "cut-out paper foxes"),
        ("0:00 keep walking", "keep walking"),
        ("0:00 the end", "the end"),
        ("0:00 endless snow", "endless snow"),
        ("0:00 #snow", "#snow"),
        ("0:00 a fox {red|white}", "a fox {red|white}"),
        ("0:00 seeds of grass, seed 7 of 9", "seeds of grass, seed 7 of 9"),
        ("10:30pm in Tokyo", "10:30pm in Tokyo"),
        ("80s disco", "80s disco"),
        ("3 foxes run", "3 foxes run"),
        ("- a fox", "a fox"),
        ("0:00 ) a", ") a"),
        ("0:00 \U0001f98a", "\U0001f98a"),
    ],
)
def test_words_of_a_prompt_stay(line, text):
    assert shots(line) == [(text, "start", 7, 6)]


@pytest.mark.parametrize(
    "word",
    [
        "cut:",
        "Cut :",
        "CUT TO:",
        "cut\uff1a",
        "cut: seed=8",
        "seed=8, cut: -",
        "- cut:",
        "**cut:**",
        "**Cut to**:",
        "`cut:`",
    ],
)
def test_a_cut_as_people_write_it(word):
    assert shots(f"0:00 a\n0:05 {word} b")[1] == ("b", "cut", 8, 4)
    assert shots(f"a\n{word} b")[1] == ("b", "cut", 8, 3)


@pytest.mark.parametrize(
    "line",
    [
        *(
            "seed=9 a fox",
            "seed=9, a fox",
            "SEED = 9 a fox",
            "seed\uff1d9 a fox",
            "[seed=9] a fox",
            "(seed=9) a fox",
        ),
        *(
            "a fox seed=9",
            "a fox, seed=9",
            "a fox seed = 9 ",
            "a fox [seed=9]",
            "a fox seed=9.",
            "a fox; seed=0009",
        ),
        *("cut: seed=9 a fox", "seed=9 cut: a fox", "keep: a fox seed=9", "- seed=9 - a fox"),
    ],
)
def test_a_seed_at_the_beginning_or_the_end(line):
    assert shots(f"0:00 {line}") == shots(line) == [("a fox", "start", 9, 6)]


def test_seeds_of_scenes():
    text = "a\nb seed=1\nc\ncut: d\ncut: e seed=5\nf\ncut: g"
    assert [shot.seed for shot in parse(text, seconds=60).shots] == [7, 1, 7, 8, 5, 5, 10]
    most = 2**64 - 1
    assert [shot.seed for shot in parse("a\ncut: b\ncut: c", seed=most).shots] == [most, 0, 1]
    assert parse(f"seed={most} a\ncut: b").shots[0].seed == most


# --- what is there before the film


def test_a_film_may_begin_in_a_scene():
    plan = parse("0:00 keep: a\n0:05 cut: b\n0:10 end", begins_at=21)
    assert plan.lengths == (10, 10, 11, 10)
    assert plan.frames == 161
    assert [(shot.change, shot.scene, shot.seed) for shot in plan.shots] == [("keep", 0, 7), ("cut", 1, 8)]
    assert parse("a", begins_at=1).shots[0].change == "recache"
    assert parse("a", begins_at=1).frames == 240
    cut = parse("cut: a", begins_at=21)
    assert (cut.shots[0].change, cut.scenes, cut.shots[0].seed, cut.frames) == ("cut", 1, 7, 241)
    assert parse(script_of(cut), begins_at=21) == cut


def test_room_of_a_scene():
    assert counts("a", seconds=255) == [102]
    assert counts("a", seconds=255, begins_at=1) == [102]
    assert counts("a", seconds=5, begins_at=1004) == [2]
    assert counts("a\ncut: b", seconds=255, begins_at=514) == [51, 51]
    said = refusal("a", seconds=257.5)
    assert "Line 1: with this shot its scene, which begins in line 1, has 103 chunks" in said
    assert "there is room for 102 (255 seconds)" in said
    said = refusal("# x\n0:00 a\n4:00 b\n4:20 cut: c\n5:00 end")
    assert said.startswith("Line 3: with this shot its scene, which begins in line 2, has 104 chunks")
    assert "1024 latent frames" in said
    assert "cut:" in said
    said = refusal("a", seconds=5, begins_at=1005)
    assert "room for 1 (2.5 seconds)" in said
    assert "1005 of them are there before" in said


# --- mistakes


@pytest.mark.parametrize(
    "text, said",
    [
        ("", ("The script is empty", "0:00 a fox")),
        (" \n\t\n", ("The script is empty",)),
        ("# a\n\n# b", ("has no shot", "#")),
        ("0:00 end", ("has no shot",)),
        ("0:05 a", ("Line 1", "begins at 0:05", "0:00")),
        ("\n0:00.5 a", ("Line 2", "begins at 0:00.5")),
        ("0:00 a\n0:10 b\n0:05 c", ("Line 3", "0:05, isn't after", "line 2, 0:10", "order")),
        ("0:00 a\n0:10 b\n0:10 c", ("Line 3", "0:10, isn't after")),
        ("0:00 a\n0:10 b\n0:05 end", ("Line 3", "isn't after", "line 2")),
        ("0:00 a\n\n0:05 b\n0:06 c", ("Line 4", "0:06", "line 3 (0:05)", "2.5 seconds", "0:07.5 or later")),
        ("0:00 a\n0:05 b\n0:06 end", ("Line 3", "the film ends at 0:06", "0:07.5 or later")),
        ("0:00 a\n0:01 b", ("Line 2", "0:02.5 or later")),
        ("0:00 a\n0:01.3 b\n0:02.6 c\n0:10 end", ("Line 3", "0:05 or later")),
        ("0:00 a\n0:15 b", ("Line 2", "0:15", "15 seconds", "“0:20 end”")),
        ("0:00 a\n1:00 b", ("Line 2", "1:00", "“1:05 end”", "more seconds")),
        ("0:00 a\n0:14 b", ("Line 2", "nothing says when it ends", "“0:19 end”")),
        ("0:00 a\nthe fox", ("Line 2", "“the fox” has no time", "line 1 has one", "one line")),
        ("a\n0:05 b", ("Line 2", "“b” begins with a time", "line 1 has none")),
        ("0:00", ("Line 1", "no text")),
        ("0:00 a\n0:05 cut:", ("Line 2", "no text")),
        ("0:00 a\n0:05 cut", ("Line 2", "no text")),
        ("0:00 keep: seed=7", ("Line 1", "no text")),
        ("0:00 ...", ("Line 1", "no text")),
        ("0:00 -", ("Line 1", "no text")),
        ("0:00 a\n0:10 end\n0:12 b", ("Line 3", "end of the film, which is line 2")),
        ("0:00 a\n0:10 end\n0:20 end", ("Line 3", "line 2")),
        ("0:00 a\n0:10 end\nb", ("Line 3", "line 2")),
        ("a\nend", ("Line 2", "“end” has no time", "0:30 end")),
        ("0:00 a\nend", ("Line 2", "“end” has no time")),
        ("0:00 a\n0:10 end of it", ("Line 2", "“end of it”", "another word")),
        ("a\nend of the road", ("Line 2", "“end of the road”", "another word")),
        ("0:00 a\n0:10 cut: end", ("Line 2", "stands alone")),
        ("0:00 a\n0:75 b", ("Line 2", "“0:75”", "1:15")),
        ("0:00 a\n75:00 b", ("Line 2", "“75:00”", "1:15:00")),
        ("0:00 a\n1:60:00 b", ("Line 2", "2:00:00")),
        ("0:00 a\n0:00:05:12 b", ("Line 2", "4 parts", "h:mm:ss")),
        ("**0:00-0:05** a", ("Line 1", "two times")),
        ("0:00-0:05 a", ("Line 1", "two times", "only the time at which it begins")),
        ("a\n--0:10", ("Line 2", "second time")),
        ("0:00 to 0:05 a", ("Line 1", "two times")),
        ("00:00:00,000 --> 00:00:05,000 a", ("Line 1", "two times")),
        ("0:00 a\n0:05 0:10 b", ("Line 2", "second time")),
        ("0s a\n5s b", ("Line 1", "m:ss")),
        ("0m0s a\n0m5s b", ("Line 1", "m:ss")),
        ("0'00\" a\n0'05\" b", ("Line 1", "m:ss")),
        ("**0s** a\n**5s** b", ("Line 1", "m:ss")),
        ("0 a\n5 b", ("Line 1", "m:ss")),
        ("0.00 a\n0.05 b", ("Line 1", "m:ss")),
        ("0:00 cut: keep: a", ("Line 1", "twice", "cut, keep")),
        ("0:00 cut to a lake", ("Line 1", "with its colon")),
        ("0:00 [cut] a lake", ("Line 1", "with its colon")),
        ("0:00 cut - a lake", ("Line 1", "with its colon")),
        ("0:00 cut, a lake", ("Line 1", "with its colon")),
        ("0:00 cuts: a lake", ("Line 1", "with its colon")),
        ("0:00 cut scene: a lake", ("Line 1", "with its colon")),
        ("0:00 recahce: a lake", ("Line 1", "with its colon")),
        ("0:00 a\n0:05 b seed=18446744073709551616", ("Line 2", "too large", "18446744073709551615")),
        (f"0:00 seed={'9' * 5000} a", ("Line 1", "too large")),
        ("0:00 a seed=-1", ("Line 1", "“-1”", "whole number")),
        ("0:00 a seed=7.5", ("Line 1", "“7.5”")),
        ("0:00 a seed=1,000", ("Line 1", "“1,000”")),
        ("0:00 seed=fox a", ("Line 1", "“fox”")),
        ("0:00 a seed=", ("Line 1", "no number")),
        ("0:00 a seed=7 b", ("Line 1", "“seed=7 b”", "beginning or the end")),
        ("0:00 seed=7 a seed=8", ("Line 1", "more than one seed")),
        ("0:00 a --seed 7", ("Line 1", "seed=7")),
        ("0:00 a --seed=7", ("Line 1", "seed=7")),
        ("0:00 a seed: 7", ("Line 1", "seed=7")),
        ("0:00 a\n0:05 \ud800 b", ("Line 2", "broken letter")),
        ("\n".join(["a"] * 7), ("Line 7", "0:15", "6 of the 7 shots", "17.5 seconds")),
        ("a\nb\n0:03 end", ("Line 2", "1 of the 2 shots", "5 seconds")),
    ],
)
def test_every_mistake_is_a_sentence_with_its_line(text, said):
    words = refusal(text)
    assert all(word in words for word in said), words
    assert words.endswith(".")
    assert "None" not in words
    assert len(words) < 400


@pytest.mark.parametrize("seconds", [0, -1, float("nan"), float("inf")])
def test_seconds_that_are_no_length(seconds):
    assert f"The film is to last {seconds} seconds" in refusal("a", seconds=seconds)
    assert "Add a line with the end" in refusal("0:00 a", seconds=seconds)


def test_values_around_the_script_are_checked():
    assert "The seed is -1" in refusal("a", seed=-1)
    assert "The seed is 18446744073709551616" in refusal("a", seed=2**64)
    assert "fps is 0" in refusal("a", fps=0)


def test_absurd_lengths_are_refused_at_once():
    assert "400000000000 chunks" in refusal("a", seconds=1e12)
    assert refusal("0:00 a\n999999:59:59 end").startswith("Line 1: with this shot its scene")
    many = refusal("\n".join(["cut: a"] * 12_000), seconds=30_000)
    assert many.startswith("Line 10000: with it the film has 10000 chunks, and 9999 are possible")
    assert refusal("\n".join(["a"] * 20_000)).startswith("Line 7: 0:15 has room for 6")
    assert parse("\n".join(["cut: a"] * 9999), seconds=2.5 * 9999).chunks == 9999


# --- a plan written again


TEXTS = (
    "a fox",
    "a fox, in snow",
    "-5 degrees",
    "close-up: 2 foxes",
    "\u72d0\u72f8",
    "the end",
    "#1",
    "{a|b}",
)


def _random_script(dice, chunk):
    """A script and its seconds. Shots last 1.1 chunks (of so many seconds) or more."""
    has_times, lines, now = dice.random() < 0.7, [], 0
    for _ in range(dice.randint(1, 60)):
        words = [dice.choice(("", "cut:", "cut:", "keep:", "recache:")), dice.choice(TEXTS)]
        if dice.random() < 0.3:
            words.insert(dice.randint(0, 2), f"seed={dice.choice((0, 9, 2**64 - 1))}")
        minutes, thousandths = divmod(now, 60_000)
        time = f"{minutes // 60}:{minutes % 60:02}:{thousandths // 1000:02}.{thousandths % 1000:03}"
        lines.append(" ".join(filter(None, [time if has_times else "", *words])))
        now += round(1000 * chunk * dice.uniform(1.1, 3))
    return "\n".join(lines), now / 1000


def test_a_plans_script_gives_the_plan_again():
    dice, most = random.Random(19), 0
    for _ in range(200):
        fps = dice.choice((16, 24, 29.97, 15.99, 60, 1000))
        options = {"fps": fps, "begins_at": dice.choice((0, 0, 1, 21))}
        text, seconds = _random_script(dice, 40 / fps)
        plan = parse(text, seconds=seconds, seed=dice.choice((0, 2**64 - 2)), **options)
        most = max(most, plan.scenes)
        again = parse(script_of(plan), seconds=0, seed=3, **options)
        assert again == plan
        assert script_of(again) == script_of(plan)
    assert most > 20


PIECES = (
    *(
        "0:00",
        "0:05",
        "1:00",
        "0:2.5",
        "[0:20]",
        "cut:",
        "keep:",
        "recache:",
        "cut",
        "cut to",
        "seed=7",
        "seed =",
    ),
    *(
        "seed",
        "--seed 3",
        "end",
        "END",
        "a fox",
        "\t",
        "\n",
        "\n",
        "\r\n",
        "#",
        "-",
        "->",
        "\u2014",
        "\u2026",
        ".",
        ":",
    ),
    *(
        ",",
        "(",
        ")",
        "[",
        "]",
        "<",
        ">",
        "*",
        "|",
        "0",
        "7",
        "s",
        "\x00",
        "\u200b",
        "\xa0",
        "\u72d0",
        "@",
        "2)",
        '"',
    ),
)


def test_any_text_gives_a_sentence_or_a_plan_that_can_be_written_again():
    dice, plans, sentences = random.Random(19), 0, set()
    for _ in range(3000):
        begin = dice.choice(("", "0:00 a\n", "a\n"))
        text = begin + dice.choice(("", " ")).join(dice.choices(PIECES, k=dice.randint(1, 15)))
        try:
            plan = parse(text)
        except InputError as error:
            sentences.add(str(error).partition(": ")[2][-25:])
            continue
        plans += 1
        assert parse(script_of(plan)) == plan, text
    assert plans > 100
    assert len(sentences) > 20


# --- where it lives


def test_the_parser_needs_no_torch():
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); import conftest;"
        "old = [name for name in sys.modules if name.split('.')[0] in ('torch', 'numpy', 'av')];"
        "[sys.modules.pop(name) for name in old];"
        "from comfyui_sana_video.sana_video_core.films.script import parse_script;"
        "parse_script('a', seconds=15, seed=0);"
        "sys.exit(any(name in sys.modules for name in ('torch', 'numpy', 'av', 'PIL', 'comfy')))"
    )
    tests = str(Path(__file__).parents[2])
    assert subprocess.run([sys.executable, "-c", code, tests], check=False).returncode == 0


def test_the_default_family_is_the_one_that_streams():
    assert parse("a").family is LONGSANA_480P
