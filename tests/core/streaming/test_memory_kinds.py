"""A block may remember something else: streams, states and their files know only `BlockMemory`."""

from dataclasses import replace
from types import MethodType
from typing import NamedTuple

import pytest
import torch
from comfyui_sana_video.sana_video_core.streaming import state_file
from comfyui_sana_video.sana_video_core.transformer.memory import MemorySize, SumMemory, block_memory
from support.checks_stream import assert_same_state, begin, run
from support.pack import Pack

PACK = Pack()


class Recurrent(NamedTuple):
    """A state that decays, as a gated delta net's: no sums, no tail."""

    S: torch.Tensor  # [B, A, d, d]
    area: torch.Tensor

    @property
    def size(self):
        return MemorySize(*self.S.shape[:3], int(self.area))

    @property
    def window(self):
        return None

    def named_tensors(self):
        return {"S": self.S, "area": self.area}

    def to(self, device):
        return Recurrent(self.S.to(device), self.area.to(device))

    def advance(self, contribution):
        return Recurrent(0.5 * self.S + contribution.S, self.area)

    def check(self, size, chunks):
        if list(self.S.shape) != [size.batch, size.heads, size.head_dim, size.head_dim]:
            raise ValueError(f"S is of shape {list(self.S.shape)}")


class Step(NamedTuple):
    S: torch.Tensor
    area: torch.Tensor

    def begin(self, window):
        return Recurrent(self.S, self.area)


@pytest.fixture
def model(monkeypatch):
    """Its second block is of the other kind; the first keeps sums and a tail."""
    model = PACK.tiny_model()
    block = model.blocks[1]

    def forward(self, x, modulation, text, bias, context, memory):
        out, contribution = type(self).forward(self, x, modulation, text, bias, context, None)
        out = out if memory is None else out + memory.S.mean()
        return out, Step(contribution.sums.vk, torch.tensor(context.grid.area))

    block.forward = MethodType(forward, block)
    monkeypatch.setattr(
        state_file,
        "block_memory",
        lambda tensors, window: Recurrent(**tensors) if "S" in tensors else block_memory(tensors, window),
    )
    return model


def test_blocks_of_two_kinds_stream_are_saved_and_continue(model, tmp_path):
    state = run(PACK, model, begin(PACK, model), plan=(3, 2))
    assert [type(block) for block in state.memory] == [SumMemory, Recurrent]
    whole = run(PACK, model, state, "b", plan=(2,))  # recache: from the memory before
    path = tmp_path / "state.safetensors"
    state_file.save_state(state, path)
    loaded = state_file.load_state(path)
    assert_same_state(loaded, state)
    assert_same_state(run(PACK, model, loaded, "b", plan=(2,)), whole)
    assert state.bytes == loaded.to("cpu").bytes > 0


def test_a_file_of_the_other_kind_is_checked_by_that_kind(model, tmp_path):
    state = run(PACK, model, begin(PACK, model), plan=(3,))
    path = tmp_path / "state.safetensors"
    wrong = state.memory[1]._replace(S=state.memory[1].S[..., :2].contiguous())
    state_file.save_state(replace(state, memory=(state.memory[0], wrong)), path)
    with pytest.raises(PACK.core("errors").FileError, match=r"memory\.1\.S is of shape"):
        state_file.load_state(path)
