"""Compiles the kernels for GPUs that are not here, and prints what each needs: {"kernel target": bytes of
shared memory}.

A script, because the suite's process has Triton's interpreter. Usage: python compiled.py FOLDER_OF_THE_PACK
TARGET … A target is a compute capability (86) or the name of an AMD chip (gfx1100).
"""

import importlib
import json
import sys
import types
from pathlib import Path

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

HEADS, HEAD, D = 20, 112, 128  # of the 2B models, and the tile that holds a head
# they differ from chunk to chunk, and from step to step
COUNTS = {"tokens", "group", "groups", "steps", "count", "taken", "slots", "old_frames", "new_frames"}
FLOAT32 = {"cos_ptr", "sin_ptr", "vk_ptr", "ksum_ptr", "scales_ptr", "row_scale_ptr", "total_ptr"}
FLOAT32 |= {"readers_ptr", "logits_ptr", *(f"logits{j}_ptr" for j in range(5))}
FP8_POINTERS = {"values_ptr"}


def kernels(folder: Path):
    """(name, function, constants, warps, stages) as the network launches them in bfloat16, and in float32
    where that differs.
    """
    sys.modules["kernels"] = package = types.ModuleType("kernels")
    package.__path__ = [str(folder / "kernels")]
    names = (
        *("linear_attention", "residual_norm", "gated_depthwise", "fp8_gemm", "temporal_taps"),
        *("causal_frames", "tap_sum", "clip_frames"),
    )
    attention, norm, depthwise, fp8, taps, frames, tap_sum, clips = (
        importlib.import_module(f"kernels.{name}.triton_kernel") for name in names
    )
    size = {"HEAD": HEAD, "D": D}
    for dtype, sums in ("bfloat16", attention.SUMS), ("float32", attention.EXACT_SUMS):
        rows = attention._tiles(HEAD, HEADS)
        warps = rows.pop("num_warps")
        least = {"LEAST": attention.LEAST_MEAN}
        yield f"_key_rows {dtype}", attention._key_rows, rows, warps, 3
        yield f"_query_rows {dtype}", attention._query_rows, rows | least, warps, 3
        yield f"_sums {dtype}", attention._sums, size | {"N": sums[0]}, *sums[1:]
        yield (
            f"_fold {dtype}",
            attention._fold,
            size | {"M": attention.FOLD[0], "K": attention.FOLD[1]},
            attention.FOLD[2],
            3,
        )
    scales = {"LARGEST": fp8.LARGEST, "LEAST": fp8.LEAST_SCALE}
    flags = dict.fromkeys(("HAS_BIAS", "HAS_BRANCH", "HAS_EXTRA", "HAS_GATE", "HAS_NORM"), True) | {
        "ROW_SCALES": False
    }
    yield "_residual_norm", norm._residual_norm, flags | scales | {"BLOCK": 4096}, norm.WARPS, 3
    tile = {"CHANNELS": depthwise.CHANNELS, "ROWS": depthwise.ROWS, "FAST": True, "UNROLL": depthwise.UNROLL}
    yield "_gated_depthwise", depthwise._gated_depthwise, tile, depthwise.WARPS, 3
    yield "_temporal_taps", taps._temporal_taps, {"TAPS": 3, "BLOCK": 4096}, taps.WARPS, 3
    for name, constants in _frames(frames):
        yield name, getattr(frames, name.split()[0]), constants, frames.WARPS, 3
    yield "_sum_of_taps", tap_sum._sum_of_taps, {"CHANNELS": 3, "PIXELS": tap_sum.PIXELS}, tap_sum.WARPS, 3
    for name, constants in _clips(clips):
        yield name, clips._clip_frames, constants, clips.WARPS, 3
    three = {"TAPS": 3, "PADDED": 4, "BLOCK": 4096}
    yield "_fp8_rows", fp8._fp8_rows, three | scales, fp8.WARPS, 3
    yield from _second_network(scales)


def _second_network(scales):
    """The same for SANA-Video 2.0: 20 heads of 128, or 10 of 256."""
    attention, mix, product = (
        importlib.import_module(f"kernels.{name}.triton_kernel")
        for name in ("gated_attention", "residual_mix", "gated_product")
    )
    for head, heads in ((128, 20), (256, 10)):
        rows = attention._tiles(head, heads)
        warps = rows.pop("num_warps")
        yield f"_rotated_rows {head}", attention._rotated_rows, rows | {"HAS_STRENGTH": True}, warps, 3
    for dtype, (tokens, dims, warps) in ("bfloat16", attention.READ), ("float32", attention.EXACT_READ):
        tile = {"HEAD": 128, "D": 128, "M": tokens, "K": dims}
        yield f"_gated_heads {dtype}", attention._gated_heads, tile, warps, 3
    flags = dict.fromkeys(("HAS_BRANCH", "HAS_EXTRA", "HAS_GATE", "WANT_LOGITS", "WANT_MIX"), True)
    flags |= {"OTHERS": 4, "READERS": 3, "READER": 1, "ROW_SCALES": False, "TILE": mix.TILE, "TILES": 5}
    yield "_residual_mix", mix._residual_mix, flags | scales, mix.WARPS, 3
    tiles = {"SILU": True, "ROW_SCALES": False, "TILE": 2048, "TILES": 5}
    yield "_gated_product", product._gated_product, tiles | scales, product.WIDE_WARPS, 3


