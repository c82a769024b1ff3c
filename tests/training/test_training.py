"""The training on small real networks: losses that teach what sampling does, gradients, what is exported."""

import random
import types

import pytest
import torch
from comfyui_sana_video.demo.model_set import DemoSet
from comfyui_sana_video.sana_video_core.config import WAN_2_1
from comfyui_sana_video.sana_video_core.transformer.memory import memory_tensors
from comfyui_sana_video.sana_video_core.vae.statistics import to_model_space
from comfyui_sana_video.training import flow, student, vae
from comfyui_sana_video.training.export import export_set
from comfyui_sana_video.training.latents import Clips, chunk_place, make_clips, sentence, tokens_of
from comfyui_sana_video.training.models import fresh_encoder, fresh_learner
from comfyui_sana_video.training.optimiser import Optimiser
from comfyui_sana_video.training.sampling import load
from comfyui_sana_video.training.scenes import random_story

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def learner():
    learner = fresh_learner(fresh_encoder(), CPU, torch.float32)
    # out of the first weights' silence: a velocity that depends on everything
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in learner.model.named_parameters():
            if name.endswith(("t_conv.weight", "cross_attn.proj.weight", "final_layer.linear.weight")):
                parameter.copy_(0.03 * torch.randn(parameter.shape, generator=generator))
    return learner


@pytest.fixture(scope="module")
def clips(learner):
    """Three stories of noise at 32 x 32 pixels, with the sentences of real ones."""
    stories = [random_story(seed, 3, changes=1.0) for seed in range(3)]
    ids, mask = tokens_of(learner.encoder, [sentence(s, c) for s in stories for c in range(3)])
    latents = torch.randn(3, 16, 31, 4, 4, generator=torch.Generator().manual_seed(1))
    return Clips(latents.bfloat16(), ids.view(3, 3, -1), mask.view(3, 3, -1))


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_tokens_are_what_the_encoder_reads(learner):
    texts = ["a red ball moves right over a blue floor motion score: 10.", "an orange star spins"]
    ids, mask = tokens_of(learner.encoder, texts)
    with torch.no_grad():
        mine = learner.embed(ids[None], mask[None])[0]
    theirs, their_mask = learner.encoder.encode(texts, system_prompt=False)
    assert torch.equal(mask.sum(1), their_mask.sum(1))
    for row, length in enumerate(mask.sum(1)):
        assert torch.allclose(mine[row, :length], theirs[row, :length], atol=1e-5)


def test_levels_rise_and_meet_the_samplers_own():
    levels = flow.draw_levels(4000, 3, generator(), CPU)
    assert (levels.diff(dim=1) >= 0).all()
    assert levels.min() > 0
    assert levels.max() == 1
    assert torch.allclose((levels * 1000).round() / 1000, levels)
    same = (levels[:, 0] == levels[:, 2]).float().mean()
    assert 0.45 < same < 0.7
    on_grid = torch.isin(
        (levels * 1000).round().int(), torch.tensor([1000, 960, 889, 727], dtype=torch.int32)
    )
    assert 0.4 < on_grid.float().mean() < 0.65


def test_the_first_loss_is_that_of_a_velocity_of_zero(clips):
    silent = fresh_learner(fresh_encoder(), CPU, torch.float32)
    loss, parts = flow.flow_loss(silent, clips, torch.tensor([0, 1, 2]), 0.0, generator())
    expected = 1 + clips.latents.float().square().mean()
    assert loss.item() == pytest.approx(float(expected), rel=0.1)
    assert float(parts["first"]) == pytest.approx(float(parts["later"]), rel=0.1)


def test_gradients_reach_back_through_the_memory(learner, clips, monkeypatch):
    """What a chunk leaves in the memory is trained by the chunks after it."""
    rows = torch.tensor([0])

    def gradient():
        loss, _ = flow.flow_loss(learner, clips, rows, 0.0, generator())
        grads = torch.autograd.grad(loss, learner.model.blocks[2].attn.qkv.weight)
        return grads[0]

    whole = gradient()
    absorb = learner.model.absorb
    monkeypatch.setattr(learner.model, "absorb", lambda *a, **k: student.detached(absorb(*a, **k)))
    cut = gradient()
    assert (whole - cut).norm() > 1e-4 * whole.norm()


