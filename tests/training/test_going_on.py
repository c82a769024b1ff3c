"""A training that was stopped resumes where it was, from files that stay small."""

import json
import signal

import pytest
import torch
from comfyui_sana_video.sana_video_core.errors import FileError
from comfyui_sana_video.training import loop
from comfyui_sana_video.training.checkpoints import LARGEST, load_parts, save_parts
from comfyui_sana_video.training.loop import train
from comfyui_sana_video.training.optimiser import Optimiser


def _toy(seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.SiLU(), torch.nn.Linear(8, 1))


def _train_toy(folder, steps, until, muon=()):
    net = _toy()
    optimiser = Optimiser({"toy": net}, rate=1e-2, steps=20, warmup=5, muon=muon)
    calls = []

    def step(number):
        calls.append(number)
        x = torch.randn(16, 8, generator=torch.Generator().manual_seed(number))
        loss = (net(x) - x.sum(1, keepdim=True)).square().mean()
        loss.backward()
        return {"loss": float(loss.detach())}

    done = train("toy", optimiser, step, folder=folder, until=until(calls))
    return done, optimiser, calls


@pytest.mark.parametrize("muon", [(), ("toy.0",)])
def test_a_training_that_was_stopped_goes_on(tmp_path, monkeypatch, muon):
    now = [0.0]
    monkeypatch.setattr(loop.time, "monotonic", lambda: now.__setitem__(0, now[0] + 1) or now[0])
    done, once, calls = _train_toy(tmp_path / "once", 20, lambda _: 1e9, muon)
    assert done
    assert calls == list(range(20))
    now[0] = 0.0
    done, _, first = _train_toy(tmp_path / "parts", 20, lambda _: 8.5, muon)
    assert not done
    assert 0 < len(first) < 20
    done, resumed, second = _train_toy(tmp_path / "parts", 20, lambda _: 1e9, muon)
    assert done
    assert first + second == list(range(20))
    for key, master in once.masters.items():
        assert torch.allclose(resumed.masters[key], master, rtol=0.05, atol=2e-3)  # moments are kept in bf16


def test_the_log_holds_the_means_of_all_kinds_of_steps(tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "SHOWN", 4)
    net = _toy()

    def step(number):
        net(torch.ones(1, 8)).sum().backward()
        return {"odd": 2.0 * number} if number % 2 else {"even": 1.0}

    optimiser = Optimiser({"toy": net}, rate=1e-3, steps=8)
    train("toy", optimiser, step, folder=tmp_path, until=float("inf"))
    lines = [json.loads(line) for line in (tmp_path / "toy.jsonl").read_text().splitlines()]
    assert [(line["step"], line["odd"], line["even"]) for line in lines] == [(4, 2.0, 0.5), (8, 6.0, 0.5)]


def test_matrices_are_muons_and_everything_else_adamws():
    """Muon's steps have the same size in every direction that a gradient has, in a kernel's rows, too."""
    net = torch.nn.Sequential(torch.nn.Conv2d(8, 16, 3), torch.nn.Conv2d(16, 16, 3, groups=16))
    optimiser = Optimiser({"net": net}, rate=1.0, steps=100, warmup=1, muon=("net.",))
    assert list(optimiser.rows) == ["net.0.weight"]
    before = optimiser.masters["net.0.weight"].clone()
    for parameter in net.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)) * 1e-3
    optimiser.update()
    step = (optimiser.masters["net.0.weight"] - before).flatten(1)
    sizes = torch.linalg.svdvals(step) / (0.2 * 72**0.5)
    assert 0.6 < sizes.min() <= sizes.max() < 1.3
    moved = optimiser.masters["net.1.weight"] - net[1].weight.detach()
    assert torch.equal(moved, torch.zeros_like(moved))  # the module has what the master has
    assert set(optimiser.state()) >= {"momentum_buffer/net.0.weight", "exp_avg_sq/net.1.weight"}


def test_parts_are_small_and_complete(tmp_path):
    tensors = {f"t{i}": torch.full((2**20,), float(i)) for i in range(9)}  # 4 MiB each
    paths = save_parts(tmp_path, "big", tensors)
    assert len(paths) == 3
    assert all(path.stat().st_size < LARGEST + 10_000 for path in paths)
    loaded = load_parts(tmp_path, "big")
    assert loaded is not None
    assert all(torch.equal(loaded[key], tensor) for key, tensor in tensors.items())
    assert load_parts(tmp_path, "other") is None
    save_parts(tmp_path, "big", {"t0": tensors["t0"]})
    assert [path.name for path in tmp_path.iterdir()] == ["big-1.safetensors"]
    save_parts(tmp_path, "big", tensors)
    paths[1].unlink()
    with pytest.raises(FileError, match="has 2 parts of the training “big”"):
        load_parts(tmp_path, "big")


