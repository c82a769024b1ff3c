"""What the next chunk of a story follows: all that can decide its bits is in that name."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from comfyui_sana_video.sana_video_core.films.naming import Namer, name_of
from comfyui_sana_video.sana_video_core.streaming.stream import primed
from comfyui_sana_video.sana_video_core.transformer.maker import AppliedLora
from support.checks_stream import begin, prompt, run
from support.pack import Pack

PACK = Pack()


@pytest.fixture
def model():
    return PACK.tiny_model(heads=1, depth=1)


@pytest.mark.parametrize(
    "change",
    [{"window": 1}, {"window": 2}, {"batch": 2}, {"rows": 3}, {"columns": 3}, {"channels": 8}],
    ids=lambda change: "".join(change),
)
def test_an_empty_scene_is_named_by_its_identity(model, change):
    story = begin(PACK, model)
    other = replace(story, identity=replace(story.identity, **change))
    assert name_of(other) != name_of(story)
    renamed = replace(story.identity, fingerprint="of a file in another dtype")
    assert name_of(replace(story, identity=renamed)) == name_of(story), "a chunk's key has its model's file"


@pytest.mark.parametrize("part", ["memory", "memory_before", "last"])
def test_a_state_without_names_is_named_by_all_its_tensors(model, part):
    state = run(PACK, model, begin(PACK, model), plan=(3, 2))
    first, last = state.history
    if part == "last":
        changed = {"history": (first, replace(last, latents=last.latents + 1))}
    else:
        memory = getattr(state, part)
        changed = {part: (memory[0]._replace(vk=memory[0].vk + 1), *memory[1:])}
    assert name_of(replace(state, **changed)) != name_of(state)
    elsewhere = replace(first, latents=first.latents + 1)
    assert name_of(replace(state, history=(elsewhere, last))) == name_of(state), "the memory holds it"


def test_a_primed_chunk_is_named_by_its_maker_only(model):
    story = primed(model, begin(PACK, model), prompt(PACK, "a"), torch.ones(1, 16, 3, 4, 6))
    maker = model.maker
    named = Namer("file", maker).named(story).history[0]
    assert named.key
    for other in (
        maker._replace(compute="another machine"),
        maker._replace(loras=(AppliedLora("a", "content of a", 1.0),)),
    ):
        assert Namer("file", other).named(story).history[0].key is None, other
