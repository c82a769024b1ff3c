"""Checks inside ComfyUI's process: the block sampler with its caches, compiler, interrupts and loading."""

from __future__ import annotations

import importlib
import io
import tempfile
import time
from fractions import Fraction
from pathlib import Path
from unittest.mock import patch

from calibration import limit
from checks_inside import check, close, core_node, pack, run, same


@check
def chained_samplers_are_one(demo):
    _, one, _ = demo.sample()
    latent, two, frames = demo.sample(state=one)
    _, whole, _ = demo.sample(chunks=2)
    assert frames == whole.state.frames == 81
    assert all(same(a, b) for a, b in zip(two.tensors, whole.tensors, strict=True))
    to_vae_space, wan = (
        pack("sana_video_core.vae.statistics").to_vae_space,
        pack("sana_video_core.config").WAN_2_1,
    )
    assert same(latent["samples"], to_vae_space(two.state.history[-1].latents, wan))


@check
def videos_in_files_in_memory_trimmed_and_of_pictures_begin_a_stream(demo):
    import torch
    from comfy_api.latest import InputImpl, Types

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "film.mp4"
        with pack("sana_video_core.files.video_writer").VideoWriter(path) as writer:
            writer.write(torch.linspace(-1, 1, 14).view(1, 1, 14, 1, 1).expand(1, 3, 14, 48, 64))

        def latents(video):
            primed = run("SanaVideoPrime", demo.causal, demo.vae, demo.positive, demo.start(), video=video)
            return primed.state.history[0].latents

        whole = latents(InputImpl.VideoFromFile(str(path)))
        assert whole.shape[2] == 4
        assert same(latents(InputImpl.VideoFromFile(io.BytesIO(path.read_bytes()))), whole)
        part = InputImpl.VideoFromFile(str(path), start_time=0.25, duration=0.375)
        assert latents(part).shape[2] == 2
        pictures = Types.VideoComponents(images=part.get_components().images, frame_rate=Fraction(16))
        close(latents(InputImpl.VideoFromComponents(pictures)), latents(part), 0.1)


@check
def a_light_state_goes_on_decodes_and_is_shown(demo):
    """Its memory comes back to the same bits, once for two samplers; nobody else needs it."""
    _, begun, _ = demo.sample()
    latent, whole, _ = demo.sample(state=begun, positive=demo.negative)  # with a recache
    light = pack("nodes.sockets").SocketState.of(whole.state.light())
    rebuilding, calls = pack("sana_video_core.streaming.rebuild"), []
    absorbed = rebuilding._absorbed

    def counted(*given):
        calls.append(given)
        return absorbed(*given)

    with patch.object(rebuilding, "_absorbed", counted):
        assert same(*(run("SanaVideoDecode", demo.vae, latent, state) for state in (light, whole)))
        films = [
            run("SanaVideoDecodeStream", demo.vae, state, 0, 16.0, "h264", 0) for state in (light, whole)
        ]
        assert same(*(film.get_components().images for film in films))
        assert "none (history only)" in run("SanaVideoStateInfo", light)[1]
        assert not calls
        for seed in (3, 4):
            (_, one, _), (_, other, _) = (demo.sample(state=state, seed=seed) for state in (light, whole))
            assert len(one.tensors) == len(other.tensors)
            assert all(same(a, b) for a, b in zip(one.tensors, other.tensors, strict=True))
        assert len(calls) == 1


@check
def a_sampler_writes_to_none_of_its_inputs(demo):
    _, state, _ = demo.sample()
    inputs = [*state.tensors, demo.positive[0][0], demo.positive[0][1]["attention_mask"]]
    before = [tensor.clone() for tensor in inputs]
    demo.sample(state=state, positive=demo.negative)  # another prompt: a recache
    run("SanaVideoStateInfo", state)
    run("SanaVideoDecodeStream", demo.vae, state, 0, 16.0, "h264", 0)
    assert all(same(a, b) for a, b in zip(before, inputs, strict=True))


