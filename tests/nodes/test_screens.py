"""When the film node decodes beside the sampling, and that nothing is loaded meanwhile."""

from types import SimpleNamespace

import comfy.model_management as management
import pytest
import torch
from comfyui_sana_video.bridge.screens import Turns, moved_decoder
from comfyui_sana_video.bridge.vaes import load_vae, vae_of
from comfyui_sana_video.demo.model_set import demo_set
from comfyui_sana_video.sana_video_core.shapes import LatentGrid
from comfyui_sana_video.sana_video_core.streaming.pipeline import SPARE
from support.artist import demo, refused
from support.pack import same

CUDA, CPU = torch.device("cuda", 0), torch.device("cpu")
SAMPLING, DECODING = 10, 20  # bytes
ENOUGH = SAMPLING + DECODING + SPARE + 1


def patcher(loaded: int = 8, dynamic: bool = False):
    return SimpleNamespace(loaded_size=lambda: loaded, model_size=lambda: 8, is_dynamic=lambda: dynamic)


@pytest.fixture
def turns(monkeypatch):
    """turns(overlap, device, free, vae): and in `.loaded` what is loaded, in its order."""

    def made(overlap="auto", device=CUDA, free=ENOUGH, vae=None):
        loaded, model, vae = [], patcher(), vae or patcher()
        monkeypatch.setattr(management, "load_models_gpu", lambda models, **_: loaded.append(models))
        monkeypatch.setattr(management, "get_free_memory", lambda device: free)
        hosted = SimpleNamespace(
            patcher=model, memory_for=lambda *_: SAMPLING, load=lambda *_: loaded.append([model])
        )
        network = SimpleNamespace(memory_for=lambda *_: DECODING)
        decoder = SimpleNamespace(
            patcher=vae, device=device, network=network, load_for=lambda *_: loaded.append([vae])
        )
        identity = SimpleNamespace(batch=1, grid=LatentGrid(2, 4))
        result = Turns(hosted, decoder, identity, overlap)
        result.loaded, result.models = loaded, (model, vae)
        return result

    return made


@pytest.mark.parametrize("wish, free", [("auto", ENOUGH), ("on", 0)])
def test_side_by_side_both_are_loaded_once(turns, wish, free):
    """In one call: a second might unload the first one's model."""
    both = turns(wish, free=free)
    assert both.side_by_side()
    assert both.loaded == [list(both.models)]


@pytest.mark.parametrize(
    "asked",
    [
        {"overlap": "off"},
        {"device": CPU, "overlap": "on"},
        {"free": ENOUGH - 1},
        {"vae": patcher(loaded=7), "overlap": "on"},
        {"vae": patcher(dynamic=True), "overlap": "on"},
    ],
    ids=["not wished", "no GPU", "no room", "partly loaded", "dynamic VRAM"],
)
def test_in_turn_each_is_loaded_for_its_turn(turns, asked):
    taken = turns(**asked)
    model, vae = taken.models
    assert not taken.side_by_side()
    taken.loaded.clear()
    taken.to_decode()
    taken.to_sample()
    taken.to_decode()
    assert taken.loaded == [[vae], [model], [vae]]


def test_a_copy_for_another_gpu_has_the_same_weights():
    vae = load_vae(demo_set().vae)
    decoder = vae_of(vae)
    moved, weights = moved_decoder(decoder, vae, CPU), vae.first_stage_model.state_dict()
    assert all(same(tensor, weights[name]) for name, tensor in moved.state_dict().items())
    vae.patcher.patches = {"decoder.conv1.weight": []}
    with refused("changed this VAE's weights", "choose default as vae_device"):
        moved_decoder(decoder, vae, CPU)


def test_the_fake_hosts_patcher_says_how_much_of_it_is_loaded():
    model = demo().vae.patcher
    management.load_models_gpu([model])
    assert model.loaded_size() == model.model_size() > 0
