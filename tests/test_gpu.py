"""The same results and laws on a CUDA device."""

from functools import partial

import pytest
import torch
from support import checks_stream, ltx_twins
from support.pack import Pack, assert_close, golden, same
from support.sana2 import golden2, model2
from support.tiny_files import tiny_weights

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here"),
]
PACK = Pack()


@pytest.fixture(autouse=True)
def _exact():
    """float32 GEMMs in float32: TF32 keeps three digits."""
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
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_chained_is_single(dtype, device):
    model = PACK.tiny_model(head=112, heads=4).to("cuda", dtype)
    size = {"height": 64, "width": 96}
    single = checks_stream.run(
        PACK, model, checks_stream.begin(PACK, model, **size), plan=(3, 2, 2), device=device
    )
    chained = checks_stream.begin(PACK, model, **size)
    for length in (3, 2, 2):
        chained = checks_stream.run(PACK, model, chained, plan=(length,), device=device)
    checks_stream.assert_same_state(single, chained)
    assert {tensor.device.type for tensor in chained.tensors()} == {device}


@torch.no_grad()
def test_decode_on_the_device():
    """Streamed is bit-identical to whole; both are close to the CPU's."""
    wan_vae, demo = PACK.core("vae.wan_vae"), PACK.module("demo.model_set")
    vae = demo.seeded(wan_vae.WanVAE(wan_vae.VAEConfig(base_width=16)), 0)
    latents = torch.randn(1, 16, 5, 8, 8, generator=torch.Generator().manual_seed(0))
    expected = vae.decode(latents)
    vae.to("cuda")
    whole = vae.decode(latents.cuda())
    pieces = torch.cat(list(vae.decode_stream(latents.cuda().split((1, 3, 1), dim=2))), dim=2)
    assert same(whole, pieces)
    assert_close(whole.cpu(), expected, 1e-3)


@pytest.mark.parametrize("kind", ["taew2_1", "lighttaew2_1"])
def test_drafts_on_the_device(kind):
    """Any cut gives the same bits, in both types; float32 is close to the CPU's."""
    decoder = PACK.core("vae.tiny_decoder").TinyDecoder(kind)
    decoder.load_state_dict({n: t for n, t in tiny_weights().items() if n.startswith("decoder.")})
    latents = torch.randn(1, 16, 5, 8, 8, generator=torch.Generator().manual_seed(0))
    expected = torch.cat(list(decoder.decode_stream(latents)), dim=2)
    for dtype, allowed in ((torch.float32, 1e-3), (torch.bfloat16, 0.5)):
        decoder.to("cuda", dtype)
        whole = torch.cat(list(decoder.decode_stream(latents.cuda())), dim=2)
        pieces = torch.cat(list(decoder.decode_stream(latents.cuda().split((1, 3, 1), dim=2))), dim=2)
        assert same(whole, pieces)
        assert_close(whole.cpu(), expected, allowed)


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_fused_vae(dtype):
    """Fused decoder and encoder: no further from float64 than plain layers, and the same in pieces."""
    wan_vae, demo = PACK.core("vae.wan_vae"), PACK.module("demo.model_set")
    vae = demo.seeded(wan_vae.WanVAE(wan_vae.VAEConfig(base_width=32)), 0)
    latents = torch.randn(2, 16, 4, 6, 10, generator=torch.Generator().manual_seed(0))
    pixels = torch.rand(2, 3, 9, 48, 80, generator=torch.Generator().manual_seed(1)) * 2 - 1
    vae.to("cuda", torch.float64)
    truths = vae.decode(latents.double().cuda()), vae.encode(pixels.double().cuda())
    vae.to(dtype)
    errors = {}
    for vae.kernels in ("reference", "triton"):
        made = vae.decode(latents.cuda()), vae.encode(pixels.cuda())
        errors[vae.kernels] = [_relative(*pair) for pair in zip(made, truths, strict=True)]
    for fused, plain in zip(errors["triton"], errors["reference"], strict=True):
        assert fused <= max(1.1 * plain, 3e-6), errors
    pieces = list(vae.decode_stream(latents.cuda().split((1, 2, 1), dim=2)))
    assert same(torch.cat(pieces, dim=2), made[0])
    tiling = PACK.core("vae.tiling").Tiling(tile=4, overlap=2)
    tiled = list(vae.decode_stream(latents.cuda().split(2, dim=2), tiling=tiling))
    assert same(torch.cat(tiled, dim=2), vae.decode(latents.cuda(), tiling=tiling))