@check
def sound_goes_through_comfyui_s_own_nodes_and_into_its_files(demo):
    import torch

    def decoded(audio):
        return run("SanaVideoDecodeStream", demo.vae, state, 0, 16.0, "h264", 0, audio)

    def of(video):
        return core_node("comfy_extras.nodes_video", "GetVideoComponents").execute(video).args[1]

    _, state, _ = demo.sample()
    assert of(decoded(None)) is None
    tone = 0.5 * torch.sin(torch.arange(9 * 44100) * 0.06)
    audio = of(decoded({"waveform": tone.expand(1, 2, -1), "sample_rate": 44100}))
    assert audio["sample_rate"] == 44100
    assert abs(audio["waveform"].shape[2] / 44100 - 41 / 16) < 0.05
    with tempfile.TemporaryDirectory() as folder:
        from comfy_api.latest import InputImpl

        decoded(audio).save_to(str(Path(folder) / "saved.mp4"))
        again = of(InputImpl.VideoFromFile(str(Path(folder) / "saved.mp4")))["waveform"]
    length = 2 * 44100
    assert (again[..., :length] - tone[:length]).abs().mean() < 0.05


@check
def memory_accounting_sees_a_state(demo):
    """As ComfyUI's RAM pressure cache counts: tensors on the CPU, in lists and tuples."""
    import torch

    def walk(outputs):
        return sum(
            walk(item) if isinstance(item, list | tuple) else item.numel() * item.element_size()
            for item in outputs
            if isinstance(item, list | tuple | torch.Tensor)
        )

    _, state, _ = demo.sample()
    stream = state.state
    latents = sum(chunk.latents.numel() * 4 for chunk in stream.history)
    assert walk([[state]]) == stream.bytes + walk(stream.story_tensors()) > stream.bytes + latents
    import comfy.model_management

    place = comfy.model_management.intermediate_device()
    assert all(tensor.device == place for tensor in state.tensors)


@check
def step_caches_leave_a_stream_alone(demo):
    easy = importlib.import_module("comfy_extras.nodes_easycache")
    plain, _, _ = demo.sample()
    for node in (easy.EasyCacheNode, easy.LazyCacheNode):
        cached = node.execute(demo.causal, 0.2, 0.0, 1.0, False).args[0]
        latent, _, _ = demo.sample(cached)
        assert same(latent["samples"], plain["samples"]), node


@check
def easycache_skips_steps_of_a_clip(demo):
    easy = importlib.import_module("comfy_extras.nodes_easycache")
    calls = []
    module = demo.clip_model.model.diffusion_model
    inner = module._forward
    module._forward = lambda *a, **k: (calls.append(1), inner(*a, **k))[1]
    try:
        demo.ksample(steps=12)
        whole = len(calls)
        calls.clear()
        demo.ksample(easy.EasyCacheNode.execute(demo.clip_model, 1.5, 0.1, 1.0, False).args[0], steps=12)
    finally:
        del module._forward
    assert 0 < len(calls) < whole, (len(calls), whole)


@check
def single_blocks_can_be_compiled(demo):
    """ComfyUI exchanges them for compiled ones inside of each call, after the runner was chosen."""
    import torch
    from comfy_api.torch_helpers import set_torch_compile_wrapper

    counted = []

    def backend(graph, inputs):
        counted.append(1)
        return graph.forward

    for patcher, work in ((demo.causal, demo.sample), (demo.clip_model, demo.ksample)):
        torch._dynamo.reset()
        counted.clear()
        compiled = patcher.clone(disable_dynamic=True)
        keys = [f"diffusion_model.blocks.{i}" for i in range(patcher.model.diffusion_model.config.depth)]
        set_torch_compile_wrapper(model=compiled, backend=backend, keys=keys)
        work(compiled)
        assert counted, "nothing was compiled"
    torch._dynamo.reset()


