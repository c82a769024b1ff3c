"""Checks with ComfyUI's modules in the process: ComfyUI's Python runs them, started by test_inside.py.

Prints one JSON object: name of a check -> "ok" or what went wrong. The suite's process never imports this.
"""

from __future__ import annotations

import asyncio
import importlib
import importlib.util
import json
import sys
import tempfile
import time
import traceback
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path.append(str(ROOT / "tests" / "support"))
from calibration import limit  # noqa: E402

DEMO = "demo (built in)"
CHECKS = {}
IMPORT = {}  # what importing the nodes cost


def check(function):
    CHECKS[function.__name__] = function
    return function


def pack(module: str):
    return importlib.import_module(f"sana_pack.{module}")


def nodes():
    return {node.__name__: node for node in pack("nodes").NODES}


def run(name: str, *arguments, **options):
    """The first output of one of our nodes, or all of them when there are several."""
    values = nodes()[name].execute(*arguments, **options).args
    return values[0] if len(values) == 1 else values


class Demo:
    """Random models of the demo's size in place of the trained ones, loaded once as an artist would."""

    def __init__(self, folder: Path):
        random_set = pack("demo.model_set").write_demo_set(folder / "set")
        pack("demo.model_set").demo_set = lambda: random_set
        self.causal = run("SanaVideoModelLoader", DEMO, "auto")
        self.clip_model = run("SanaVideoModelLoader", DEMO, "sana_video_480p")
        self.encoder = run("SanaVideoTextEncoderLoader", DEMO)
        self.vae = run("SanaVideoVAELoader", DEMO)
        self.positive = run("SanaVideoTextEncode", self.encoder, "a red ball rolls", 10, True)
        self.negative = run("SanaVideoTextEncode", self.encoder, "blurry", 0, False)

    def start(self, batch=1):
        return run("SanaVideoStart", self.causal, 64, 48, batch)

    def sample(self, model=None, state=None, chunks=1, seed=3, positive=None, steps=2):
        state = self.start() if state is None else state
        model, positive = model or self.causal, positive or self.positive
        return run(
            "SanaVideoBlockSampler", model, positive, state, chunks, seed, steps, "few_step", "recache"
        )

    def ksample(
        self, model=None, latent=None, sampler="euler", steps=3, cfg=4.0, positive=None, negative=None
    ):
        import nodes as core_nodes

        latent = latent or run("SanaVideoEmptyLatent", self.clip_model, 64, 48, 9, 1)
        model, positive = model or self.clip_model, positive or self.positive
        sampled = core_nodes.common_ksampler(
            model, 5, steps, cfg, sampler, "simple", positive, negative or self.negative, latent
        )
        return sampled[0]["samples"]


def same(a, b) -> bool:
    import torch

    return a.dtype == b.dtype and torch.equal(a, b)


def close(a, b, tolerance: float) -> None:
    difference = (a.double() - b.double()).abs().max().item()
    assert difference <= tolerance, f"differs by {difference:.3g}, allowed are {tolerance:.3g}"


def refused(call, *words) -> None:
    """The call has to raise one of our errors, with these words in its message."""
    try:
        call()
    except pack("sana_video_core.errors").SanaVideoError as error:
        missing = [word for word in words if word not in str(error)]
        assert not missing, f"{missing} not in: {error}"  # noqa: PT017  there is no pytest here
        return
    raise AssertionError("nothing was refused")


def image(height=48, width=64):
    import torch

    return torch.rand(1, height, width, 3, generator=torch.Generator().manual_seed(0))


def core_node(module: str, name: str):
    return getattr(importlib.import_module(module), name)


def fails_on_purpose(demo):
    raise AssertionError("on purpose")


CHECKS["fails_on_purpose"] = fails_on_purpose


@check
def nodes_are_quick_to_import_and_bring_no_model_code(_):
    """Beyond what ComfyUI has loaded; main measures it before anything of ours is used."""
    assert IMPORT["seconds"] < IMPORT["allowed"], IMPORT
    heavy = [name for name in IMPORT["modules"] if name.split(".")[-1] in ("model", "wan_vae", "encoder")]
    assert not heavy, heavy
    added = set(IMPORT["modules"]) - set(IMPORT["before"])
    assert not {"transformers", "av", "diffusers"} & added, added


def main() -> None:
    import logging

    comfy_root, selected = Path(sys.argv[1]), sys.argv[2:]
    sys.argv = [sys.argv[0], "--cpu"]
    sys.path.insert(0, str(comfy_root))
    spec = importlib.util.spec_from_file_location(
        "sana_pack", ROOT / "__init__.py", submodule_search_locations=[str(ROOT)]
    )
    sys.modules["sana_pack"] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    import comfy.options

    comfy.options.enable_args_parsing()
    import torch

    import nodes  # noqa: F401  as main.py: ComfyUI's modules in their usual order

    logging.disable(logging.INFO)
    before, began = set(sys.modules), time.perf_counter()
    listed = asyncio.run(asyncio.run(module.comfy_entrypoint()).get_node_list())
    assert all(node.GET_SCHEMA() for node in listed)
    IMPORT.update(
        seconds=time.perf_counter() - began,
        allowed=limit(0.5),
        before=sorted(before),
        modules=sorted(set(sys.modules) - before),
    )
    sys.modules["checks_inside"] = sys.modules["__main__"]
    for name in (
        "checks_clips",
        "checks_sampler",
        "checks_streams",
        "checks_loras",
        "checks_lora_kinds",
        "checks_text_vae",
        "checks_drafts",
        "checks_ltx",
        "checks_sana2",
        "checks_fused",
        "checks_store",
        "checks_films",
        "checks_dynamic",
    ):
        importlib.import_module(name)
    results = {}
    with torch.inference_mode(), tempfile.TemporaryDirectory() as folder:
        demo = Demo(Path(folder))
        for name, function in CHECKS.items():
            if selected and name not in selected:
                continue
            try:
                function(demo)
                results[name] = "ok"
            except BaseException:
                results[name] = traceback.format_exc(limit=-6)
    sys.stdout.write("RESULTS " + json.dumps(results) + "\n")


if __name__ == "__main__":
    main()