def test_the_memory_matters_to_the_loss(learner, clips, monkeypatch):
    rows = torch.tensor([0, 1])
    with torch.no_grad():
        _, whole = flow.flow_loss(learner, clips, rows, 0.0, generator())
        forward = learner.model.forward
        monkeypatch.setattr(
            learner.model, "forward", lambda *a, memory=None, **k: forward(*a, memory=None, **k)
        )
        _, without = flow.flow_loss(learner, clips, rows, 0.0, generator())
    assert whole["first"] == without["first"]
    assert whole["later"] != without["later"]


def test_recache_and_keep_differ_only_where_the_sentence_changes(learner, clips):
    words = flow.Words(learner, clips.tokens[:2, :2], clips.mask[:2, :2])
    kept, recached = words.of(0).caption, words.of(1).caption
    seen = [words.absorbing(0, generator(seed)).caption for seed in range(12)]
    for row in range(2):
        same = torch.equal(clips.tokens[row, 0], clips.tokens[row, 1])
        absorbed = {("keep" if torch.allclose(s[row], kept[row], atol=1e-6) else "recache") for s in seen}
        assert all(
            torch.allclose(s[row], kept[row], atol=1e-6) or torch.allclose(s[row], recached[row], atol=1e-6)
            for s in seen
        )
        assert absorbed == ({"keep"} if same else {"keep", "recache"})


def test_the_students_target_is_the_truth(learner, clips, monkeypatch):
    """A network that predicts the target is shown a loss of zero, wherever the chain of steps has led it."""
    clean = clips.chunk(torch.tensor([0, 1]), 1)
    text = flow.Words(learner, clips.tokens[:2], clips.mask[:2]).of(1)

    def perfect(_, x, level, *rest):
        velocity = (x - clean) / level.view(-1, 1, 1, 1, 1)
        return velocity, clean

    monkeypatch.setattr(student, "estimate", perfect)
    for seed in range(12):
        loss, seen = student._chunk_loss(learner, clean, text, None, 1, generator(seed), random.Random(seed))
        assert float(loss) < 1e-10
        assert (seen - clean).abs().mean() < 0.1


def test_streams_run_on_and_begin_anew(learner, clips):
    streams = student.Streams(clips, clips, count=2, batch=1, seed=0)
    chance, places = random.Random(0), []
    for number in range(8):
        stream = streams.next()
        places.append((number % 2, stream.chunk))
        loss, _ = student.student_loss(learner, stream, generator(number), chance)
        assert loss.isfinite()
        assert loss.requires_grad
        assert not any(tensor.requires_grad for tensor in memory_tensors(stream.memory))
    learner.model.zero_grad()
    for number in (0, 1):
        assert [chunk for turn, chunk in places if turn == number] == [0, 2, 0, 2]


def test_places_of_chunks():
    assert [chunk_place(n) for n in range(3)] == [(0, 11), (11, 10), (21, 10)]


@pytest.fixture(scope="module")
def small_vae():
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return vae.fresh_vae(8, CPU, torch.float32)


def test_an_exported_set_is_what_was_averaged(learner, small_vae, tmp_path):
    optimiser = Optimiser({"model": learner.model, "encoder": learner.encoder.model}, rate=1e-3, steps=2)
    vae.fresh_vae(8, CPU, torch.float32)
    path = tmp_path / "vae.safetensors"
    from comfyui_sana_video.training.export import write_vae

    write_vae(path, small_vae, {"steps": "0"})
    models = load(export_set(tmp_path / "set", path, optimiser, {"steps": "0 of 2"}), CPU)
    assert sum(f.stat().st_size for f in (tmp_path / "set").rglob("*") if f.is_file()) < 16 * 2**20
    for key, tensor in models.transformer.state_dict().items():
        average = optimiser.average[f"model.{key}"]
        assert torch.allclose(tensor, average, rtol=0.01, atol=1e-3), key
    text = ["a red ball spins"]
    assert torch.allclose(models.encoder.encode(text)[0], learner.encoder.encode(text)[0], atol=1e-5)
    assert all(file.is_file() for file in DemoSet.at(tmp_path / "set").files())


