"""Recorded passes: a stand-in for a GPU's recording computes again on the inputs that were in place."""

from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch
from comfyui_sana_video.sana_video_core.transformer import network as module
from comfyui_sana_video.sana_video_core.transformer import pass_graphs
from comfyui_sana_video.sana_video_core.transformer.pass_graphs import PassGraphs
from support import checks_stream
from support.fused_blocks import inputs
from support.pack import Pack
from torch.utils._pytree import tree_leaves, tree_map_only

PACK = Pack()


class Recordings:
    """As CUDA graphs: outputs are the same tensors after every replay, filled anew."""

    def __init__(self):
        self.count = self.replays = 0

    def __call__(self, function):
        self.count += 1
        outputs = tree_map_only(
            torch.Tensor, lambda tensor: torch.full_like(tensor, float("nan")), function()
        )

        def replay():
            self.replays += 1
            for mine, new in zip(tree_leaves(outputs), tree_leaves(function()), strict=True):
                if isinstance(mine, torch.Tensor):
                    mine.copy_(new)

        return replay, outputs


@pytest.fixture
def recorded(monkeypatch):
    """A model that records on the CPU, too, the same without, and the recordings."""
    recordings = Recordings()
    model, plain = PACK.tiny_model(), PACK.tiny_model()
    model.graphs = PassGraphs(lambda: recordings)

    def run(self, name, function, given, prepared, runner):
        if self.graphs is None:
            return function(given)
        return self.graphs.run(name, function, given, made_for=(prepared, runner))

    monkeypatch.setattr(module.VideoNetwork, "_run", run)
    return model, plain, recordings


@pytest.mark.parametrize("window", [None, 2])
def test_a_stream_is_the_same(recorded, window):
    """Chunks, positions and memories change. The first pass of a kind runs, the second is recorded."""
    model, plain, recordings = recorded
    states = []
    for network in (plain, model):
        state = checks_stream.begin(PACK, network, window=window)
        states.append(checks_stream.run(PACK, network, state, plan=(3, 2, 2, 2, 2)))
    checks_stream.assert_same_state(*states)
    assert recordings.replays > recordings.count > 0


@torch.no_grad()
def test_results_are_nobodys_but_the_callers(recorded):
    model, plain, _ = recorded
    x, y = inputs(batch=1)
    y = y[:1, :, : model.config.caption_channels]
    text, times = model.prepare_text(y), torch.full((1,), 500)
    before = [model(x + number, times, text) for number in range(4)]
    kept = [tensor.clone() for tensor in before]
    model(x + 9, times, text)
    assert all(map(torch.equal, before, kept))
    other = plain.prepare_text(y)
    assert all(torch.equal(out, plain(x + number, times, other)) for number, out in enumerate(before))


@torch.no_grad()
def test_another_prompt_is_recorded_anew(recorded):
    model, plain, recordings = recorded
    x, y = inputs(batch=1)
    times = torch.full((1,), 500)
    for number in range(2):
        words = y[:, :, : model.config.caption_channels] + number
        text, other = model.prepare_text(words), plain.prepare_text(words)
        for _ in range(3):
            assert torch.equal(model(x, times, text), plain(x, times, other))
        assert recordings.count == number + 1


@torch.no_grad()
def test_where_nothing_can_be_recorded_passes_run_as_they_are(recorded):
    model, plain, _ = recorded

    def record(function):
        tries.append(function)
        raise torch.OutOfMemoryError("no room")

    model.graphs, tries = PassGraphs(lambda: record), []
    x, y = inputs(batch=1)
    words, times = y[:1, :, : model.config.caption_channels], torch.full((1,), 500)
    text, other = model.prepare_text(words), plain.prepare_text(words)
    for _ in range(4):
        assert torch.equal(model(x, times, text), plain(x, times, other))
    assert len(tries) == 1


def test_the_gpu_that_computes_is_the_one_that_records(monkeypatch):
    """On another one nothing would be recorded, and every replay would give the first one's numbers."""
    asked, gpu = [], torch.device("cuda:1")

    def note(name, result):
        return lambda *arguments, **options: asked.append((name, *arguments, options)) or result

    monkeypatch.setattr(pass_graphs.torch, "cuda", SimpleNamespace(
        graph_pool_handle=lambda: "pool",
        CUDAGraph=lambda: SimpleNamespace(replay=None),
        Stream=note("stream", "a stream"),
        stream=note("within", nullcontext()),
        graph=note("graph", nullcontext()),
        mem_get_info=lambda device: (pass_graphs.ROOM, 0),
    ))  # fmt: skip
    monkeypatch.setattr(pass_graphs.torch.version, "cuda", "13.0")
    pass_graphs._stream.cache_clear()
    graphs = pass_graphs.graphs_where_they_pay(gpu)
    for _ in range(2):
        assert graphs._record(lambda: "outputs") == (None, "outputs")
    pass_graphs._stream.cache_clear()
    assert [call[:2] for call in asked if call[0] != "graph"] == [
        ("stream", gpu),
        *[("within", "a stream")] * 2,
    ]
    assert {call[-1]["stream"] for call in asked if call[0] == "graph"} == {"a stream"}