@check
def compile_reaches_our_loop(demo):
    """TorchCompileModel's wrapper, the fastest backend; later chunks of the same size must not recompile."""
    import torch
    from comfy_api.torch_helpers import set_torch_compile_wrapper

    counted = []

    def backend(graph, inputs):
        counted.append(1)
        return graph.forward

    compiled = demo.causal.clone(disable_dynamic=True)
    set_torch_compile_wrapper(model=compiled, backend=backend)
    torch._dynamo.reset()
    plain, _, _ = demo.sample(chunks=3)
    latent, state, _ = demo.sample(compiled, chunks=3)
    close(latent["samples"], plain["samples"], 1e-4)
    assert counted, "nothing was compiled"
    compilations = len(counted)
    demo.sample(compiled, state=state, chunks=3)
    more = len(counted) - compilations
    assert not more, f"{more} more compilations for chunks of the same size"
    assert type(compiled.model.diffusion_model).__name__ == "SanaVideoModule"  # put back afterwards
    torch._dynamo.reset()


@check
def torch_compile_node_runs_on_clips_and_streams(demo):
    node = core_node("comfy_extras.nodes_torch_compile", "TorchCompileModel")
    clip = node.execute(demo.clip_model, "inductor").args[0]
    close(demo.ksample(clip, steps=1), demo.ksample(steps=1), 1e-3)


@check
def a_node_costs_little(demo):
    """The block sampler node adds less than 50 ms to the bare call of the core, with the demo set."""
    stream = pack("sana_video_core.streaming.stream")
    checkpoint, text = pack("sana_video_core.checkpoints.checkpoint"), pack("sana_video_core.text.prompt")
    model = checkpoint.load_transformer(pack("demo.model_set").demo_set().transformer)
    embeddings, extra = demo.positive[0]
    prompt = text.Prompt(embeddings=embeddings, mask=extra["attention_mask"], digest=extra["sana_digest"])
    state = stream.start(model, height=48, width=64)
    sampling = stream.Sampling(seed=3, steps=2)

    def fastest(call):
        seconds = []
        for _ in range(7):
            began = time.perf_counter()
            call()
            seconds.append(time.perf_counter() - began)
        return min(seconds)

    empty = demo.start()
    cost = fastest(lambda: demo.sample(state=empty)) - fastest(
        lambda: list(stream.extend(model, state, prompt, sampling))
    )
    assert cost < limit(0.05), f"{1000 * cost:.1f} ms"


@check
def an_interrupted_run_is_resumed(demo):
    import comfy.model_management as management

    whole = demo.sample(chunks=3)
    state, calls = demo.start(), []
    module = demo.causal.model.diffusion_model
    inner = module._forward

    def counted(*arguments, **options):
        calls.append(1)
        if len(calls) == 5:  # in the second chunk
            management.interrupt_current_processing()
        return inner(*arguments, **options)

    module._forward = counted
    try:
        try:
            demo.sample(state=state, chunks=3)
            raise AssertionError("the interrupt was not seen")
        except management.InterruptProcessingException:
            pass
        assert len(calls) == 5, calls  # there was no further model call
        calls[:] = [0] * 10
        resumed = demo.sample(state=state, chunks=3)
        assert len(calls) == 10 + 2 * 3, "the finished chunk was made again"
    finally:
        del module._forward
    assert all(same(a, b) for a, b in zip(whole[1].tensors, resumed[1].tensors, strict=True))
    assert same(whole[0]["samples"], resumed[0]["samples"])


@check
def a_weight_that_stays_behind_is_fetched(demo):
    """Partial loading as on a small GPU: layers cast their weights when used, bit-identically."""
    plain, _, _ = demo.sample()
    patcher = demo.causal
    import comfy.model_management

    comfy.model_management.unload_all_models()
    patcher.patch_model(device_to=patcher.load_device, lowvram_model_memory=20_000)
    try:
        assert patcher.model.model_lowvram
        load = comfy.model_management.load_models_gpu
        comfy.model_management.load_models_gpu = lambda *a, **k: None
        latent, _, _ = demo.sample()
    finally:
        comfy.model_management.load_models_gpu = load
        patcher.detach()
    assert same(latent["samples"], plain["samples"])
