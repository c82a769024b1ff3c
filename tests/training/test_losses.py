"""What the losses ask for: a network that already knows the answer has nothing to learn, and is asked about
the right things.
"""

import random
from types import SimpleNamespace

import pytest
import torch
from comfyui_sana_video.sana_video_core.transformer.memory import SumMemory
from comfyui_sana_video.training import flow, student
from comfyui_sana_video.training.latents import Clips, chunk_place
from comfyui_sana_video.training.student import Stream

CHUNKS = 4
PLACES = {chunk_place(chunk)[0]: chunk for chunk in range(CHUNKS)}


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


class Oracle:
    """A model and a text encoder that answer with the truth of `clips`, `off` beside it, and write down what
    they are asked.
    """

    def __init__(self, clips: Clips, off: float = 0.0) -> None:
        self.clips, self.off = clips, off
        self.asked: list[SimpleNamespace] = []
        self.absorbed: list[SimpleNamespace] = []
        self.learner = flow.Learner(self, SimpleNamespace(model=self.encode))

    def encode(self, *, input_ids, **_):
        return SimpleNamespace(last_hidden_state=input_ids[..., None].float())

    def prepare_text(self, embeddings, mask):
        return SimpleNamespace(word=embeddings[:, 0, 0], mask=mask)

    def __call__(self, x, timestep, text, *, memory, first_frame):
        chunk = PLACES[first_frame]
        level = (timestep / 1000).view(-1, 1, 1, 1, 1)
        self.asked.append(SimpleNamespace(chunk=chunk, level=level.flatten(), text=text, memory=memory, x=x))
        return (x - self.clips.chunk(torch.arange(len(x)), chunk) - self.off) / level

    def absorb(self, seen, text, *, memory, first_frame):
        self.absorbed.append(SimpleNamespace(chunk=PLACES[first_frame], text=text, before=memory, seen=seen))
        return (SumMemory(*(torch.full((1,), float(len(self.absorbed))) for _ in range(3))),)


@pytest.fixture
def clips():
    """Four clips of four chunks; the sentence of clip b and chunk k is the token 10 b + k."""
    frames = sum(chunk_place(chunk)[1] for chunk in range(CHUNKS))
    latents = torch.randn(4, 16, frames, 2, 2, generator=generator(1)).bfloat16()
    tokens = (10 * torch.arange(4)[:, None] + torch.arange(CHUNKS))[..., None].expand(-1, -1, 3)
    return Clips(latents, tokens, torch.ones(4, CHUNKS, 3, dtype=torch.bool))


ROWS = torch.arange(4)


def words(chunk):
    return 10.0 * ROWS + chunk


def test_a_flow_that_knows_the_truth_has_nothing_to_learn(clips):
    oracle = Oracle(clips)
    loss, parts = flow.flow_loss(oracle.learner, clips, ROWS, 1.0, generator())
    assert float(loss) < 1e-6
    assert set(parts) == {"first", "later"}
    assert [call.chunk for call in oracle.asked] == [0, 1, 2, 3]
    assert [call.chunk for call in oracle.absorbed] == [0, 1, 2]
    for call in oracle.asked:
        assert torch.equal(call.text.word, words(call.chunk))
        assert bool(((call.level > 0) & (call.level <= 1)).all())
        assert (call.memory is None) == (call.chunk == 0)
    for call in oracle.absorbed:
        assert torch.allclose(call.seen, clips.chunk(ROWS, call.chunk), atol=1e-4)  # its own estimate
        assert bool(((call.text.word == words(call.chunk)) | (call.text.word == words(call.chunk + 1))).all())


def test_a_flow_that_is_off_remembers_its_own_estimates_or_the_truth(clips):
    for share, off in ((1.0, 5.0), (0.0, 0.0)):
        oracle = Oracle(clips, off=5.0)
        loss, _ = flow.flow_loss(oracle.learner, clips, ROWS, share, generator())
        assert float(loss) > 1
        for call in oracle.absorbed:
            error = call.seen - clips.chunk(ROWS, call.chunk)
            assert float(error.mean()) == pytest.approx(off, abs=0.1)
            assert float(error.std()) < 0.2


def test_changes_of_sentence_are_absorbed_both_ways(clips):
    oracle = Oracle(clips)
    for seed in range(20):
        flow.flow_loss(oracle.learner, clips, ROWS, 1.0, generator(seed))
    new = torch.cat([call.text.word - words(call.chunk) for call in oracle.absorbed])
    assert 0.4 < float(new.mean()) < 0.6


def test_a_flow_learns_some_clips_without_their_words(clips):
    oracle = Oracle(clips)
    for seed in range(50):
        flow.flow_loss(oracle.learner, clips, ROWS, 1.0, generator(seed))
    lengths = torch.cat([call.text.mask.sum(1) for call in oracle.asked])
    assert float((lengths == 1).float().mean()) == pytest.approx(flow.WORDLESS, abs=0.06)


