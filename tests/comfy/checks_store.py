"""Checks inside ComfyUI's process: the block sampler's store."""

from __future__ import annotations

import tempfile
from contextlib import contextmanager
from pathlib import Path

from checks_inside import check, pack, run, same


@contextmanager
def output_folder():
    """An output folder of its own, and a process that knows nothing of the stores before."""
    import folder_paths

    sampling, before = pack("bridge.sampling"), folder_paths.get_output_directory()
    with tempfile.TemporaryDirectory() as folder:
        folder_paths.set_output_directory(folder)
        sampling.MEMORIES = type(sampling.MEMORIES)()
        try:
            yield Path(folder)
        finally:
            folder_paths.set_output_directory(before)


class Counted:
    """Model calls and loads in the block."""

    def __init__(self, model) -> None:
        self.module, self.calls, self.loads = model.model.diffusion_model, 0, 0

    def __enter__(self) -> Counted:
        import comfy.model_management as management

        inner, self.load = self.module._forward, management.load_models_gpu

        def forward(*arguments, **options):
            self.calls += 1
            return inner(*arguments, **options)

        def load(*arguments, **options):
            self.loads += 1
            return self.load(*arguments, **options)

        self.module._forward, management.load_models_gpu = forward, load
        return self

    def __exit__(self, *error: object) -> None:
        import comfy.model_management as management

        management.load_models_gpu = self.load
        del self.module._forward


def sample(demo, state=None, chunks=1, model=None, store=True):
    options = {"chunks": chunks, "seed": 3, "steps": 2, "sampler": "few_step"}
    options |= {"on_prompt_change": "recache", "rule": "training", "store": store}
    state = demo.start() if state is None else state
    return run("SanaVideoBlockSampler", model or demo.causal, demo.positive, state, **options)


@check
def a_chain_of_samplers_comes_from_the_store(demo):
    with output_folder() as folder:
        with Counted(demo.causal) as made:
            whole = sample(demo, chunks=3)
        assert made.calls == 9
        with Counted(demo.causal) as made:
            chained = sample(demo, sample(demo, sample(demo)[1])[1])
        assert (made.calls, made.loads) == (0, 0), (made.calls, made.loads)
        assert not hasattr(chained[1].state, "memory")
        plain = sample(demo, sample(demo, chunks=2, store=False)[1], store=False)
        assert same(chained[0]["samples"], plain[0]["samples"])
        histories = zip(chained[1].state.history, plain[1].state.history, whole[1].state.history, strict=True)
        assert all(same(a.latents, b.latents) and same(a.latents, c.latents) for a, b, c in histories)
        with Counted(demo.causal) as made:
            longer = sample(demo, chained[1])
        assert made.calls == 3 + 3  # absorbed again, then sampled
        expected = sample(demo, plain[1], store=False)
        assert all(same(a, b) for a, b in zip(longer[1].tensors, expected[1].tensors, strict=True))
        assert len(list((folder / "sana_films" / "store" / "chunks").rglob("*.safetensors"))) == 4


@check
def off_writes_nothing_and_what_has_no_name_passes_the_store_by(demo):
    import comfy.patcher_extension

    hosted = pack("bridge.stream_model").HostedModel
    with output_folder() as folder:
        sample(demo, store=False)
        assert not list(folder.rglob("*"))
        clone = demo.causal.clone(disable_dynamic=True)  # as TorchCompileModel asks for one
        assert hosted(clone).file == hosted(demo.causal).file
        assert hosted(clone).file.is_file()
        wrapped = demo.causal.clone()
        kind = comfy.patcher_extension.WrappersMP.DIFFUSION_MODEL
        wrapped.add_wrapper_with_key(kind, "another pack", lambda executor, *a, **k: executor(*a, **k))
        with Counted(demo.causal) as made:
            for _ in range(2):
                sample(demo, model=wrapped)
        assert made.calls == 6
        assert not list(folder.rglob("*.safetensors"))
