"""Load SANA-Video LoRA where there is no ComfyUI: branches, clones, what histories and patchers remember."""

from types import SimpleNamespace

import pytest
import torch
from comfy import model_management as management
from comfy import patcher_extension
from comfyui_sana_video.bridge.stream_model import HostedModel
from comfyui_sana_video.bridge.text_encoders import prompt_of
from comfyui_sana_video.demo import model_set
from comfyui_sana_video.sana_video_core.checkpoints.checkpoint import load_transformer
from comfyui_sana_video.sana_video_core.checkpoints.lora_apply import apply_loras
from comfyui_sana_video.sana_video_core.streaming.stream import Sampling
from comfyui_sana_video.sana_video_core.streaming.stream import extend as extend_stream
from comfyui_sana_video.sana_video_core.streaming.stream import start as start_stream
from safetensors.torch import save_file
from support.artist import HEIGHT, WIDTH, demo, folders, one_chunk, run, sample
from support.lora_files import random_tensor
from support.pack import same

ATTENTION, TABLE = "blocks.0.attn.qkv", "blocks.1.scale_shift_table"


@pytest.fixture(autouse=True)
def loras(tmp_path):
    """Two LoRAs in models/loras: one of a layer's rows, one of a layer and of a table."""
    with folders(tmp_path):
        folder, width = tmp_path / "models" / "loras", demo().model.model.diffusion_model.config.width
        folder.mkdir(parents=True)
        pair = {"lora_A.weight": random_tensor(2, width), "lora_B.weight": random_tensor(width, 2, seed=1)}
        snow = {f"transformer.transformer_blocks.0.attn1.to_v.{end}": t * 4 for end, t in pair.items()}
        save_file(snow, folder / "snow.safetensors")
        rain = {f"blocks.1.attn.proj.{end}": t * 4 for end, t in pair.items()}
        save_file(rain | {f"{TABLE}.diff": random_tensor(6, width, seed=2)}, folder / "rain.safetensors")
        yield folder
        management.load_models_gpu([])


def _contents(model):
    return [(lora.content, lora.strength) for lora in model.maker.loras]


def _with(name, strength=1.0, model=None):
    return run("LoraLoader", model or demo().model, f"{name}.safetensors", strength)


def _latents(model):
    return sample(model=model)[0]["samples"]


def test_two_branches_of_one_model(loras):
    """Sampled in turn, over and over: each has its own LoRA, and the model beside them has none."""
    plain, models = demo().model, {name: _with(name) for name in ("snow", "rain")}
    first = {name: _latents(model) for name, model in models.items()}
    assert torch.equal(_latents(plain), one_chunk()[0]["samples"])
    assert not torch.equal(first["snow"], first["rain"])
    for name, model in reversed(models.items()):
        assert not torch.equal(first[name], one_chunk()[0]["samples"])
        assert torch.equal(_latents(model), first[name])
        assert torch.equal(_latents(plain), one_chunk()[0]["samples"])


def test_its_numbers_are_the_cores(loras):
    """A stream of the nodes with two LoRAs is the core's with the same two, bit for bit."""
    model = _with("rain", -0.5, _with("snow", 0.75))
    _, state, _ = sample(model=model, steps=2, seed=3)
    assert state.state.history[-1].loras == ("snow 0.75", "rain -0.5")
    network = demo().model.model.diffusion_model
    core = load_transformer(_demo_file(loras.parent / "set"))
    assert core.fingerprint == network.fingerprint
    applied = apply_loras(core, [(loras / "snow.safetensors", 0.75), (loras / "rain.safetensors", -0.5)])
    assert _contents(HostedModel(model)) == [(lora.content, lora.strength) for lora in applied]
    sampling = Sampling(seed=3, steps=2, sampler="few_step", on_prompt_change="recache")
    begun = start_stream(core, height=HEIGHT, width=WIDTH)
    with torch.inference_mode():
        *_, last = extend_stream(core, begun, prompt_of(demo().positive), sampling, chunks=1)
    assert torch.equal(last.history[-1].latents, state.state.history[-1].latents)
    for ours, theirs in zip(last.memory, state.state.memory, strict=True):
        named = theirs.named_tensors()
        assert all(same(tensor, named[name]) for name, tensor in ours.named_tensors().items())


def _demo_file(folder):
    """The random model that `demo()` loaded."""
    return model_set.write_demo_set(folder).transformer


def test_a_loaded_clone_leaves_the_weights_of_others_alone(loras):
    network = demo().model.model.diffusion_model
    before = dict(network.named_parameters())
    copies = {name: tensor.clone() for name, tensor in before.items()}
    changed = _with("rain")
    assert all(tensor is before[name] for name, tensor in network.named_parameters())  # not before it is used
    management.load_models_gpu([changed])
    new = {name for name, tensor in network.named_parameters() if tensor is not before[name]}
    assert new == {"blocks.1.attn.proj.weight", TABLE}
    loaded = dict(network.named_parameters())
    management.load_models_gpu([changed.clone()])
    assert all(tensor is loaded[name] for name, tensor in network.named_parameters())  # nothing made again
    _with("snow", model=changed)  # reads the table while the other's is in its place
    twice = _with("rain", 1.0, changed)
    management.load_models_gpu([twice])
    step = loaded[TABLE] - copies[TABLE]
    assert torch.allclose(dict(network.named_parameters())[TABLE] - copies[TABLE], 2 * step, atol=1e-6)
    management.load_models_gpu([])
    for name, tensor in network.named_parameters():
        assert tensor is before[name]
        assert torch.equal(tensor, copies[name])


