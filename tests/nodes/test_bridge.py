"""What the bridge asks of ComfyUI: memory, previews, masks; incomplete models are refused."""

import logging

import pytest
import torch
from comfy import model_management
from comfyui_sana_video.bridge import model, networks, stream_model, vae_networks, vaes
from comfyui_sana_video.demo.model_set import demo_set
from comfyui_sana_video.sana_video_core.errors import FileError, InputError
from comfyui_sana_video.sana_video_core.shapes import LatentGrid
from comfyui_sana_video.sana_video_core.transformer.ops import Choice
from safetensors.torch import load_file, save_file
from support.artist import demo, folders, run, sample, start


@pytest.fixture
def requested(monkeypatch):
    """Bytes that ComfyUI is asked to keep free, call by call."""
    sizes = []
    load = model_management.load_models_gpu

    def watched(models, memory_required=0, **options):
        sizes.append(memory_required)
        return load(models, memory_required=memory_required, **options)

    monkeypatch.setattr(model_management, "load_models_gpu", watched)
    return sizes


def test_room_is_requested_for_a_whole_chunk_of_the_batch(requested, monkeypatch):
    """Measured at 480x832 in bf16: 1.9 GiB of activations for a first chunk, by flash attention's formula."""
    hosted, shapes = stream_model.HostedModel(demo().model), []
    monkeypatch.setattr(demo().model, "memory_required", lambda shape: shapes.append(shape) or sum(shape))
    hosted.load(3, LatentGrid(60, 104))
    assert shapes == [[3, 16, 11, 60, 104]]
    assert requested[-1] == sum(shapes[0])
    assert demo().model.model.model_config.memory_usage_factor == pytest.approx(1.6)


def test_room_is_requested_for_decoding_the_batch(requested):
    vae = vaes.vae_of(vaes.load_vae(demo_set().vae))
    vae.load_for(1, LatentGrid(60, 104))
    vae.load_for(2, LatentGrid(60, 104))
    size = vae.network.dtype.itemsize
    assert requested[1] == 2 * requested[0]
    assert 5.3 * 2**30 < requested[0] / size * 2 < 7 * 2**30  # bf16: 5.33 GiB were measured


def test_what_was_appended_to_a_text_is_not_masked():
    mask = torch.tensor([[1, 1, 0]])
    assert networks._mask_for(torch.zeros(1, 5, 2), mask).tolist() == [[1, 1, 0, 1, 1]]
    assert networks._mask_for(torch.zeros(1, 2, 2), mask).tolist() == [[1, 1]]
    assert networks._mask_for(torch.zeros(1, 5, 2), None) is None


def test_a_soft_mask_gives_a_frame_its_mean_timestep():
    mask = torch.ones(1, 16, 2, 2, 2)
    mask[:, :, 0] = torch.tensor([[1.0, 0.0], [0.0, 0.0]])
    timesteps = demo().model.model.process_timestep(torch.tensor([800.0]), denoise_mask=mask)
    assert timesteps.tolist() == [[200.0, 800.0]]


def test_a_checkpoint_without_a_tensor_is_refused(tmp_path):
    tensors = load_file(demo_set().transformer)
    del tensors["blocks.1.mlp.t_conv.weight"]
    save_file(tensors, tmp_path / "most.safetensors")
    (tmp_path / "config.json").write_text('{"attention_head_dim": 28}')
    with pytest.raises(FileError, match=r"blocks\.1\.mlp\.t_conv"):
        model.load_patcher(tmp_path / "most.safetensors", "longsana_480p")


