"""Checks of the stream's laws: chains, branches, prompt changes, values. Each takes a Pack and asserts."""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch
from support.pack import Pack, assert_close, same

SIZE = {"height": 32, "width": 48}
# of (seed, latent frame, draw) = (0, 0, 0) and (5, 2, 3)
PUBLISHED_SEEDS = [2558736989570252433, 12976243942353257622]


def prompt(pack: Pack, text: str, *, rows: int = 1):
    """Embeddings that depend on nothing but the text."""
    seed = sum(ord(letter) * 31**i for i, letter in enumerate(text)) % 2**31
    embeddings = torch.randn(rows, 7, 24, generator=torch.Generator().manual_seed(seed))
    mask = torch.tensor([[1, 1, 1, 1, 1, 0, 0]]).bool().expand(rows, -1)
    return pack.core("text.prompt").Prompt(
        embeddings=embeddings, mask=mask, digest=f"digest of {text}", text=text
    )


def begin(pack: Pack, model, **size):
    return pack.core("streaming.stream").start(model, **{**SIZE, **size})


def run(pack: Pack, model, state, text: str = "a", *, plan=(3,), device="cpu", **sampling):
    """The state after a plan of small chunks, of a model that says it has the `loras` (“style 0.5”)."""
    loras = sampling.pop("loras", ())
    applied = pack.core("transformer.maker").AppliedLora
    parts = [lora.rpartition(" ") for lora in loras]
    model.loras = tuple(applied(name, f"content of {name}", float(strength)) for name, _, strength in parts)
    chosen = pack.core("streaming.stream").Sampling(**{"seed": 7, "steps": 2, **sampling})
    *_, last = pack.core("streaming.stream").extend(
        model, state, prompt(pack, text), chosen, plan=plan, device=device
    )
    return last


def assert_same_state(a, b) -> None:
    """Bit-identical: identity, history and both memories."""
    assert a.identity == b.identity
    assert (a.scene, a.position, a.frames, a.plan) == (b.scene, b.position, b.frames, b.plan)
    assert len(a.tensors()) == len(b.tensors())
    assert all(same(x, y) for x, y in zip(a.tensors(), b.tensors(), strict=True))
    for one, other in zip(a.history, b.history, strict=True):
        fields = [name for name in type(one).__slots__ if name not in ("latents", "text")]
        assert (one.text and one.text.content) == (other.text and other.text.content)
        assert [getattr(one, name) for name in fields] == [getattr(other, name) for name in fields]


def chains(pack: Pack) -> None:
    """N samplers of one chunk are bit-identical to one of N chunks: both samplers, a window, a batch."""
    for options, sampling in (
        ({}, {}),
        ({"window": 1}, {}),
        ({"batch": 2}, {"sampler": "euler"}),
    ):
        model = pack.tiny_model()
        single = run(pack, model, begin(pack, model, **options), plan=(3, 2, 2), **sampling)
        chained = begin(pack, model, **options)
        for length in (3, 2, 2):
            chained = run(pack, model, chained, plan=(length,), **sampling)
        assert_same_state(single, chained)


def save_load_continue(pack: Pack) -> None:
    """Continuing from a file is bit-identical to continuing without one; recache after loading too."""
    model, files = pack.tiny_model(), pack.core("streaming.state_file")
    for window in (None, 2):
        state = run(pack, model, begin(pack, model, window=window), plan=(3, 2))
        with tempfile.TemporaryDirectory() as folder:
            files.save_state(state, Path(folder) / "s.safetensors")
            loaded = files.load_state(Path(folder) / "s.safetensors")
        assert_same_state(state, loaded)
        for text in ("a", "another"):
            assert_same_state(run(pack, model, state, text), run(pack, model, loaded, text))


def branches(pack: Pack) -> None:
    """Two endings from one state, in either order, share nothing new."""
    model = pack.tiny_model()
    trunk = run(pack, model, begin(pack, model), plan=(3, 2))
    before = [(tensor.data_ptr(), tensor.clone()) for tensor in trunk.tensors()]
    first = run(pack, model, trunk, "left"), run(pack, model, trunk, "right")
    second = run(pack, model, trunk, "right"), run(pack, model, trunk, "left")
    assert_same_state(first[0], second[1])
    assert_same_state(first[1], second[0])
    assert not torch.equal(first[0].history[-1].latents, first[1].history[-1].latents)
    old = {tensor.data_ptr() for tensor in trunk.tensors()}
    new = [{tensor.data_ptr() for tensor in state.tensors()} - old for state in first]
    assert new[0].isdisjoint(new[1])
    for (address, content), tensor in zip(before, trunk.tensors(), strict=True):
        assert tensor.data_ptr() == address
        assert torch.equal(tensor, content)


