"""The same numbers and laws on a CUDA device."""

import checks_stream
import pytest
import torch
from pack import Pack, assert_close, golden, same

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here"),
]
PACK = Pack()


@pytest.fixture(autouse=True)
def _exact():
    """float32 products in float32: TF32 keeps three digits."""
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False


@torch.no_grad()
def test_golden_on_the_device():
    g, model = golden("stream_global_windowall"), PACK.golden_model.to("cuda")
    memory = None
    for c, (start, end) in enumerate(((0, 3), (3, 5), (5, 7))):
        x, where = g["in_x"][:, :, start:end].cuda(), {"memory": memory, "first_frame": start}
        out = model(x, torch.full((2,), 500), g["in_y"].cuda(), g["in_mask"].cuda(), **where)
        assert_close(out.cpu(), g[f"out_c{c}_t500"], 1e-4)
        memory = model.absorb(x, g["in_y"], g["in_mask"], **where)
    PACK.golden_model.to("cpu")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("park", ["cpu", "cuda"])
def test_chained_is_single(dtype, park):
    model = PACK.tiny_model(head=112, heads=4).to("cuda", dtype)
    size = {"height": 64, "width": 96}
    single = checks_stream.run(
        PACK, model, checks_stream.begin(PACK, model, **size), plan=(3, 2, 2), park=park
    )
    chained = checks_stream.begin(PACK, model, **size)
    for length in (3, 2, 2):
        chained = checks_stream.run(PACK, model, chained, plan=(length,), park=park)
    checks_stream.assert_same_state(single, chained)
    assert {tensor.device.type for tensor in chained.tensors()} == {park}


@torch.no_grad()
def test_decode_on_the_device():
    """Streamed = whole, to the bit; and near the CPU's."""
    wan, demo = PACK.core("wan_vae"), PACK.core("demo_set")
    vae = demo.seeded(wan.WanVAE(wan.VAEConfig(base_width=16)), 0)
    latents = torch.randn(1, 16, 5, 8, 8, generator=torch.Generator().manual_seed(0))
    expected = vae.decode(latents)
    vae.to("cuda")
    whole = vae.decode(latents.cuda())
    pieces = torch.cat(list(vae.decode_stream(latents.cuda().split((1, 3, 1), dim=2))), dim=2)
    assert same(whole, pieces)
    assert_close(whole.cpu(), expected, 1e-3)