def _frames(frames):
    """(name, constants) of the VAE's kernels, at the widest level and at the finest."""
    flags = dict.fromkeys(("HAS_BIAS", "HAS_RESIDUAL", "PAIRS", "TOTAL"), True) | {"SUBPIXELS": False}
    for channels, block in ((384, 512), (96, 128)):
        width = {"C": channels, "BLOCK": block, "LEAST": frames.LEAST_NORM}
        single = dict.fromkeys(("HAS_PAST", "NORM", "SEEN", "STACKED"), True)
        pixels = {"PIXELS": frames.VALUES // block}
        yield f"_causal_frames {channels}", flags | width | single | pixels
        pairs = flags | width | {"PIXELS": frames.PAIR_VALUES // block, "COUNT": 2}
        yield f"_paired_frames {channels}", pairs
        yield f"_paired_frames sub-pixels {channels}", pairs | {"PAIRS": False, "SUBPIXELS": True}


def _clips(clips):
    """(name, constants) of the LTX VAE's kernel: its widest level, and what an enlargement makes."""
    flags = dict.fromkeys(("HAS_BIAS", "HAS_RESIDUAL", "ACTIVE", "TOTAL", "KEPT"), True)
    flags |= {"BORDER": 1, "EPSILON": clips.EPSILON}
    for name, channels, own, factor, paired in (
        ("2048", 2048, 2048, 1, False),
        ("enlarged 128", 128, 32, 2, False),
        ("pairs 256", 256, 256, 1, True),
    ):
        sizes = {"C": channels, "K": own, **dict.fromkeys("ABD", factor), "BLOCK": channels}
        layout = {"STACKED": channels == 128, "PAIRED": paired, "PAIRS": paired}
        positions = (clips.PAIR_VALUES if paired else clips.VALUES) // channels
        yield f"_clip_frames {name}", flags | sizes | layout | {"POSITIONS": positions}


def needed(function, constants, warps: int, stages: int, target: GPUTarget, exact: bool) -> int:
    def kind(name: str) -> str:
        if name in constants:
            return "constexpr"
        if name.endswith("_ptr"):
            element = "fp32" if exact or name in FLOAT32 else "fp8e4nv" if name in FP8_POINTERS else "bf16"
            return f"*{element}"
        return "fp32" if name.split("_")[-1] == "eps" else "i32"

    names = function.arg_names
    # as Triton finds them at a launch; of counts that it isn't compiled for it knows nothing
    free = {part.name for part in function.params if part.do_not_specialize}
    even = {
        (i,): [["tt.divisibility", 16]]
        for i, name in enumerate(names)
        if kind(name) not in ("constexpr", "fp32") and name not in free
    }
    source = ASTSource(function, {name: kind(name) for name in names}, constexprs=constants, attrs=even)
    options = {"num_warps": warps, "num_stages": stages}
    return triton.compile(source, target=target, options=options).metadata.shared


def main() -> None:
    shared_memory = {}
    for name, function, constants, warps, stages in kernels(Path(sys.argv[1])):
        counts = [part for part in function.params if part.name in COUNTS]
        assert all(part.do_not_specialize for part in counts), f"{name} is compiled for each number of tokens"
        for chip in sys.argv[2:]:
            amd, exact = chip.startswith("gfx"), name.endswith("float32")
            if amd and name == "_fp8_rows":
                continue  # not offered there
            if exact and chip == "120":
                continue  # has what an 86 has, and few compute in float32
            if name == "_fold float32" and amd:  # ten seconds of code generation, for twice the numbers' size
                shared_memory[f"{name} {chip}"] = 2 * shared_memory[f"_fold bfloat16 {chip}"]
                continue
            least = 89 if name == "_fp8_rows" else 80  # older GPUs have no FP8
            target = GPUTarget("hip", chip, 32) if amd else GPUTarget("cuda", max(int(chip), least), 32)
            fast = {"FAST": not amd} if "FAST" in constants else {}
            shared_memory[f"{name} {chip}"] = needed(function, constants | fast, warps, stages, target, exact)
    sys.stdout.write(json.dumps(shared_memory) + "\n")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