def untouched(pack: Pack) -> None:
    """No public call writes to its state, prompt or latents."""
    model, stream = pack.tiny_model(), pack.core("streaming.stream")
    for window in (None, 1):
        latents = torch.randn(1, 16, 12, 4, 6, generator=torch.Generator().manual_seed(2))
        text = prompt(pack, "a")
        state = stream.prime(model, begin(pack, model, window=window), text, latents)
        watched = [*state.tensors(), latents, text.embeddings, text.mask, *model.parameters()]
        before = [(tensor.data_ptr(), tensor._version, tensor.clone()) for tensor in watched]
        for change in ("recache", "keep", "cut"):
            run(pack, model, state, "b", on_prompt_change=change)
        where = {"memory": state.memory, "first_frame": state.position}
        model(latents[:, :, :2], torch.zeros(1), text.embeddings, **where)
        model.absorb(latents[:, :, :2], text.embeddings, **where, window=window)
        state.to("cpu")
        _listen_and_spoil(pack, model, state, latents, text)
        for (address, version, content), tensor in zip(before, watched, strict=True):
            assert (tensor.data_ptr(), tensor._version) == (address, version)
            assert torch.equal(tensor, content)
        assert not {t.data_ptr() for t in state.tensors()} & {latents.data_ptr()}


def _listen_and_spoil(pack: Pack, model, state, latents, text) -> None:
    """A listener that writes to its latents changes neither states nor the caller's latents."""
    stream = pack.core("streaming.stream")
    spoiler = pack.core("callbacks").Callbacks(progress=lambda report: report.latents.zero_())
    sampling = stream.Sampling(seed=7, steps=2)
    (spoiled,) = stream.extend(model, state, prompt(pack, "b"), sampling, plan=(2,), callbacks=spoiler)
    assert_same_state(spoiled, run(pack, model, state, "b", plan=(2,)))
    window = state.identity.window
    stream.prime(model, begin(pack, model, window=window), text, latents, callbacks=spoiler)


@torch.no_grad()
def prompt_changes(pack: Pack) -> None:
    """keep leaves the memory; recache absorbs the last chunk again from the memory before; cut empties it."""
    model = pack.tiny_model()
    state = run(pack, model, begin(pack, model), "a", plan=(3, 2))
    new = prompt(pack, "b")
    kept, recached, cut = (
        run(pack, model, state, "b", plan=(2,), on_prompt_change=change)
        for change in ("keep", "recache", "cut")
    )
    assert all(map(same, *(_tensors(pack, memory) for memory in (kept.memory_before, state.memory))))

    last = state.history[-1].latents
    expected = model.absorb(last, new.embeddings, new.mask, memory=state.memory_before, first_frame=3)
    assert all(map(same, *(_tensors(pack, memory) for memory in (recached.memory_before, expected))))
    assert not torch.equal(recached.memory_before[1].vk, state.memory[1].vk)

    # nothing before a cut decides what comes after it
    alone = run(pack, model, begin(pack, model), "b", plan=(2,))
    assert torch.equal(cut.history[-1].latents, alone.history[-1].latents)
    assert all(map(same, _tensors(pack, cut.memory), _tensors(pack, alone.memory)))
    assert cut.memory_before is None
    assert (cut.scene, cut.position, len(cut.history)) == (1, 2, 3)
    assert cut.frames == (4 * 4 + 1) + (4 * 1 + 1)
    assert recached.frames == 4 * 6 + 1
    same_text = run(pack, model, state, "a", plan=(2,), on_prompt_change="cut")
    assert same_text.scene == 0
    assert len({s.history[-1].latents.sum().item() for s in (kept, recached, cut)}) == 3


def _tensors(pack: Pack, memory):
    return pack.core("transformer.memory").memory_tensors(memory)


def priming(pack: Pack) -> None:
    """An image is a chunk of one latent frame and ten follow; a video is absorbed by the original's plan."""
    model, stream = pack.tiny_model(), pack.core("streaming.stream")
    text, generator = prompt(pack, "a"), torch.Generator().manual_seed(4)
    image = torch.randn(1, 16, 1, 4, 6, generator=generator)
    state = stream.prime(model, begin(pack, model), text, image)
    assert state.plan == ((1,),)
    assert state.history[0].primed
    sampling = stream.Sampling(seed=1, steps=1)
    assert next(stream.extend(model, state, text, sampling)).plan == ((1, 10),)
    assert next(stream.extend(model, begin(pack, model), text, sampling)).plan == ((11,),)

    video = torch.randn(1, 16, 23, 4, 6, generator=generator)
    state = stream.prime(model, begin(pack, model), text, video)
    assert state.plan == ((13, 10),)
    assert state.frames == 89
    first = model.absorb(video[:, :, :13], text.embeddings, text.mask)
    expected = model.absorb(video[:, :, 13:], text.embeddings, text.mask, memory=first, first_frame=13)
    assert all(map(same, *(_tensors(pack, memory) for memory in (state.memory, expected))))
    assert torch.equal(torch.cat([chunk.latents for chunk in state.history], 2), video)


