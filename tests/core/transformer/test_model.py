"""The network: parity with the original's numbers, and refusals."""

import pytest
import torch
from support import checks_model
from support.pack import Pack, assert_close

PACK = Pack()
errors = PACK.core("errors")


@pytest.mark.parametrize("check", checks_model.MODEL_CHECKS, ids=lambda check: check.__name__)
def test_parity(check):
    check(PACK)


def _inputs(batch=1, frames=2, rows=4, columns=6):
    return torch.zeros(batch, 16, frames, rows, columns), torch.zeros(batch), torch.zeros(1, 5, 24)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"latents": torch.zeros(1, 4, 2, 4, 6)}, "16"),
        ({"latents": torch.zeros(1, 16, 2, 5, 6)}, "patches of 2"),
        ({"latents": torch.zeros(16, 2, 4, 6)}, "latent frames, rows, columns"),
        ({"latents": torch.zeros(1, 16, 2, 0, 6)}, "rows, columns"),
        ({"latents": torch.zeros(0, 16, 2, 4, 6), "timesteps": torch.zeros(0)}, "batch"),
        ({"timesteps": torch.zeros(3)}, "one per clip"),
        ({"text": torch.zeros(1, 5, 23)}, "Gemma"),
        ({"text": torch.zeros(3, 5, 24)}, "3 prompts"),
        ({"text_mask": torch.ones(1, 4)}, "one mask entry"),
        ({"first_frame": 1023}, "room for 1 more"),
        ({"first_frame": -1}, "start at 0"),
    ],
)
def test_impossible_input_is_refused_in_words(change, words):
    model = PACK.tiny_model()
    latents, timesteps, text = _inputs()
    call = {"latents": latents, "timesteps": timesteps, "text": text, "text_mask": None, **change}
    with pytest.raises(errors.InputError, match=words):
        model(**call)


def test_memory_of_another_size_or_model_is_refused():
    model, other = PACK.tiny_model(), PACK.tiny_model(head=40, heads=2)
    latents, timesteps, text = _inputs()
    memory = model.absorb(latents, text)
    for wrong in (torch.zeros(1, 16, 2, 6, 6), torch.zeros(2, 16, 2, 4, 6)):
        with pytest.raises(errors.StateError, match="another model, size or batch"):
            model(wrong, torch.zeros(len(wrong)), text, memory=memory)
    with pytest.raises(errors.StateError):
        other(latents, timesteps, text, memory=memory)
    with pytest.raises(errors.StateError, match="0 blocks"):
        model(latents, timesteps, text, memory=())
    with pytest.raises(errors.StateError, match="no window"):
        model.absorb(latents, text, memory=memory, window=2)
    with pytest.raises(errors.InputError, match="at least 1"):
        model.absorb(latents, text, window=0)


def test_prepared_text_of_another_model_is_refused():
    latents, timesteps, text = _inputs()
    prepared = PACK.tiny_model(depth=1).prepare_text(text)
    with pytest.raises(errors.InputError, match="1 blocks"):
        PACK.tiny_model(depth=2)(latents, timesteps, prepared)
    with pytest.raises(errors.InputError, match="60 wide, but the model has 1, 40 wide"):
        PACK.tiny_model(depth=1, heads=2)(latents, timesteps, prepared)
    with pytest.raises(errors.InputError, match="carries its mask"):
        PACK.tiny_model(depth=1)(latents, timesteps, prepared, torch.ones(1, 5))


def test_positions_do_not_ask_for_the_default_device():
    positions, grid = PACK.core("transformer.positions"), PACK.core("shapes").LatentGrid(2, 3)
    truth = positions.rotary_table(2, grid, (8, 6, 6), 5, torch.device("cpu"))
    with torch.device("meta"):
        table = positions.rotary_table(2, grid, (8, 6, 6), 5, torch.device("cpu"))
    assert all(map(torch.equal, table, truth))


@torch.no_grad()
def test_timesteps_per_latent_frame():
    """[B, F] with one value everywhere is [B]; a different frame 0 changes its own modulation."""
    model = PACK.tiny_model()
    x = torch.randn(2, 16, 3, 4, 6, generator=torch.Generator().manual_seed(0))
    text = torch.randn(1, 5, 24, generator=torch.Generator().manual_seed(1))
    t = torch.tensor([700.0, 300.0])
    whole = model(x, t, text)
    per_frame = t[:, None].expand(2, 3).clone()
    assert_close(model(x, per_frame, text), whole, 1e-5)
    per_frame[:, 0] = 0
    assert (model(x, per_frame, text) - whole).abs().max() > 1e-3