def test_clips_are_the_vaes_latents(learner, small_vae):
    from comfyui_sana_video.training.drawing import draw
    from comfyui_sana_video.training.scenes import track

    clips = make_clips(small_vae, learner.encoder, seed=4, count=1, chunks=1, side=16, device=CPU)
    assert (len(clips), clips.chunks) == (1, 1)
    with torch.no_grad():
        whole = small_vae.encode(draw(track([random_story(4, 1)], 1), 16, 16))
    assert torch.allclose(clips.latents.float(), to_model_space(whole, WAN_2_1), atol=0.02)


def test_a_teacher_goes_down_to_clean_latents_guided_by_the_sentence(learner, clips, monkeypatch):
    """Each of its steps asks with and without words; where both agree on where to, it arrives there."""
    levels, masks = [], []

    def estimates(_, x, level, text, memory, chunk):
        said, unsaid = x.chunk(2)
        assert torch.equal(said, unsaid)
        levels.append(round(float(level[0]), 3))
        # to 2 with the sentence and to 1 without: guided, to 1 + GUIDANCE
        goals = torch.cat([torch.full_like(said, 2.0), torch.full_like(said, 1.0)])
        return (x - goals) / level.view(-1, 1, 1, 1, 1), goals

    def words(_, tokens, mask):
        masks.append(mask)
        return types.SimpleNamespace(of=lambda _: None)

    monkeypatch.setattr(student, "estimate", estimates)
    monkeypatch.setattr(student, "Words", words)
    x = clips.chunk(torch.tensor([0, 1]), 0)
    for exit_, level in enumerate((0.999, 0.96, 0.889, 0.727)):
        levels.clear()
        targets = student.taught(learner, x, exit_, clips.tokens[:2, :1], clips.mask[:2, :1])
        assert torch.allclose(targets, torch.full_like(x, 1 + student.GUIDANCE), atol=1e-4)
        assert len(levels) == student.TAUGHT[exit_]
        assert levels[0] == pytest.approx(level, abs=1e-3)
        assert levels == sorted(levels, reverse=True)
    said, unsaid = masks[0].chunk(2)
    assert torch.equal(said, clips.mask[:2, :1])
    assert unsaid.sum(-1).eq(1).all()
    assert unsaid[..., 0].all()


def test_no_words_are_what_the_encoder_makes_of_an_empty_sentence(learner):
    tokens, mask = tokens_of(learner.encoder, ["a red ball spins", ""])
    wordless = torch.arange(mask.shape[1]) == 0
    assert torch.equal(mask[1], wordless)
    assert torch.equal(tokens[0, :1], tokens[1, :1])


def test_one_clip_in_ten_is_learned_without_its_sentence():
    mask = torch.ones(4000, 2, 5, dtype=torch.bool)
    mask[:, :, 4] = False
    seen = flow._sometimes_wordless(mask, generator())
    lengths = seen.sum(-1)
    assert set(lengths.unique().tolist()) == {1, 4}
    assert torch.equal(lengths[:, 0], lengths[:, 1])
    assert (lengths[:, 0] == 1).float().mean() == pytest.approx(flow.WORDLESS, abs=0.02)
    assert seen[..., 0].all()


def test_the_first_frame_of_a_stream_counts_more():
    wanted = torch.zeros(2, 3, 4, 2, 2)
    velocity = wanted.clone()
    velocity[:, :, 0] = 1.0
    assert float(flow.mean_error(velocity, wanted, 0)) == pytest.approx(flow.OPENING / (flow.OPENING + 3))
    assert float(flow.mean_error(velocity, wanted, 1)) == pytest.approx(0.25)


def test_first_chunks_begin_from_noise_and_learn_from_the_teacher(learner, clips, monkeypatch):
    """The target is the teacher's alone, and no gradient reaches it or the steps before the last."""
    teacher = fresh_learner(fresh_encoder(), CPU, torch.float32, seed=1)
    monkeypatch.setattr(student, "taught", lambda _, x, *rest: torch.zeros_like(x))
    for seed in range(3):
        chance = random.Random(seed)
        loss, _ = student.first_chunk_loss(
            learner, teacher, clips, torch.tensor([0, 1]), generator(seed), chance
        )
        loss.backward()
        assert loss.isfinite()
    assert all(p.grad is None for p in teacher.model.parameters())
    assert learner.model.final_layer.linear.weight.grad.abs().sum() > 0
    learner.model.zero_grad()
