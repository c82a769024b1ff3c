"""Prompts of toy nodes, for the fake ComfyUI (always) and for a real one (where there is one)."""

from copy import deepcopy


def node(class_type, **inputs):
    return {"class_type": class_type, "inputs": inputs}


def start(**changes):
    return node("ToyStart", **{"seed": 1, "strength": 0.5, "mode": "a", "text": "hello", **changes})


def chain(*seeds, first=1):
    """A Start, a Block for each seed, and a Show at the end."""
    prompt = {"1": start(seed=first)}
    for number, seed in enumerate(seeds, 2):
        prompt[str(number)] = node("ToyBlock", state=[str(number - 1), 0], seed=seed)
    last = str(len(prompt))
    return prompt | {"show": node("ToyShow", value=[last, 0])}


def shown(**nodes):
    """A Start, these nodes, and a Show of `n`."""
    return {"1": start(), **nodes, "show": node("ToyShow", value=["n", 0])}


def without(prompt, node_id, name):
    prompt = deepcopy(prompt)
    del prompt[node_id]["inputs"][name]
    return prompt


TWO_OUTPUTS = chain(5) | {
    "bad": node("ToyBlock", state=["1", 0], seed=500),
    "show2": node("ToyShow", value=["bad", 0]),
}
RING = shown(n=node("ToyBlock", state=["m", 0], seed=1), m=node("ToyBlock", state=["n", 0], seed=2))
CHECKED = {"name": "known", "size": 32, "level": 1}

# name -> (prompt, outputs that may run, {refused node: a part of our message}); no outputs: all is refused
VALIDATION = {
    "good": (chain(5, 6), {"show"}, {}),
    "values are converted": ({**chain(), "1": start(seed="7", strength="0.25", text=5, on=1)}, {"show"}, {}),
    "no class": ({**chain(), "x": {"inputs": {}}}, set(), {}),
    "unknown class": ({**chain(), "x": node("KSampler_")}, set(), {}),
    "nothing to show": ({"1": start()}, set(), {}),
    "required is missing": (without(chain(5), "2", "state"), set(), {"2": "“state” is missing"}),
    "required value is missing": (without(chain(5), "2", "seed"), set(), {"2": "“seed” is missing"}),
    "unknown input is ignored": ({**chain(), "1": start(nobody="knows")}, {"show"}, {}),
    "no number": ({**chain(), "1": start(seed="many")}, set(), {"1": "no INT"}),
    "too small": ({**chain(), "1": start(seed=-1)}, set(), {"1": "the least is 0"}),
    "too large": ({**chain(), "1": start(strength=1.5)}, set(), {"1": "the most is 1.0"}),
    "no such choice": ({**chain(), "1": start(mode="c")}, set(), {"1": "choose one of: a, b"}),
    "two problems": ({**chain(), "1": start(mode="c", seed=-1)}, set(), {"1": "choose one of"}),
    "link to nowhere": (shown(n=node("ToyBlock", state=["9", 0], seed=1)), set(), {"n": "no output"}),
    "link to no slot": (shown(n=node("ToyBlock", state=["1", 2], seed=1)), set(), {"n": "no output"}),
    "a list that is no link": (
        shown(n=node("ToyBlock", state=["1", 0, 0], seed=1)),
        set(),
        {"n": "no output"},
    ),
    "wrong type": (shown(n=node("ToyBlock", state=["1", 1], seed=1)), set(), {"n": "takes TOY_STATE"}),
    "one of several types": ({"1": start(), "show": node("ToyShow", value=["1", 1])}, {"show"}, {}),
    "none of several types": (
        {
            "1": start(),
            "n": node("ToyBlocks", state=["1", 1], with_value=True),
            "show": node("ToyShow", value=["n", 0]),
        },
        set(),
        {"n": "TOY_STATE"},
    ),
    "any type": (shown(n=node("ToyOwn", state=["1", 0], any=["1", 1])), {"show"}, {}),
    "linked widget": (shown(n=node("ToyBlock", state=["1", 0], seed=["1", 1])), {"show"}, {}),
    "ring": (RING, set(), {"n": "circle", "m": "circle"}),
    "a bad output beside a good one": (TWO_OUTPUTS, {"show"}, {"bad": "the most is 100"}),
    "own check passes": (shown(n=node("ToyChecked", **CHECKED)), {"show"}, {}),
    "own check refuses": (shown(n=node("ToyChecked", **CHECKED | {"size": 33})), set(), {"n": "no multiple"}),
    "own check switches limits off": (
        shown(n=node("ToyChecked", **CHECKED | {"size": 320, "name": "x"})),
        {"show"},
        {},
    ),
    "but not those of other inputs": (
        shown(n=node("ToyChecked", **CHECKED | {"level": 3})),
        set(),
        {"n": "“level” is 3"},
    ),
    "own check with a link": (shown(n=node("ToyChecked", **CHECKED, state=["1", 0])), {"show"}, {}),
    "lazy": (shown(n=node("ToyLazy", which=1, first=["1", 0])), {"show"}, {}),
}

CHANGING = shown(n=node("ToyChecked", **CHECKED | {"name": "changing"}))
BRANCH = chain(5, 6) | {
    "b": node("ToyBlock", state=["2", 0], seed=9),
    "show2": node("ToyShow", value=["b", 0]),
}
RENAMED = {"a": start(), "b": node("ToyBlock", state=["a", 0], seed=5), "s": node("ToyShow", value=["b", 0])}
TWINS = {
    **chain(5),
    "2b": node("ToyBlock", state=["1", 0], seed=5),
    "show2": node("ToyShow", value=["2b", 0]),
}
OWN_TWINS = {
    "1": start(),
    "n": node("ToyOwn", state=["1", 0]),
    "m": node("ToyOwn", state=["1", 0]),
    "show": node("ToyShow", value=["n", 0]),
    "show2": node("ToyShow", value=["m", 0]),
}
LAZY = {
    "1": start(),
    "2": start(seed=2),
    "n": node("ToyLazy", which=1, first=["1", 0], second=["2", 0]),
    "show": node("ToyShow", value=["n", 0]),
}
BLOCKS = shown(n=node("ToyBlocks", state=["1", 0], with_value=True))
NO_BLOCK = shown(n=node("ToyBlocks", state=["1", 0], with_value=False))

# name -> [(prompt, nodes whose result was known, nodes that ran)], queued one after the other
RUNS = {
    "again": [(chain(5), set(), {"1", "2", "show"}), (chain(5), {"1", "2", "show"}, set())],
    "append": [(chain(5), set(), {"1", "2", "show"}), (chain(5, 6), {"1", "2"}, {"3", "show"})],
    "change in the middle": [
        (chain(5, 6, 7), set(), {"1", "2", "3", "4", "show"}),
        (chain(5, 8, 7), {"1", "2"}, {"3", "4", "show"}),
    ],
    "branch": [
        (chain(5, 6), set(), {"1", "2", "3", "show"}),
        (BRANCH, {"1", "2", "3", "show"}, {"b", "show2"}),
    ],
    "other ids": [(chain(5), set(), {"1", "2", "show"}), (RENAMED, {"a", "b", "s"}, set())],
    "twins run once": [(TWINS, set(), {"1", "2", "show"})],
    "twins that want to know their ids": [(OWN_TWINS, set(), {"1", "n", "m", "show", "show2"})],
    "changing fingerprint": [(CHANGING, set(), {"n", "show"}), (CHANGING, set(), {"n", "show"})],
    "lazy": [(LAZY, set(), {"1", "n", "show"})],
    "blocked": [(BLOCKS, set(), {"1", "n", "show"})],
}