def noise(pack: Pack) -> None:
    """A pure function of seed, latent frame and draw; batch row r adds r to the seed; no global generator."""
    draw, grid = pack.core("sampling.noise").draw_noise, pack.core("shapes").LatentGrid(8, 8)
    size = {"batch": 2, "channels": 16, "grid": grid}
    torch.manual_seed(1)
    global_state = torch.get_rng_state()
    whole = draw(5, 0, 6, 0, **size)
    assert torch.equal(torch.get_rng_state(), global_state)
    assert torch.equal(draw(5, 2, 3, 0, **size), whole[:, :, 2:5])
    assert torch.equal(draw(6, 0, 6, 0, **size)[0], whole[1])
    flat = torch.stack([draw(5, 0, 6, n, **size)[0, :, f].flatten() for n in range(3) for f in range(6)])
    assert torch.corrcoef(flat).fill_diagonal_(0).abs().max() < 0.15
    assert abs(flat.mean()) < 0.03
    assert abs(flat.std() - 1) < 0.03
    assert draw(2**64 - 1, 0, 1, 0, **size).isfinite().all()
    repeated = torch.equal(whole[0, :, 1], whole[1, :, 0])
    assert not repeated, "row 0, latent frame 1 repeats row 1, latent frame 0"
    seeds = [pack.core("sampling.noise").frame_seed(*numbers) for numbers in ((0, 0, 0), (5, 2, 3))]
    assert seeds == PUBLISHED_SEEDS, "another mix breaks every saved stream"


def euler_through_the_stream(pack: Pack) -> None:
    """The deterministic sampler on the few-step grid: noise 0, sigma 1, then 0.889, then 0."""
    model, text = pack.tiny_model(), prompt(pack, "a")
    state = run(pack, model, begin(pack, model), plan=(3,), sampler="euler", seed=9)
    size = {"batch": 1, "channels": 16, "grid": pack.core("shapes").LatentGrid(4, 6)}
    x = pack.core("sampling.noise").draw_noise(9, 0, 3, 0, **size)
    with torch.no_grad():
        for sigma, following in ((1.0, 0.889), (0.889, 0.0)):
            velocity = model(x, torch.full((1,), 1000 * sigma), text.embeddings, text.mask)
            x = x + (following - sigma) * velocity
    assert_close(state.history[0].latents, x, 1e-5)


def noise_through_the_stream(pack: Pack) -> None:
    """Few-step chunks by formula: which noise enters, at which sigma, position and memory.

    The second chunk reads the first; a cut starts at position 0 with no memory and the first noise.
    """
    model = pack.tiny_model()
    state = run(pack, model, begin(pack, model, batch=2), "a", plan=(3, 2), seed=9)
    cut = run(pack, model, state, "b", plan=(2,), seed=9, on_prompt_change="cut")
    for made, text, drawn_at, where in (
        (state.history[1], "a", 3, {"memory": state.memory_before, "first_frame": 3}),
        (cut.history[2], "b", 0, {}),
    ):
        assert_close(made.latents, _two_steps(pack, model, prompt(pack, text), drawn_at, where), 1e-5)


@torch.no_grad()
def _two_steps(pack: Pack, model, text, drawn_at: int, where):
    """Two latent frames by the rule of the paper: sigma 1, then 0.889."""
    size = {"batch": 2, "channels": 16, "grid": pack.core("shapes").LatentGrid(4, 6)}
    first, second = (pack.core("sampling.noise").draw_noise(9, drawn_at, 2, n, **size) for n in range(2))
    clean = first - model(first, torch.full((2,), 1000.0), text.embeddings, text.mask, **where)
    x = 0.889 * second + (1 - 0.889) * clean
    return x - 0.889 * model(x, torch.full((2,), 889.0), text.embeddings, text.mask, **where)


STREAM_CHECKS = (
    chains,
    save_load_continue,
    branches,
    untouched,
    prompt_changes,
    priming,
    noise,
    noise_through_the_stream,
    euler_through_the_stream,
)