@torch.no_grad()
@pytest.mark.parametrize("version, causal", [("ltx2", False), ("ltx2", True), ("ltx23", False)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_fused_ltx_vae(version, causal, dtype, monkeypatch):
    """As above, and however its convolutions read three frames."""
    twins, layers = ltx_twins, PACK.core("vae.ltx_fused_layers")
    size = twins.SIZES[version]
    wide = {name: tuple(4 * width for width in size[name]) for name in ("encoder_widths", "decoder_widths")}
    network = PACK.core("vae.ltx_vae").LtxVAE(
        PACK.core("vae.ltx_config").LtxConfig(**size | wide, causal=causal)
    )
    vae = PACK.module("demo.model_set").seeded(network, 0)
    vae.decoder.conv_out.conv.weight.mul_(0.3)
    latents, pixels = twins.latents(6, 3, 5, batch=2), twins.pixels(17, 3, 5, batch=2)
    vae.to("cuda", torch.float64)
    truths = vae.decode(latents.cuda()), vae.encode(pixels.cuda())
    vae.to(dtype)
    versions = ("reference", 0), ("triton", 256), ("triton", 128), ("triton", 0)
    errors = {}
    for vae.kernels, widest in versions:
        monkeypatch.setattr(layers, "WIDEST_PAIRED", widest)
        monkeypatch.setattr(layers, "WIDEST_STACKED", min(widest, 128))
        made = vae.decode(latents.cuda().to(dtype)), vae.encode(pixels.cuda().to(dtype))
        errors[widest if vae.kernels == "triton" else vae.kernels] = [
            _relative(*pair) for pair in zip(made, truths, strict=True)
        ]
        pieces = list(vae.decode_stream(latents.cuda().to(dtype).split((1, 2, 3), dim=2)))
        assert same(torch.cat(pieces, dim=2), made[0])
    for widest in (256, 128, 0):
        for fused, plain in zip(errors[widest], errors["reference"], strict=True):
            assert fused <= max(1.1 * plain, 1e-5), errors


@torch.no_grad()
def test_the_memory_of_a_fused_ltx_decoder():
    """At full size: flat in length, and within what is asked for."""
    vae = PACK.core("vae.ltx_vae").LtxVAE(
        PACK.core("vae.ltx_config").LtxConfig(), device="cuda", dtype=torch.bfloat16
    )
    vae.requires_grad_(False)
    for parameter in vae.parameters():
        parameter.normal_(std=0.02)
    peaks = []
    for length in (7, 15):
        held = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        latents = torch.randn(1, 128, length, 22, 40, device="cuda", dtype=torch.bfloat16)
        for frames in vae.decode_stream(latents):
            assert frames.isfinite().all()
        peaks.append(torch.cuda.max_memory_allocated() - held)
    assert peaks[1] < 1.05 * peaks[0]
    assert (
        peaks[1]
        < vae.memory_for(1, PACK.core("shapes").LatentGrid(22, 40), torch.device("cuda"))
        < 3.5 * 2**30
    )


@pytest.mark.parametrize("device", ["cuda:0", "cuda:1"])
@pytest.mark.parametrize("precision", ["full", "fp8"])
def test_recorded_passes(precision, device):
    """A stream whose passes are replayed has the bits of one whose passes run, under another prompt, too."""
    if torch.device(device).index >= torch.cuda.device_count():
        pytest.skip("needs two GPUs")
    graphs = PACK.core("transformer.pass_graphs")
    recorder = partial(graphs.GpuRecorder, torch.device(device))
    model = PACK.tiny_model(head=112, heads=4).to(device, torch.bfloat16)
    model.precision = precision
    states, plan = [], (3, 2, 2, 2, 2)
    for model.graphs in (None, graphs.PassGraphs(recorder)):
        state = checks_stream.begin(PACK, model, height=64, width=96)
        for text in "ab":
            state = checks_stream.run(PACK, model, state, text, plan=plan, device=device)
        states.append(state)
    checks_stream.assert_same_state(*states)


# --- kernels


def _kernels(name):
    return tuple(PACK.module(f"kernels.{name}.{part}") for part in ("reference", "triton_kernel"))


def _relative(result, truth):
    assert result.isfinite().all()
    return float((result.double() - truth.double()).norm() / truth.double().norm())


def _close(fast, plain, arguments, dtype, floor=0.0):
    """As close to float64 as the dtype allows, no worse than the plain version, and bit-identical twice."""
    double = [x.double() if isinstance(x, torch.Tensor) else x for x in arguments]
    truth, result, again, other = plain(*double), fast(*arguments), fast(*arguments), plain(*arguments)
    for t, f, a, o in zip(
        *(x if isinstance(x, tuple) else (x,) for x in (truth, result, again, other)), strict=True
    ):
        assert same(f, a), "two runs differ"
        assert _relative(f, t) <= max(1.1 * _relative(o, t), 2e-6 if dtype is torch.float32 else floor)


def _draw(*shapes, dtype):
    return [torch.randn(shape, device="cuda").to(dtype) for shape in shapes]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_residual_norm(dtype):
    plain, fast = _kernels("residual_norm")
    for batch, tokens, groups, width in ((1, 1, 1, 16), (2, 6, 3, 2240), (3, 65, 1, 112)):
        rows, table = (batch, tokens, width), (batch, groups, width)
        x, branch, gate, shift, scale, bias = _draw(rows, rows, table, table, table, (width,), dtype=dtype)
        for arguments in ((x, None, None), (x, branch, None), (x, branch, gate)):
            _close(fast.residual_norm, plain.residual_norm, (*arguments, shift, scale, 1e-6), dtype)
        _close(fast.residual_norm, plain.residual_norm, (x, None, None, shift, scale, 1e-6, bias), dtype)
        _close(fast.gated_residual, plain.gated_residual, (x, branch, gate, x), dtype)
        _close(fast.gated_residual, plain.gated_residual, (x, branch, gate, x, bias), dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_causal_frames(dtype):
    plain, fast = _kernels("causal_frames")
    for batch, steps, rows, columns, channels in ((1, 1, 2, 2, 8), (2, 2, 6, 10, 96), (1, 4, 30, 52, 384)):
        picture = (rows, columns, channels)
        x, residual, past = _draw(
            (batch, steps, *picture), (batch, steps, *picture), (batch, 2, *picture), dtype=dtype
        )
        gamma, bias = _draw((channels,), (channels,), dtype=dtype)
        small = _draw((batch, steps, rows // 2 + 1, columns // 2 + 1, 4 * channels), dtype=dtype)[0]
        every = [plain.Parts(x, bias, residual), plain.Parts(small, bias, None, True)]
        if steps > 1:
            every.append(plain.Parts(tuple(_draw(*[(batch, steps // 2, *picture)] * 4, dtype=dtype)), bias))
        for parts in every:
            _same_frames(plain.causal_frames, fast.causal_frames, (parts, past, gamma), stacked=True)
            _same_frames(plain.causal_frames, fast.causal_frames, (parts, None, None), want_total=True)
            if steps > 1:
                _same_frames(plain.paired_frames, fast.paired_frames, (parts, past, gamma), want_total=True)


def _same_frames(plain, fast, arguments, **options):
    outs, again, truths = (version(*arguments, **options) for version in (fast, fast, plain))
    for out, other, truth in zip(outs, again, truths, strict=True):
        assert (out is None) == (truth is None)
        if truth is not None:
            assert same(out, other), "two runs differ"
            assert _relative(out, truth) <= {torch.float32: 2e-6, torch.float16: 1e-3}.get(truth.dtype, 8e-3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_tap_sum(dtype):
    plain, fast = _kernels("tap_sum")
    planes, bias = _draw((3, 3, 3, 3, 2, 4, 23, 31), (3,), dtype=dtype)
    _close(fast.sum_of_taps, plain.sum_of_taps, (planes, bias), dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_gated_depthwise(dtype):
    plain, fast = _kernels("gated_depthwise")
    for images, rows, columns, hidden in (
        (1, 1, 1, 8),
        (2, 5, 7, 66),
        (1, 1, 9, 130),
        (2, 22, 40, 256),
        (1, 30, 52, 64),
    ):
        wide = 2 * hidden
        arguments = _draw((images, rows * columns, wide), (wide,), (wide, 1, 3, 3), (wide,), dtype=dtype)
        _close(fast.gated_depthwise, plain.gated_depthwise, (*arguments, rows, columns), dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("carried", [False, True])
def test_linear_attention(dtype, carried):
    plain, fast = _kernels("linear_attention")
    for batch, tokens, heads, size in (
        (1, 1, 1, 48),
        (2, 63, 2, 112),
        (3, 1560, 1, 20),
        (1, 3001, 20, 112),
        (1, 70, 1, 128),
    ):
        width, angles = heads * size, torch.randn(tokens, size // 2, device="cuda")
        sums = (batch, heads, size, size), (batch, heads, size)
        past = None
        if carried:
            vk, ksum = _draw(*sums, dtype=torch.float32)
            past = plain.KeyValueSum(vk * tokens**0.5, ksum.abs() * tokens)
        shapes = (batch, tokens, 3 * width), (width,), (width,), (width, width)
        arguments = _draw(*shapes, dtype=dtype)
        arguments[3] *= width**-0.5

        def run(version, angles=angles, past=past, heads=heads):
            def call(qkv, q, k, projection):
                rotary = angles.cos(), angles.sin()
                added = version.key_value_sum(qkv, k, rotary, heads, 1e-5)
                total = added if past is None else past + added
                queries = version.query_rows(qkv, q, rotary, total.ksum, heads, 1e-5, 1e-8)
                if version is fast:
                    return torch.bmm(queries, fast.folded_weight(projection, total).mT), *added
                # folding is compared with this: the sums read in float32, rounded, projected
                return plain.read_rows(queries, total) @ projection.T, *added

            return call

        # a single token is its own value, which plain rounding hits by chance
        floor = 2**-7 if tokens == 1 else 0.0
        _close(run(fast), run(plain), arguments, dtype, floor)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_residual_mix(dtype):
    """Every part, at the width of the 5B model and at one that no tile fits."""
    plain, fast = _kernels("residual_mix")
    for batch, tokens, groups, width, others in ((1, 1, 1, 16, 0), (2, 66, 3, 2560, 4), (3, 5, 1, 600, 5)):
        rows, table = (batch, tokens, width), (batch, groups, width)
        drawn = _draw(rows, rows, rows, table, table, table, (3, width), *[rows] * others, dtype=dtype)
        x, branch, extra, gate, shift, scale, readers, *values = drawn
        kept = _draw(*[(batch, tokens, 3)] * others, dtype=torch.float32)
        for parts in ((None, None, None), (branch, gate, None), (branch, gate, extra), (branch, None, None)):

            def run(version, *tensors, parts=parts, kept=kept):
                x, readers, shift, scale, *values = tensors
                sources = [plain.Source(*pair) for pair in zip(values, kept, strict=True)]
                added = [part if part is None else part.to(x.dtype) for part in parts]
                mixed = version(x, *added, sources, readers, 1, shift, scale, 1e-6, 1e-6, True, True)
                return tuple(mixed)

            arguments = (x, readers * width**-0.5, shift, scale, *values)
            _close(partial(run, fast.residual_mix), partial(run, plain.residual_mix), arguments, dtype, 2**-8)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_gated_attention(dtype):
    plain, fast = _kernels("gated_attention")
    for batch, tokens, heads, size in ((1, 1, 1, 48), (2, 63, 2, 14), (1, 3001, 20, 128), (1, 70, 10, 256)):
        width, angles = heads * size, torch.randn(tokens, size // 2, device="cuda")
        rows = (batch, tokens, width)
        qkv, weight, strength = _draw(
            (batch, tokens, 3 * width), (width,), (batch, tokens, heads), dtype=dtype
        )
        for which, strong in ((0, None), (1, strength)):

            def run(version, qkv, weight, which=which, strong=strong, angles=angles, heads=heads):
                strong = None if strong is None else strong.to(qkv.dtype)
                rotary = angles.cos(), angles.sin()
                return version.rotated_rows(qkv, which, weight, rotary, heads, 1e-5, strong)

            _close(partial(run, fast), partial(run, plain), (qkv, weight), dtype, 2**-8)
        if size > 128:
            continue  # a softmax layer's
        keys, queries, gate, norm = _draw(rows, rows, rows, (size,), dtype=dtype)
        values = qkv[..., 2 * width :]

        def sums(version, keys, values, heads=heads):
            return version.key_value_product(keys, values, heads)

        _close(partial(sums, fast), partial(sums, plain), (keys, values), dtype, 2e-6)
        total = plain.key_value_product(keys, values, heads)

        def read(version, queries, norm, gate, total=total):
            return version.gated_heads(queries, total, norm, gate, 1e-5)

        _close(partial(read, fast), partial(read, plain), (queries, norm, gate), dtype, 2**-8)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", ["silu_product", "sigmoid_product"])
def test_gated_product(dtype, name):
    plain, fast = (getattr(version, name) for version in _kernels("gated_product"))
    for shape in ((1, 16), (3, 7, 2560), (65, 10240)):
        _close(fast, plain, _draw(shape, shape, dtype=dtype), dtype, 2**-8)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_temporal_taps(dtype):
    plain, fast = _kernels("temporal_taps")
    for shape in ((1, 1, 3, 1), (33, 70, 3, 1), (2240, 2240, 3, 1)):
        (weight,) = _draw(shape, dtype=dtype)
        assert torch.equal(fast.temporal_taps(weight), plain.temporal_taps(weight))


@pytest.mark.parametrize("head", [20, 112, 128])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_trial_passes(dtype, head):
    trial, device = PACK.module("kernels.trial"), torch.device("cuda", torch.cuda.current_device())
    assert trial.kernel_trial(device, dtype, head) == ""
    assert trial.gated_trial(device, dtype, (head, 2 * head)) == ""
    if torch.cuda.get_device_capability() >= PACK.module("kernels.dispatch").FP8_CAPABILITY:
        assert trial.fp8_trial(device) == ""


def _eight_bits():
    if torch.cuda.get_device_capability() < PACK.module("kernels.dispatch").FP8_CAPABILITY:
        pytest.skip("this GPU has no GEMMs in 8 bits")


def test_rows_in_8_bits():
    """The plain version's values, but for ties that a reciprocal rounds in another way than a division."""
    _eight_bits()
    plain, fast = _kernels("fp8_gemm")
    for shape in ((1, 16), (5, 2240), (3, 7, 6720)):
        (x,) = _draw(shape, dtype=torch.bfloat16)
        x.view(-1, shape[-1])[0] = 0
        truth, result = plain.fp8_rows(x), fast.fp8_rows(x)
        assert_close(result.scales, truth.scales, 1e-6)
        assert (result.values.float() != truth.values.float()).float().mean() < 1e-3
        assert not result.values[..., 0].float().isnan().any()
    (frames,) = _draw((5, 6, 112), dtype=torch.bfloat16)
    truth, result = plain.fp8_taps(frames), fast.fp8_taps(frames)
    assert (result.values.float() != truth.values.float()).float().mean() < 1e-3
    plain, fast = _kernels("residual_norm")
    x, branch, table = _draw((2, 6, 2240), (2, 6, 2240), (2, 3, 2240), dtype=torch.bfloat16)
    for name, arguments in (
        ("residual_norm_fp8", (x, branch, table, table, table, 1e-6)),
        ("gated_residual_fp8", (x, branch, table)),
    ):
        double = [part.double() if isinstance(part, torch.Tensor) else part for part in arguments]
        truth = getattr(plain, name.removesuffix("_fp8"))(*double)
        truth = truth[1] if isinstance(truth, tuple) else truth
        (kept, rows), (carried, result) = getattr(plain, name)(*arguments), getattr(fast, name)(*arguments)
        assert _relative(carried, kept) < 0.01
        errors = [_relative(part.values.double() * part.scales, truth) for part in (result, rows)]
        assert errors[0] <= 1.02 * errors[1] < 0.04


def test_products_and_mixes_in_8_bits():
    """No further from float64 than the plain version, which rounds twice."""
    _eight_bits()
    plain, fast = _kernels("gated_product")
    arguments = _draw((5, 10240), (5, 10240), dtype=torch.bfloat16)
    for name in ("silu_product", "sigmoid_product"):
        truth = getattr(plain, name)(*(part.double() for part in arguments))
        made = [getattr(version, f"{name}_fp8")(*arguments) for version in (fast, plain)]
        errors = [_relative(rows.values.double() * rows.scales, truth) for rows in made]
        assert errors[0] <= 1.02 * errors[1] < 0.04
    plain, fast = _kernels("residual_mix")
    x, other, table, readers = _draw(
        (2, 6, 2560), (2, 6, 2560), (2, 3, 2560), (3, 2560), dtype=torch.bfloat16
    )
    sources = [plain.Source(other, torch.randn(2, 6, 3, device="cuda"))]
    arguments = (x, other, table, None, sources, readers * 2560**-0.5, 0, table, table, 1e-6, 1e-6)
    whole = fast.residual_mix(*arguments)
    made = fast.residual_mix_fp8(*arguments)
    assert same(made.newest, whole.newest)
    assert _relative(made.h.values.double() * made.h.scales, whole.h.double()) < 0.04


def test_gemm_in_8_bits():
    """The GEMM of the rounded values, except for sums in 14 bits and a result in bf16."""
    _eight_bits()
    plain, fast = _kernels("fp8_gemm")
    for m, k, n in ((1, 16, 16), (65, 2240, 6720), (1560, 6720, 2240)):
        x, weight, bias = _draw((m, k), (n, k), (n,), dtype=torch.bfloat16)
        rows, ready = plain.fp8_rows(x), plain.fp8_rows(weight)
        truth = plain.fp8_gemm(rows, ready, bias, torch.float32)
        result = fast.fp8_gemm(rows, ready, bias, torch.bfloat16)
        assert _relative(result, truth) < 4e-3
        assert same(result, fast.fp8_gemm(rows, ready, bias, torch.bfloat16, torch.empty_like(result)))


@torch.no_grad()
def test_network_in_8_bits():
    """Close to the plain one in float64, bit-identical twice, and only on request."""
    _eight_bits()
    model = PACK.tiny_model(head=112, heads=4).to("cuda")
    x, text = torch.randn(2, 16, 5, 8, 12, device="cuda"), torch.randn(2, 7, 24, device="cuda")
    t = torch.tensor([300, 800], device="cuda")
    truth = model.double()(x.double(), t, text.double())
    model.bfloat16()
    full = model(x, t, text)
    model.precision = "fp8"
    result, again = model(x, t, text), model(x, t, text)
    assert same(result, again)
    assert 2 * _relative(full, truth) < _relative(result, truth) < 0.1


def test_offsets_beyond_32_bits():
    """2.2 billion elements: the last image must equal itself alone."""
    if torch.cuda.mem_get_info()[0] < 20 * 2**30:
        pytest.skip("needs 20 GiB of free GPU memory")
    _, fast = _kernels("gated_depthwise")
    u = torch.empty(104, 1560, 13440, device="cuda", dtype=torch.bfloat16).normal_()
    bias_up, weight, bias = _draw((13440,), (13440, 1, 3, 3), (13440,), dtype=torch.bfloat16)
    result = fast.gated_depthwise(u, bias_up, weight, bias, 30, 52)
    assert u.numel() > 2**31
    assert same(result[-1:], fast.gated_depthwise(u[-1:].clone(), bias_up, weight, bias, 30, 52))


@torch.no_grad()
def test_a_compiler_reads_the_network():
    """The plain network compiles; and tables of positions reach a GPU that is the default device."""
    model = PACK.tiny_model(head=20, heads=3).to("cuda")
    x, text = torch.randn(1, 16, 3, 4, 6, device="cuda"), torch.randn(1, 7, 24, device="cuda")
    t = torch.tensor([300], device="cuda")
    model.kernels = "reference"
    truth = model(x, t, text)
    assert_close(torch.compile(model, backend="eager")(x, t, text), truth, 1e-5)
    with torch.device("cuda"):
        assert_close(model(x, t, text), truth, 1e-5)


@pytest.mark.parametrize("head", [20, 112])
@torch.no_grad()
def test_fused_network_is_the_plain_one(head):
    model = PACK.tiny_model(head=head, heads=4).to("cuda")
    x = torch.randn(2, 16, 5, 8, 12, device="cuda")
    text = torch.randn(2, 7, 24, device="cuda")
    t = torch.tensor([[0, 1, 2, 3, 4], [9, 9, 9, 9, 9]], device="cuda") * 90
    results = {}
    for model.kernels in ("reference", "triton"):
        memory = model.absorb(x, text)
        results[model.kernels] = [model(x, t, text), model(x, t, text, memory=memory, first_frame=5)]
        results[model.kernels] += [tensor for block in memory for tensor in (*block.past, block.tail)]
    for plain, fast in zip(*results.values(), strict=True):
        assert _relative(fast, plain) < 1e-5


@torch.no_grad()
def test_second_network():
    """SANA-Video 2.0: golden tensors on the device; heads of the true sizes, fused and in 8 bits."""
    for kernels in ("reference", "triton"):
        g, model = golden2("forward"), model2(PACK).to("cuda")
        model.kernels = kernels
        arguments = (g["in_x"].cuda(), g["in_t"].cuda(), g["in_y"][:, 0].cuda(), g["in_mask"].cuda())
        assert_close(model(*arguments).cpu(), g["out"], 1e-4)
        frames, text = golden2("forward_perframe"), arguments[2:]
        assert_close(model(arguments[0], frames["in_t"].cuda(), *text).cpu(), frames["out"], 1e-4)
    sizes = {"width": 512, "depth": 9, "head_dim": 128, "softmax_head_dim": 256, "cross_head_dim": 128}
    benchmark, device = PACK.module("benchmarks.transformer2"), torch.device("cuda")
    names = list(benchmark.VERSIONS)
    if torch.cuda.get_device_capability() < PACK.module("kernels.dispatch").FP8_CAPABILITY:
        names.remove("ours, fp8")
    errors = benchmark.check(names, device, benchmark.TINY | sizes)
    assert errors["ours"] <= 1.1 * errors["ours, plain"] < 0.1
    assert errors.get("ours, fp8", 0) < 0.5


@torch.no_grad()
@pytest.mark.parametrize("precision", ["full", "fp8"])
def test_recorded_passes_of_the_second_network(precision):
    """Replayed, they have the bits of passes that run, with other latents and times, too."""
    if precision == "fp8":
        _eight_bits()
    graphs = PACK.core("transformer.pass_graphs")
    benchmark, device = PACK.module("benchmarks.transformer2"), torch.device("cuda")
    model = benchmark.build(device, benchmark.TINY)
    model.precision = precision
    latents, _, text = benchmark.inputs(model, (1, 8, 3, 4, 6), device)
    prepared, outputs = model.prepare_text(text), []
    for model.graphs in (None, graphs.PassGraphs(graphs.GpuRecorder)):
        outputs.append([
            model(latents * factor, torch.full((1,), time, device="cuda"), prepared)
            for factor, time in ((1.0, 900), (0.5, 600), (0.8, 300))
        ])  # fmt: skip
    assert all(map(same, *outputs))


@torch.no_grad()
def test_other_devices_and_types_take_the_plain_version():
    model = PACK.tiny_model()
    x, text = torch.randn(1, 16, 2, 4, 4), torch.randn(1, 3, 24)
    assert model(x, torch.tensor([500]), text).isfinite().all()
    model.to("cuda", torch.float64)
    assert model(x.cuda().double(), torch.tensor([500]), text.cuda().double()).isfinite().all()


# --- a pipeline


def _film(model, vae, overlap, write, device="cuda"):
    """Two shots, of which the second is a new scene, sampled and decoded as `generate` does it."""
    pipeline, stream = PACK.core("streaming.pipeline"), PACK.core("streaming.stream")
    state = checks_stream.begin(PACK, model, height=128, width=192)
    with pipeline.Pipeline(
        vae,
        write,
        sampling=model.device,
        decoding=torch.device(device),
        from_chunk=0,
        total=4,
        overlap=overlap,
    ) as film:
        for text, plan in (("a", (3, 2)), ("b", (3, 2))):
            sampling = stream.Sampling(seed=7, steps=2, on_prompt_change="cut")
            prompt = checks_stream.prompt(PACK, text)
            for newer in stream.extend(model, state, prompt, sampling, plan=plan, device=model.device):
                state = newer
                film.add(state)
        film.finish(state)
    return state, film


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_film_decoded_while_it_is_sampled_is_the_same(dtype):
    """Bit for bit, several times, because a race shows only sometimes; and so is one decode of the whole."""
    wan_vae, demo, decoding = PACK.core("vae.wan_vae"), PACK.module("demo.model_set"), "streaming.decoding"
    model = PACK.tiny_model(head=112, heads=4).to("cuda", dtype)
    vae = demo.seeded(wan_vae.WanVAE(wan_vae.VAEConfig(base_width=32)), 0).to("cuda", dtype)
    films, states = [], []
    for overlap in ("off", *("on",) * 5, "auto"):
        written = []
        state, film = _film(model, vae, overlap, written.append)
        assert film.overlapped is (overlap != "off")
        films.append(torch.cat(written))
        states.append(state)
    for state, film in zip(states[1:], films[1:], strict=True):
        assert same(film, films[0])
        checks_stream.assert_same_state(state, states[0])
    pixels = torch.cat(list(PACK.core(decoding).decode_history(vae, states[0])), dim=2)
    images = PACK.core("files.image_file")
    assert same(images.frame_bytes(pixels).cpu(), films[0])
    one_by_one = [torch.from_numpy(images.to_bytes(frame)) for frame in pixels[0].cpu().unbind(1)]
    assert same(torch.stack(one_by_one), films[0])


def test_a_film_of_recorded_passes_is_the_same():
    """Recorded while another thread decodes, and replayed beside it."""
    wan_vae, graphs, stream = map(PACK.core, ("vae.wan_vae", "transformer.pass_graphs", "streaming.stream"))
    pipeline, device = PACK.core("streaming.pipeline"), torch.device("cuda")
    vae = PACK.module("demo.model_set").seeded(wan_vae.WanVAE(wan_vae.VAEConfig(base_width=32)), 0)
    model = PACK.tiny_model(head=112, heads=4).to("cuda", torch.bfloat16)
    vae.to("cuda", torch.bfloat16)
    films, plan = [], (3, *(2,) * 9)
    for overlap in ("off", "on", "on"):
        model.graphs = graphs.PassGraphs(graphs.GpuRecorder) if overlap == "on" else None
        state, written = checks_stream.begin(PACK, model, height=160, width=256), []
        with pipeline.Pipeline(
            vae,
            written.append,
            sampling=model.device,
            decoding=device,
            from_chunk=0,
            total=len(plan),
            overlap=overlap,
        ) as film:
            prompt, sampling = checks_stream.prompt(PACK, "a"), stream.Sampling(seed=7)
            for state in stream.extend(model, state, prompt, sampling, plan=plan, device=device):  # noqa: B020
                film.add(state)
            film.finish(state)
        films.append(torch.cat(written))
    assert same(films[1], films[0])
    assert same(films[2], films[0])


def test_nan_is_found_without_waiting_for_it():
    wan_vae, demo = PACK.core("vae.wan_vae"), PACK.module("demo.model_set")
    decoding, images = PACK.core("streaming.decoding"), PACK.core("files.image_file")
    vae = demo.seeded(wan_vae.WanVAE(wan_vae.VAEConfig(base_width=16)), 0).to("cuda")
    latents = torch.randn(1, 16, 5, 8, 8, generator=torch.Generator().manual_seed(0)).cuda()
    latents[:, :, 3] = float("nan")
    frames = decoding.decode_clip(vae, latents, wan_vae.WanVAE.spec, form=images.frame_bytes)
    kept = [next(frames) for _ in range(3)]
    assert [len(piece) for piece in kept] == [1, 4, 4]
    assert all(piece.is_pinned() for piece in kept)
    with pytest.raises(PACK.core("errors").ChunkError, match="follows frame 9"):
        next(frames)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_sampling_on_one_gpu_and_decoding_on_the_other():
    wan_vae, demo = PACK.core("vae.wan_vae"), PACK.module("demo.model_set")
    model = PACK.tiny_model(head=112, heads=4).to("cuda:0", torch.bfloat16)
    films = []
    for device in ("cuda:0", "cuda:1", "cuda:1"):
        vae = demo.seeded(wan_vae.WanVAE(wan_vae.VAEConfig(base_width=32)), 0).bfloat16()
        written = []
        _, film = _film(model, vae, "auto", written.append, device)
        assert film.overlapped
        films.append(torch.cat(written))
    assert same(films[0], films[1])
    assert same(films[0], films[2])


# --- films over a store


def _stored_film(model, vae, folder, *, overlap, device="cuda", chunks=4):
    """A film of two scenes, as the film node makes it: its frames, the last state, how much was sampled."""
    core = PACK.core
    film, making, naming, reel = map(core, (f"films.{name}" for name in ("film", "making", "naming", "reel")))
    store = core("films.store").Store(folder / "store")
    requests = [
        making.Request(
            prompt=checks_stream.prompt(PACK, text),
            sampling=core("streaming.stream").Sampling(seed=7, steps=2, on_prompt_change=change),
            chunks=chunks // 2,
            opens=text == "b",
        )
        for text, change in (("a", "recache"), ("b", "recache"))
    ]
    begin = checks_stream.begin(PACK, model, height=128, width=192)
    namer = naming.Namer("content", model.maker)
    planned = making.plan_making(model, begin, requests, namer=namer, store=store)
    outline, target = film.outline_of(planned, 0), torch.device(device)
    with core("files.film_file").FilmFile(folder / f"{overlap}.mp4", fps=16) as file:
        made = film.Film(
            making=planned,
            outline=outline,
            file=file,
            reel=reel.Reel(file, outline.parts, codec="h264"),
            screen=core("films.projector").Screen(
                decoder=vae,
                device=target,
                overlap=lambda: overlap,
                reach=core("vae.reach").decoder_reach(vae),
            ),
        )
        frames, silent = [], core("callbacks").Callbacks()
        see = lambda piece: frames.append(piece.clone())  # noqa: E731
        *_, last = made.states(sampling=silent, decoding=silent, see=see)
    return torch.cat(frames), last, planned.missing


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_stored_film_is_the_same_beside_and_in_turn_and_again(dtype, tmp_path):
    wan_vae, demo = PACK.core("vae.wan_vae"), PACK.module("demo.model_set")
    model = PACK.tiny_model(head=112, heads=4).to("cuda", dtype)
    vae = demo.seeded(wan_vae.WanVAE(wan_vae.VAEConfig(base_width=32)), 0).to("cuda", dtype)
    results = []
    for number, overlap in enumerate((False, True, True)):
        (tmp_path / str(number)).mkdir()
        results.append(_stored_film(model, vae, tmp_path / str(number), overlap=overlap))
    again = _stored_film(model, vae, tmp_path / "0", overlap=True)
    assert [missing for _, _, missing in (*results, again)] == [4, 4, 4, 0]
    for frames, last, _ in (*results[1:], again):
        assert same(frames, results[0][0])
        for one, other in zip(last.history, results[0][1].history, strict=True):
            assert same(one.latents, other.latents)
    rebuilt = PACK.core("streaming.rebuild").rebuild(model, again[1], device="cpu")
    checks_stream.assert_same_state(rebuilt, results[0][1].to("cpu"))


@pytest.mark.parametrize("precision", ["full", "fp8"])
@pytest.mark.parametrize("recorded", [False, True])
def test_a_memory_made_again_has_the_bits_of_the_sampled_one(precision, recorded):
    """With a recache in between; also from recorded passes, which a rebuild replays."""
    rebuild, graphs = PACK.core("streaming.rebuild").rebuild, PACK.core("transformer.pass_graphs")
    model = PACK.tiny_model(head=112, heads=4).to("cuda", torch.bfloat16)
    model.precision = precision
    model.graphs = graphs.PassGraphs(graphs.GpuRecorder) if recorded else None
    size = {"height": 160, "width": 256}
    state = checks_stream.run(PACK, model, checks_stream.begin(PACK, model, **size), "a", plan=(3, 2, 2))
    state = checks_stream.run(PACK, model, state, "b", plan=(2, 2))
    checks_stream.assert_same_state(rebuild(model, state.light()), state)


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_decoder_that_begins_in_mid_scene_makes_the_same_frames(dtype):
    """At full width, so that cuDNN chooses its convolutions as for a film."""
    wan_vae, demo = PACK.core("vae.wan_vae"), PACK.module("demo.model_set")
    vae = demo.seeded(wan_vae.WanVAE(wan_vae.VAEConfig()), 0).to("cuda", dtype)
    reach = PACK.core("vae.reach").decoder_reach(vae)
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(1, 16, reach + 6, 8, 12, generator=generator).cuda()
    whole = torch.cat(list(vae.decode_stream(latents)), dim=2)
    for first in (1, 4):
        later = torch.cat(list(vae.decode_stream(latents[:, :, first:])), dim=2)
        shown = 4 * (latents.shape[2] - first - reach)
        assert same(later[:, :, -shown:], whole[:, :, -shown:])