@torch.no_grad()
def test_window_of_many_chunks_forgets_the_oldest():
    """A window larger than the past is the whole past; W = 2 after three chunks sums the last two."""
    model = PACK.tiny_model()
    x = torch.randn(1, 16, 4, 4, 6, generator=torch.Generator().manual_seed(0))
    text = torch.randn(1, 5, 24, generator=torch.Generator().manual_seed(1))
    wide = whole = two = None
    seen = []
    for f in range(4):
        piece = x[:, :, f : f + 1]
        wide = model.absorb(piece, text, memory=wide, first_frame=f, window=9)
        whole = model.absorb(piece, text, memory=whole, first_frame=f)
        two = model.absorb(piece, text, memory=two, first_frame=f, window=2)
        seen.append(two[0].sums[-1].vk)
        assert len(two[0].sums) == min(f + 1, 2)
    assert torch.allclose(wide[1].past.vk, whole[1].vk, rtol=1e-5, atol=1e-5)
    assert torch.equal(two[0].past.vk, seen[2] + seen[3])
    assert (
        model.absorb(x[:, :, :1], text, memory=two, first_frame=4)[0].window == 2
    )  # a memory keeps its window


def test_state_size_at_480p():
    """152.6 MiB at 480 x 832 in bfloat16: counted on the meta device at the true sizes."""
    config, memory = PACK.core("config"), PACK.core("transformer.memory")
    family = config.LONGSANA_480P
    with torch.device("meta"):
        model = PACK.core("transformer.model").SanaVideo(family.config, family, dtype=torch.bfloat16)
        latents = torch.zeros(1, 16, 1, *family.compression.grid(480, 832))
        after = model.absorb(latents, torch.zeros(1, 300, 2304))
    assert sum(p.numel() for p in model.parameters()) == 2_056_862_144
    assert round(memory.memory_bytes(after) / 2**20, 1) == 152.6


@torch.no_grad()
def test_a_large_feed_forward_is_split_over_latent_frames(monkeypatch):
    """Beyond the limit of 32-bit indices, in pieces that stay below it; the result is the same."""
    model, layers = PACK.tiny_model(), PACK.core("transformer.layers")
    latents, text = (
        torch.randn(2, 16, 5, 4, 6, generator=torch.Generator().manual_seed(0)),
        torch.ones(1, 5, 24),
    )
    expected = model(latents, torch.zeros(2), text)
    pieces = []
    model.blocks[0].mlp.inverted_conv.register_forward_hook(lambda *call: pieces.append(call[2].shape))
    model(latents, torch.zeros(2), text)
    assert [shape[0] for shape in pieces] == [10]
    pieces.clear()
    monkeypatch.setattr(layers, "FEED_FORWARD_LIMIT", 4 * pieces_of_one_frame(model) + 1)
    assert_close(model(latents, torch.zeros(2), text), expected, 1e-5)
    assert [shape[0] for shape in pieces] == [4, 4, 2]


def pieces_of_one_frame(model) -> int:
    """Elements of one latent frame of 2 x 3 tokens at the widest place."""
    return 2 * model.config.ffn_hidden * 6


# ---------------------------------------------------------------- padding


def _masked(*lengths, tokens=7):
    return torch.arange(tokens)[None] < torch.tensor(lengths)[:, None]


@pytest.mark.parametrize("kernels", ["reference", "auto"])
@pytest.mark.parametrize(
    ("lengths", "kept", "masked"), [((3, 3), 3, False), ((5, 2), 5, True), ((7, 7), 7, False)]
)
@torch.no_grad()
def test_padding_is_left_out_and_weighs_nothing(lengths, kept, masked, kernels):
    model, generator = PACK.tiny_model(), torch.Generator().manual_seed(0)
    model.kernels = kernels
    text = torch.randn(2, 7, 24, generator=generator)
    x, t, mask = torch.randn(2, 16, 2, 4, 6, generator=generator), torch.full((2,), 500), _masked(*lengths)
    prepared = model.prepare_text(text, mask)
    assert prepared.blocks[0].keys.shape[2] == kept
    assert (prepared.bias is not None) == masked
    alone = [model(x[i : i + 1], t[:1], text[i : i + 1, :n]) for i, n in enumerate(lengths)]
    assert_close(model(x, t, text, mask), torch.cat(alone), 1e-5)
    other = torch.where(mask[..., None], text, torch.full_like(text, 9.0))
    assert_close(model(x, t, other, mask), torch.cat(alone), 1e-5)


@torch.no_grad()
def test_masks_that_are_no_padding_stay():
    """Text behind a gap, or none at all."""
    model = PACK.tiny_model()
    text = torch.randn(2, 7, 24, generator=torch.Generator().manual_seed(0))
    gap = _masked(7, 7)
    gap[0, 2] = False
    same_gap = _masked(6, 6)
    same_gap[:, 1] = False  # as many words in every row as in one without a gap
    for mask in (gap, same_gap, _masked(0, 4)):
        prepared = model.prepare_text(text, mask)
        assert prepared.blocks[0].keys.shape[2] == 7
        assert prepared.bias is not None
