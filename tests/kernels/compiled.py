"""Compiles the kernels for GPUs that are not here, and prints what each needs: {"kernel sm": bytes of shared memory}.

A script, because the suite's process has Triton's interpreter. Usage: python compiled.py FOLDER_OF_THE_PACK SM …
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

HEAD, D = 112, 128  # of the 2B models, and the tile that holds it
FLOAT32 = {"rms_ptr", "cos_ptr", "sin_ptr", "vk_ptr", "ksum_ptr", "scales_ptr", "row_scale_ptr"}
EIGHT_BITS = {"values_ptr"}


def kernels(folder: Path):
    """(name, function, constants, warps, stages) as the network launches them in bfloat16, and in float32 where that differs."""
    sys.modules["kernels"] = package = types.ModuleType("kernels")
    package.__path__ = [str(folder / "kernels")]
    names = "linear_attention", "residual_norm", "gated_depthwise", "fp8_product"
    attention, norm, depthwise, fp8 = (
        importlib.import_module(f"kernels.{name}.triton_kernel") for name in names
    )
    for exact, read, sums in (
        (False, attention.READ, attention.SUMS),
        (True, attention.EXACT_READ, attention.EXACT_SUMS),
    ):
        for function, (tokens, warps, stages) in ((attention._read, read), (attention._key_value_sum, sums)):
            constants = {"HEAD": HEAD, "N": tokens, "D": D, "EXACT": exact}
            yield (
                f"{function.__name__} {'float32' if exact else 'bfloat16'}",
                function,
                constants,
                warps,
                stages,
            )
    scales = {"LARGEST": fp8.LARGEST, "LEAST": fp8.LEAST_SCALE}
    flags = dict.fromkeys(("HAS_BRANCH", "HAS_EXTRA", "HAS_GATE", "HAS_NORM"), True) | {"ROW_SCALES": False}
    yield "_residual_norm", norm._residual_norm, flags | scales | {"BLOCK": 4096}, norm.WARPS, 3
    tile = {"CHANNELS": depthwise.CHANNELS, "ROWS": depthwise.ROWS, "FAST": True}
    yield "_gated_depthwise", depthwise._gated_depthwise, tile, depthwise.WARPS, 3
    taps = {"TAPS": 3, "PADDED": 4, "BLOCK": 4096}
    yield "_fp8_rows", fp8._fp8_rows, taps | scales, fp8.WARPS, 3


def needed(function, constants, warps: int, stages: int, sm: int, exact: bool) -> int:
    def kind(name: str) -> str:
        if name in constants:
            return "constexpr"
        if name.endswith("_ptr"):
            element = "fp32" if exact or name in FLOAT32 else "fp8e4nv" if name in EIGHT_BITS else "bf16"
            return f"*{element}"
        return "fp32" if name == "eps" else "i32"

    names = function.arg_names
    even = {
        (i,): [["tt.divisibility", 16]]
        for i, name in enumerate(names)
        if kind(name) not in ("constexpr", "fp32")
    }
    source = ASTSource(function, {name: kind(name) for name in names}, constexprs=constants, attrs=even)
    options = {"num_warps": warps, "num_stages": stages}
    return triton.compile(source, target=GPUTarget("cuda", sm, 32), options=options).metadata.shared


def main() -> None:
    found = {}
    for name, function, constants, warps, stages in kernels(Path(sys.argv[1])):
        for sm in map(int, sys.argv[2:]):
            target = max(sm, 89) if name == "_fp8_rows" else sm  # older GPUs have no 8 bits
            exact = name.endswith("float32")
            found[f"{name} {sm}"] = needed(function, constants, warps, stages, target, exact)
    sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