def test_strength_zero_changes_nothing_and_is_not_named(loras):
    assert _with("snow", 0.0) is demo().model
    assert HostedModel(demo().model).maker.loras == ()


def test_what_a_patcher_remembers(loras):
    plain = HostedModel(demo().model)
    assert (plain.maker.labels, plain.maker.weights, plain.unnamed_changes) == ((), "", None)
    both = _with("rain", 0.5, _with("snow"))
    hosted = HostedModel(both.clone())
    assert hosted.maker.labels == ("snow 1", "rain 0.5")
    assert [strength for _, strength in _contents(hosted)] == [1.0, 0.5]
    assert len({content for content, _ in _contents(hosted)}) == 2
    assert hosted.unnamed_changes is None
    (loras / "snow.safetensors").rename(loras / "ice.safetensors")
    assert _contents(HostedModel(_with("ice"))) == _contents(hosted)[:1]


def _foreign_patch(patcher):
    patcher.add_patches({f"diffusion_model.{ATTENTION}.weight": {"diff": torch.ones(1)}}, 0.5)


def _table_of_another(patcher):
    patcher.add_object_patch(f"diffusion_model.{TABLE}", torch.nn.Parameter(torch.ones(1)))


def _wrapper(kind, key):
    return lambda patcher: patcher.add_wrapper_with_key(kind, key, lambda run, *given: run(*given))


KINDS = patcher_extension.WrappersMP
UNNAMED = {
    "patch": (_foreign_patch, "a LoRA of another loader"),
    "table": (_table_of_another, TABLE),
    "dtype": (lambda p: p.add_object_patch("manual_cast_dtype", None), "a dtype of another node"),
    "compiled": (_wrapper(KINDS.APPLY_MODEL, "torch.compile"), "TorchCompileModel"),
    "wrapper": (_wrapper(KINDS.DIFFUSION_MODEL, "blur"), "blur"),
    "weight wrapper": (lambda p: setattr(p, "weight_wrapper_patches", {"a": [id]}), "another node changed"),
    "bypass": (lambda p: setattr(p, "injections", {"bypass_lora": [id]}), "bypass"),
    "at loading": (lambda p: setattr(p, "callbacks", {"on_load_after": {None: [id]}}), "when it is loaded"),
}
REAL_ONLY = ("weight_wrapper_patches", "injections", "callbacks")
INERT = {
    "step cache": _wrapper(KINDS.DIFFUSION_MODEL, "easycache"),
    "sampler's wrapper": _wrapper(KINDS.OUTER_SAMPLE, "preview"),
    "shift": lambda p: p.add_object_patch("model_sampling", SimpleNamespace(shift=3)),
    "attention": lambda p: p.model_options["transformer_options"].update(optimized_attention_override=id),
    "no callbacks": lambda p: setattr(
        p, "callbacks", {"on_load_after": {None: []}, "on_clone": {None: [id]}}
    ),
}


@pytest.mark.parametrize("kind", UNNAMED)
@pytest.mark.parametrize("when", ["alone", "before", "after"])
def test_changes_of_other_nodes_are_told(kind, when, loras):
    change, words = UNNAMED[kind]
    patcher = demo().model.clone() if when != "after" else _with("rain")
    change(patcher)
    if when == "before" and kind != "table":
        attributes = {
            name: getattr(patcher, name, {}) for name in ("weight_wrapper_patches", "injections", "callbacks")
        }
        patcher = _with("rain", model=patcher)
        vars(patcher).update(attributes)  # the real one's clone keeps these, too
    hosted = HostedModel(patcher)
    assert words in (hosted.unnamed_changes or "")
    assert ("unnamed" in hosted.maker.labels) == (kind == "patch")


@pytest.mark.parametrize("kind", INERT)
def test_changes_that_a_stream_does_not_see_are_none(kind, loras):
    patcher = _with("rain")
    INERT[kind](patcher)
    assert HostedModel(patcher).unnamed_changes is None


def test_a_hook_on_a_layer_is_told():
    layer = demo().model.model.diffusion_model.blocks[0].attn.proj
    handle = layer.register_forward_hook(lambda *_: None)
    try:
        assert "what its layers do" in HostedModel(demo().model).unnamed_changes
    finally:
        handle.remove()
    assert HostedModel(demo().model).unnamed_changes is None


def test_a_forward_of_another_node_is_told_and_forgotten_when_it_is_taken_back():
    """ComfyUI takes an object patch back by setting what was there: the class's own method."""
    layer = demo().model.model.diffusion_model.blocks[0].attn.proj
    own = layer.forward
    try:
        layer.forward = lambda x: own(x) * 2
        assert "what its layers do" in HostedModel(demo().model).unnamed_changes
        layer.forward = own
        assert HostedModel(demo().model).unnamed_changes is None
    finally:
        del layer.forward