def test_the_loader_passes_its_choices_on(monkeypatch):
    """Also to the module that TorchCompileModel makes; impossible choices are refused before weights load."""
    patcher = run("ModelLoader", "demo (built in)", "auto", "reference")
    network = patcher.model.diffusion_model
    assert (network.kernels, network.precision) == ("reference", "full")
    load, arguments = patcher.cached_patcher_init
    assert load(*arguments, disable_dynamic=True).model.diffusion_model.kernels == "reference"
    with monkeypatch.context() as patched:
        patched.setattr(networks.SanaVideoModule, "kernel_choice", lambda *arguments: Choice(True, "", True))
        load, arguments = run("ModelLoader", "demo (built in)", "auto", "auto", "fp8").cached_patcher_init
        assert load(*arguments, disable_dynamic=True).model.diffusion_model.precision == "fp8"
    too_late = lambda *arguments, **options: pytest.fail("too late")  # noqa: E731
    monkeypatch.setattr(model.SanaVideoModel, "load_model_weights", too_late)
    with pytest.raises(InputError, match="Triton kernels cannot run here: the model computes on cpu"):
        run("ModelLoader", "demo (built in)", "auto", "triton")
    with pytest.raises(
        InputError, match=r"fp8 cannot run here: .* computes on cpu.*\. Choose full precision"
    ):
        run("ModelLoader", "demo (built in)", "auto", "auto", "fp8")


def test_kernels_are_chosen_for_what_the_model_computes_in(monkeypatch, caplog):
    """Weights may be stored in another dtype; the reason against kernels is in the log."""
    places = []
    monkeypatch.setattr(model_management, "unet_manual_cast", lambda *arguments: torch.bfloat16)
    monkeypatch.setattr(
        networks.SanaVideoModule,
        "kernel_choice",
        lambda self, *place: places.append(place) or Choice(False, "no such GPU"),
    )
    with caplog.at_level(logging.INFO, logger="sana_video"):
        run("ModelLoader", "demo (built in)", "auto")
    assert places == [(torch.device("cpu"), torch.bfloat16)]
    assert "SANA-Video runs in plain PyTorch: no such GPU." in caplog.text


def test_a_row_of_a_batch_is_decoded_alone(monkeypatch, tmp_path):
    """Other rows cost nothing."""
    _, state, _ = sample(start(batch=2))
    batch, seen = state.state.identity.batch, []
    decode = vae_networks.HostedWan.decode_frame
    monkeypatch.setattr(
        vae_networks.HostedWan,
        "decode_frame",
        lambda self, z, *others, **options: seen.append(len(z)) or decode(self, z, *others, **options),
    )
    with folders(tmp_path):
        run("DecodeStream", demo().vae, state, 0, 16.0, "h264", batch - 1)
    assert set(seen) == {1}


def test_fetched_weights_stay_while_they_are_used(monkeypatch):
    """ComfyUI fetches into one buffer for each of two streams, so a third layer overwrites the first."""
    import comfy.ops
    from torch import nn

    buffer, released = torch.empty(4), []

    def fetch(layer, like, offloadable):
        assert offloadable
        return buffer.copy_(layer.weight.detach()), buffer, "stream"

    monkeypatch.setattr(comfy.ops, "cast_bias_weight", fetch)
    monkeypatch.setattr(comfy.ops, "uncast_bias_weight", lambda *arguments: released.append(arguments[3]))
    layers = [nn.RMSNorm(4) for _ in range(3)]
    for number, layer in enumerate(layers):
        nn.init.constant_(layer.weight, number)
    with (
        networks.hosted_weights(layers[0], buffer) as one,
        networks.hosted_weights(layers[1], buffer) as two,
        networks.hosted_weights(layers[2], buffer) as three,
    ):
        parts = [part for pair in (one, two, three) for part in pair if part is not None]
        assert [part.unique().tolist() for part in parts] == [[0], [0], [1], [1], [2], [2]]
        assert released == []
    assert released == ["stream"] * 3


def test_weights_in_place_are_not_copied():
    from torch import nn

    layer = nn.Conv2d(2, 2, 1)
    with networks.hosted_weights(layer, torch.zeros(1)) as (weight, bias):
        assert weight is layer.weight
        assert bias is layer.bias


def test_weights_that_dynamic_vram_keeps_on_the_device_are_not_copied(monkeypatch):
    import comfy.ops
    from torch import nn

    layer = nn.RMSNorm(4)
    layer._v_weight = torch.ones(4)
    monkeypatch.setattr(
        comfy.ops, "cast_bias_weight", lambda *arguments, **more: (layer._v_weight, None, None)
    )
    monkeypatch.setattr(comfy.ops, "uncast_bias_weight", lambda *arguments: None)
    with networks.hosted_weights(layer, torch.zeros(1)) as (weight, _):
        assert weight is layer._v_weight