def test_parts_of_two_saves_are_told_apart(tmp_path):
    tensors = {f"t{i}": torch.full((2**20,), float(i)) for i in range(9)}
    first = [path.read_bytes() for path in save_parts(tmp_path, "big", tensors)]
    paths = save_parts(tmp_path, "big", tensors)
    paths[0].write_bytes(first[0])
    with pytest.raises(FileError, match=r"“big” in .* were not saved together"):
        load_parts(tmp_path, "big")


def test_a_stopped_training_writes_true_means(tmp_path, monkeypatch):
    """Between two lines there may be fewer steps than usual, where a training was resumed."""
    monkeypatch.setattr(loop, "SHOWN", 10)
    now = [0.0]
    monkeypatch.setattr(loop.time, "monotonic", lambda: now.__setitem__(0, now[0] + 1) or now[0])
    _constant(tmp_path, until=7.5)
    now[0] = 0.0
    _constant(tmp_path, until=1e9)
    lines = [json.loads(line) for line in (tmp_path / "toy.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [10, 20]
    assert [line["loss"] for line in lines] == [1.0, 1.0]


def _constant(folder, until, after=None):
    net = _toy()

    def step(number):
        if number == after:
            signal.raise_signal(signal.SIGINT)
        net(torch.ones(1, 8)).sum().backward()
        return {"loss": 1.0}

    optimiser = Optimiser({"toy": net}, rate=1e-3, steps=20)
    return train("toy", optimiser, step, folder=folder, until=until), optimiser


def test_ctrl_c_ends_the_step_and_keeps_everything(tmp_path):
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        _constant(tmp_path, until=float("inf"), after=6)
    assert signal.getsignal(signal.SIGINT) is before
    kept = load_parts(tmp_path, "toy")
    assert kept is not None
    assert int(kept["done"]) == 7
    done, optimiser = _constant(tmp_path, until=float("inf"))
    assert done
    assert optimiser.done == 20


def test_a_training_is_kept_now_and_then(tmp_path, monkeypatch):
    """So that a machine that dies takes little with it."""
    monkeypatch.setattr(loop, "KEPT", 5)
    kept = []
    monkeypatch.setattr(loop, "save_parts", lambda folder, name, state: kept.append(int(state["done"])))
    _constant(tmp_path, until=float("inf"))
    assert kept == [5, 10, 15, 20]


def test_averages_and_rates():
    """The average lags behind a weight that moves, is what continues after a load, and what `use_average`
    gives.
    """
    net = torch.nn.Linear(4, 4)
    optimiser = Optimiser({"net": net}, rate=0.1, steps=40, warmup=4)
    first = net.weight.detach().clone()
    steps = []
    for _ in range(40):
        for parameter in net.parameters():
            parameter.grad = torch.full_like(parameter, 100.0)
        before = optimiser.masters["net.weight"].clone()
        optimiser.update()
        steps.append(float((before - optimiser.masters["net.weight"]).mean()))
    assert steps[0] == pytest.approx(0.025, rel=0.01)  # a quarter of the rate: the warm-up
    assert max(steps) == pytest.approx(0.1, rel=0.05)
    assert steps[-1] < 0.01  # the cosine's end
    last, average = optimiser.masters["net.weight"], optimiser.average["net.weight"]
    assert bool(((last < average) & (average < first)).all())
    assert float((average - last).mean()) < 0.5 * float((first - last).mean())
    other = Optimiser({"net": torch.nn.Linear(4, 4)}, rate=0.1, steps=40)
    other.load(optimiser.state())
    assert torch.allclose(other.average["net.weight"], average, rtol=0.01, atol=0.02)
    optimiser.use_average()
    assert torch.equal(net.weight.detach(), average)


def test_a_large_gradient_is_cut():
    net = torch.nn.Linear(1, 1)
    optimiser = Optimiser({"net": net}, rate=0.1, steps=4)
    for parameter in net.parameters():
        parameter.grad = torch.full_like(parameter, 300.0)
    assert float(optimiser.update()) == pytest.approx(300 * 2**0.5, rel=1e-4)
    assert float(optimiser.masters["net.weight"].grad) == pytest.approx(0.5**0.5, rel=1e-3)