def test_levels_are_more_often_high():
    levels = flow.draw_levels(4000, 1, generator(), torch.device("cpu"))
    anywhere = levels[~torch.isin(levels, torch.tensor(flow.GRID).mul(1000).round() / 1000)]
    assert 0.7 < float(anywhere.median()) < 0.9


def run_streams(clips, oracle, seeds):
    for seed in seeds:
        stream = Stream(clips, ROWS, CHUNKS)
        chance, noise = random.Random(seed), generator(seed)
        while stream.chunk < stream.length:
            loss, _ = student.student_loss(oracle.learner, stream, noise, chance)
            yield float(loss)


def test_a_student_that_knows_the_truth_has_nothing_to_learn(clips):
    oracle = Oracle(clips)
    assert max(run_streams(clips, oracle, range(20))) < 1e-6
    assert [call.chunk for call in oracle.absorbed] == [0, 1, 2] * 20
    for call in oracle.asked:
        assert torch.equal(call.text.word, words(call.chunk))
        assert (call.memory is None) == (call.chunk == 0)
    # the memory of a window's end is what the next window continues from
    for number, call in enumerate(oracle.absorbed):
        if call.chunk:
            assert float(call.before[0].vk) == number
        else:
            assert call.before is None


def test_a_students_later_chunks_mostly_begin_from_noise_and_end_anywhere(clips):
    oracle = Oracle(clips)
    list(run_streams(clips, oracle, range(60)))
    starts, last = {True: [], False: []}, None
    for call in oracle.asked:
        level = round(float(call.level[0]), 3)
        if last is None or call.chunk != last.chunk:
            starts[call.chunk > 0].append(level)
        last = call
    later = torch.tensor(starts[True])
    assert float((later == 1).float().mean()) > 0.6
    assert {round(level, 3) for level in starts[True]} == {round(level, 3) for level in flow.GRID}


def test_a_student_walks_over_its_own_estimates(clips):
    """Off by 5, the estimates pull what is noised again: its mean is (1 - level) times theirs, and not the
    truth's.
    """
    still = Clips(torch.zeros_like(clips.latents), clips.tokens, clips.mask)
    oracle = Oracle(still, off=5.0)
    list(run_streams(still, oracle, range(40)))
    walked = [
        (after.x.mean().item(), after.level[0].item())
        for before, after in zip(oracle.asked, oracle.asked[1:], strict=False)
        if after.chunk == before.chunk and after.level[0] < before.level[0]
    ]
    assert len(walked) > 20
    for mean, level in walked:
        assert mean == pytest.approx(5 * (1 - level), abs=0.15)
    means = [call.seen.mean().item() for call in oracle.absorbed]
    assert {round(mean) for mean in means} == {0, 5}
    assert 0.3 < sum(mean > 2 for mean in means) / len(means) < 0.7


def test_streams_go_as_far_as_their_clips(clips):
    long = Clips(torch.zeros(2, 16, 1, 2, 2), torch.zeros(2, 24, 3), torch.ones(2, 24, 3))
    streams = student.Streams(clips, long, count=200, batch=2, seed=0)
    lengths = [stream.length for stream in streams.streams if stream.clips is long]
    assert min(lengths) == 4
    assert max(lengths) == 24
    assert 0.2 < 1 - len(lengths) / 200 < 0.5


@pytest.mark.parametrize("seed", range(8))
def test_first_chunks_learn_where_the_teacher_arrives(clips, monkeypatch, seed):
    """From pure noise over its own estimates (all 5 here); who says what the teacher says has nothing to
    learn.
    """
    still = Clips(torch.full_like(clips.latents, 5.0), clips.tokens, clips.mask)
    oracle, points = Oracle(still), []

    def taught(_, x, exit_, tokens, mask):
        points.append((x, exit_))
        return torch.full_like(x, 5.0)

    monkeypatch.setattr(student, "taught", taught)
    loss, _ = student.first_chunk_loss(
        oracle.learner, oracle.learner, still, ROWS, generator(seed), random.Random(seed)
    )
    assert float(loss) < 1e-6
    (x, exit_), levels = points[0], [float(call.level[0]) for call in oracle.asked]
    assert levels == pytest.approx(flow.GRID[: exit_ + 1])
    assert torch.equal(x, oracle.asked[-1].x)
    assert float(x.mean()) == pytest.approx(5 * (1 - levels[-1]), abs=0.1)
    oracle.off = 1.0
    loss, _ = student.first_chunk_loss(
        oracle.learner, oracle.learner, still, ROWS, generator(seed), random.Random(seed)
    )
    assert float(loss) == pytest.approx(1 / levels[-1] ** 2, rel=1e-3)
