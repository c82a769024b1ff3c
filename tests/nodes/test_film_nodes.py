"""Script: its plan on the node, the script that it gives on, and what it refuses before the run."""

import pytest
from support.artist import node, output_of, refused, run

SCRIPT = "0:00 a fox {runs|stops}\n0:06 cut: a lake"


def test_the_plan_is_shown_and_given_on():
    output = output_of("Script", SCRIPT, 15.0, 7, 16.0)
    script, plan, chunks, seconds = output.args
    assert script == "0:00 seed=7 a fox {runs|stops}\n0:05 cut: seed=8 a lake\n0:15 end"
    assert plan.splitlines() == [
        "6 chunks · 2 scenes · 242 frames · 15.1 s at 16 fps",
        "0:00.0 to 0:05.1 · 2 chunks · scene 1 · seed 7 · a fox {runs|stops}",
        "0:05.1 to 0:15.1 · 4 chunks · scene 2, cut · seed 8 · a lake",
    ]
    assert (chunks, seconds) == (6, 242 / 16)
    assert output.ui.as_dict() == {"text": (plan,)}
    assert run("Script", script, 60.0, 1, 16.0) == (script, plan, chunks, seconds)  # all is in the script


def test_it_runs_unwired_and_its_example_works():
    schema = node("Script").GET_SCHEMA()
    assert schema.is_output_node
    defaults = {entry.id: entry.as_dict().get("default") for entry in schema.inputs}
    assert run("Script", **defaults)[2:] == (6, 242 / 16)
    assert node("Script").validate_inputs(**{k: defaults[k] for k in ("script", "seconds", "fps")}) is True


def test_braces_are_text():
    """With dynamic prompts, the page would send one choice of {a|b}, and leave out what follows //."""
    widget = node("Script").GET_SCHEMA().inputs[0].as_dict()
    assert (widget["multiline"], widget["dynamicPrompts"]) == (True, False)


@pytest.mark.parametrize(
    "values, said",
    [
        (("", 15.0, 16.0), "The script is empty"),
        (("0:00 a\n0:20 b", 15.0, 16.0), "Line 2: this last shot begins at 0:20"),
        (("a\nb", 2.5, 16.0), "Line 2: 0:02.5 has room for 1 of the 2 shots"),
        (("a", 15.0, 0.0), "fps is 0.0"),
        (("a", -1.0, 16.0), "The film is to last -1.0 seconds"),
        (("a", 300.0, 16.0), "Line 1: with this shot its scene"),
        (("0:00 a\n0:75 b", None, 16.0), "Line 2: “0:75”"),
        (("0:00 a\n0:75 b", 15.0, None), "Line 2: “0:75”"),
        ((None, 15.0, 0.001), "fps is 0.001"),
    ],
)
def test_a_mistake_is_said_before_the_run(values, said):
    assert node("Script").validate_inputs(*values).startswith(said)


@pytest.mark.parametrize(
    "values", [(None, None, None), (None, 15.0, 16.0), ("0:00 a\n0:20 b", None, 16.0), ("a", 15.0, None)]
)
def test_what_is_linked_is_not_known_yet(values):
    assert node("Script").validate_inputs(*values) is True


def test_a_mistake_in_a_linked_script_is_said_by_the_run():
    with refused("Line 2", "0:20"):
        run("Script", "0:00 a\n0:20 b", 15.0, 7, 16.0)


@pytest.mark.parametrize("name", ["Script", "LongVideo"])
def test_the_seed_stays_when_a_film_is_queued(name):
    """The page's own choice is another seed each time: after a crash, that would be another film."""
    seed = next(entry for entry in node(name).GET_SCHEMA().inputs if entry.id == "seed")
    assert seed.as_dict()["control_after_generate"] == "fixed"
