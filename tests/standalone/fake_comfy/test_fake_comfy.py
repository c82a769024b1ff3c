"""The fake ComfyUI does what this pack relies on. What /object_info says was checked against ComfyUI 0.29.0
(tests/comfy/test_toys.py); the stored copy keeps it checked where there is none."""

import json
import sys
from fractions import Fraction
from pathlib import Path

import comfy.model_management as management
import folder_paths
import pytest
import torch
from comfy import latent_formats, model_base, model_patcher, patcher_extension, supported_models_base, utils
from comfy_api.latest import InputImpl, io, ui
from comfyui_sana_video.sana_video_core.files.video_writer import VideoWriter
from comfyui_sana_video.standalone import FAKE_COMFY, use_fake_comfy

STORED = Path(__file__).parent / "object_info.json"


def test_object_info_is_the_real_one(toy_classes):
    object_info = json.loads(json.dumps({name: toy.GET_NODE_INFO_V1() for name, toy in toy_classes.items()}))
    assert object_info == json.loads(STORED.read_text(encoding="utf-8"))


def test_use_fake_comfy_is_idempotent_and_gives_way(monkeypatch):
    assert use_fake_comfy()
    assert sys.path.count(FAKE_COMFY) == 1
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry != FAKE_COMFY])
    assert not use_fake_comfy()  # comfy_api is imported: from now on somebody else's


def test_an_unknown_argument_is_refused():
    with pytest.raises(TypeError, match="minimum"):
        io.Int.Input("seed", minimum=0)
    with pytest.raises(TypeError, match="force_input"):
        io.Combo.Input("mode", options=["a"], force_input=True)  # the real Combo has none


def test_twice_the_same_id_is_refused():
    class Twice(io.ComfyNode):
        @classmethod
        def define_schema(cls):
            return io.Schema(node_id="Twice", inputs=[io.Int.Input("a"), io.Float.Input("a")])

    with pytest.raises(ValueError, match="twice"):
        Twice.GET_SCHEMA()


@pytest.fixture
def base(tmp_path):
    folder_paths.set_base_directory(tmp_path)
    for name in (
        "unet/a.pth",
        "diffusion_models/sub/b.safetensors",
        "diffusion_models/note.txt",
        "clip/c.sft",
    ):
        path = tmp_path / "models" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    yield tmp_path
    folder_paths.set_base_directory(".")


def test_model_files(base):
    assert folder_paths.get_filename_list("diffusion_models") == ["a.pth", "sub/b.safetensors"]
    assert folder_paths.get_filename_list("text_encoders") == ["c.sft"]
    assert folder_paths.get_filename_list("vae") == []
    assert folder_paths.get_full_path("diffusion_models", "a.pth") == str(base / "models/unet/a.pth")
    assert folder_paths.get_full_path("diffusion_models", "../clip/c.sft") is None
    assert folder_paths.get_full_path("vae", "x.pth") is None


def test_annotated_paths(base):
    assert folder_paths.get_annotated_filepath("a.png") == str(base / "input/a.png")
    assert folder_paths.get_annotated_filepath("sub/a.png [output]") == str(base / "output/sub/a.png")
    with pytest.raises(ValueError, match="outside"):
        folder_paths.get_annotated_filepath("../a.png")
    assert not folder_paths.exists_annotated_filepath("../models/unet/a.pth")
    assert not folder_paths.exists_annotated_filepath("a.png")


def test_names_of_saved_files_count_up(base):
    root = folder_paths.get_output_directory()
    folder, name, number, subfolder, _ = folder_paths.get_save_image_path(
        "video/a_%width%x%height%", root, 8, 4
    )
    assert (folder, name, number, subfolder) == (f"{root}/video", "a_8x4", 1, "video")
    Path(folder, "a_8x4_00007_.mp4").touch()
    Path(folder, "a_8x40_00009_.mp4").touch()
    assert folder_paths.get_save_image_path("video/a_8x4", root)[2] == 8
    with pytest.raises(ValueError, match="outside"):
        folder_paths.get_save_image_path("../a", root)


class Module(torch.nn.Module):
    def __init__(self, size, device=None, operations=None, dtype=None, **unexpected):
        super().__init__()
        self.layer, self.dtype, self.unexpected = operations.Linear(size, size), dtype, unexpected


class Config(supported_models_base.BASE):
    latent_format = latent_formats.Wan21


def test_a_model_gets_the_real_defaults_and_its_weights():
    config = Config({"size": 2})
    config.unet_config["dtype"], config.manual_cast_dtype = torch.float16, torch.float32
    model = model_base.BaseModel(config, unet_model=Module)
    assert model.diffusion_model.unexpected == {"num_heads": -1, "num_head_channels": 64}
    assert model.get_dtype() == torch.float16
    assert model.get_dtype_inference() == torch.float32
    weights = {
        "m.layer.weight": torch.full((2, 2), 3.0),
        "m.layer.bias": torch.zeros(2),
        "rest": torch.zeros(1),
    }
    model.load_model_weights(weights, "m.")
    assert set(weights) == {"rest"}
    assert model.diffusion_model.layer.weight[0, 0] == 3


def test_clones_share_the_module_only():
    patcher = model_patcher.CoreModelPatcher(torch.nn.Linear(1, 1), torch.device("cpu"), torch.device("cpu"))
    patcher.add_wrapper_with_key("outer_sample", "ours", print)
    clone = patcher.clone()
    clone.add_wrapper_with_key("outer_sample", "ours", repr)
    clone.model_options["transformer_options"]["x"] = 1
    clone.set_attachments("a", 1)
    assert patcher.wrappers == {"outer_sample": {"ours": [print]}}
    assert patcher.model_options == {"transformer_options": {}}
    assert patcher.get_attachment("a") is None
    assert clone.model is patcher.model
    assert clone.parent is patcher
    assert clone.get_model_object("weight") is patcher.model.weight


def test_loading_sends_the_others_away():
    class Seen(torch.nn.Module):
        def to(self, device):
            self.device = device

    patchers = [model_patcher.ModelPatcher(Seen(), "here", "away") for _ in range(2)]
    management.load_models_gpu(patchers[:1])
    assert patchers[0].model.device == "here"
    management.load_models_gpu([patchers[0].clone(), patchers[1]])
    assert [patcher.model.device for patcher in patchers] == ["here", "here"]
    management.load_models_gpu(patchers[1:], memory_required=1, force_full_load=True)
    assert [patcher.model.device for patcher in patchers] == ["away", "here"]


def test_an_interrupt_is_heard_once():
    management.interrupt_current_processing()
    with pytest.raises(management.InterruptProcessingException):
        management.throw_exception_if_processing_interrupted()
    management.throw_exception_if_processing_interrupted()


def test_dtypes():
    cpu, cuda = torch.device("cpu"), torch.device("cuda", 0)
    assert management.unet_dtype(device=cpu, model_params=1, supported_dtypes=[]) == torch.float32
    assert management.unet_dtype(cuda) == management.text_encoder_dtype(cuda) == torch.bfloat16
    assert management.vae_dtype(cuda, [torch.bfloat16]) == torch.bfloat16
    assert management.vae_dtype(cuda, [torch.float32]) == torch.float32
    assert management.unet_manual_cast(torch.float16, cpu) == torch.float32
    assert management.unet_manual_cast(torch.bfloat16, cuda) is None


def test_wrappers_nest():
    def wrap(name):
        return lambda executor, value: f"{name}({executor(value)})"

    options = {"wrappers": {"apply_model": {"one": [wrap("a")], "two": [wrap("b")]}}}
    wrappers = patcher_extension.get_all_wrappers(patcher_extension.WrappersMP.APPLY_MODEL, options)
    assert patcher_extension.WrapperExecutor.new_class_executor(str, None, wrappers).execute(1) == "a(b(1))"
    merged = patcher_extension.merge_nested_dicts(
        {"a": {"x": [1]}, "b": 1}, {"a": {"x": [2], "y": [3]}, "b": 2}
    )
    assert merged == {"a": {"x": [1, 2], "y": [3]}, "b": 2}


def test_progress_and_sums():
    heard = []
    utils.set_progress_bar_global_hook(lambda value, total, preview, node_id: heard.append((value, total)))
    utils.ProgressBar(4).update_absolute(9, 5)
    utils.set_progress_bar_global_hook(None)
    assert heard == [(5, 5)]
    weights = {"a": torch.zeros(3, dtype=torch.float16), "b": torch.zeros(2, 2)}
    assert utils.weight_dtype(weights) == torch.float32
    assert utils.calculate_parameters(weights) == 7


def test_previews():
    import latent_preview

    previewer = latent_preview.get_previewer(torch.device("cpu"), latent_formats.Wan21())
    kind, picture, _ = previewer.decode_latent_to_preview_image("JPEG", torch.ones(1, 16, 2, 3, 5))
    assert (kind, picture.size) == ("JPEG", (5, 3))
    assert latent_preview.get_previewer(None, latent_formats.LTXV()) is None


@pytest.fixture
def video(tmp_path):
    path = tmp_path / "video.mp4"
    with VideoWriter(path, fps=8, metadata={"seed": 3}) as writer:
        writer.write(torch.linspace(-1, 1, 5).view(1, 1, 5, 1, 1).expand(1, 3, 5, 32, 64))
    return path


def test_video_from_file(video, tmp_path):
    import av

    from_file = InputImpl.VideoFromFile(str(video))
    assert from_file.get_stream_source() == str(video)
    assert (from_file.get_dimensions(), from_file.get_frame_count(), from_file.get_frame_rate()) == (
        (64, 32),
        5,
        Fraction(8),
    )
    from_file.save_to(str(tmp_path / "copy.mp4"), metadata={"prompt": {"1": 2}})
    with av.open(str(video)) as old, av.open(str(tmp_path / "copy.mp4")) as new:
        assert new.metadata["prompt"] == '{"1": 2}'
        assert new.metadata["comment"] == old.metadata["comment"]
        packets = [[bytes(p) for p in file.demux() if p.size] for file in (old, new)]
    assert packets[0] == packets[1]


def test_ui(base):
    shown = ui.PreviewImage(torch.rand(2, 4, 6, 3), cls=None).as_dict()
    assert [file["type"] for file in shown["images"]] == ["temp", "temp"]
    assert (base / "temp" / shown["images"][0]["filename"]).is_file()
    file = ui.SavedResult("a.mp4", "video", io.FolderType.output)
    assert ui.PreviewVideo([file]).as_dict() == {
        "images": [{"filename": "a.mp4", "subfolder": "video", "type": "output"}],
        "animated": (True,),
    }
    assert ui.PreviewText("hello").as_dict() == {"text": ("hello",)}
