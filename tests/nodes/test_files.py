"""Which files an artist can choose, where they are, and what the error says when one is missing."""

import os

import pytest
from comfyui_sana_video.demo.model_set import DemoSet
from comfyui_sana_video.nodes import files
from comfyui_sana_video.sana_video_core.files.atomic import atomic_path
from support.artist import DEMO, NAMED, folders, refused

KINDS = [files.TRANSFORMER, files.TEXT_ENCODER, files.VAE, files.LORA]
WITH_DEMO = KINDS[:3]


@pytest.fixture(autouse=True)
def base(tmp_path):
    with folders(tmp_path):
        yield tmp_path


def put(folder, *names, size=0):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x" * size)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.folder)
def test_files_come_first_nested_ones_too_then_the_demo(base, kind):
    put(base / "models" / kind.folder, "b.safetensors", "sana/deep/a.safetensors", "note.txt")
    assert files.choices(kind) == ["b.safetensors", "sana/deep/a.safetensors", *([DEMO] if kind.demo else [])]
    for name in ("b.safetensors", "sana/deep/a.safetensors"):
        assert files.path_of(kind, name) == base / "models" / kind.folder / name
        assert files.check(kind, name) is True


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.folder)
def test_without_files_there_is_only_the_demo(kind):
    assert files.choices(kind) == ([DEMO] if kind.demo else [])


def test_folders_of_text_encoders_are_listed_too(base):
    encoders = base / "models" / "text_encoders"
    put(encoders, "gemma/config.json", "gemma/model.safetensors", "pipeline/text_encoder/config.json")
    put(encoders, "one.safetensors", "other/readme.md")
    assert files.choices(files.TEXT_ENCODER) == [
        "gemma/model.safetensors",
        "one.safetensors",
        "gemma",
        "pipeline/text_encoder",
        DEMO,
    ]
    assert files.path_of(files.TEXT_ENCODER, "gemma") == encoders / "gemma"
    assert files.path_of(files.TEXT_ENCODER, "pipeline/text_encoder") == encoders / "pipeline/text_encoder"
    with refused("other"):
        files.path_of(files.TEXT_ENCODER, "other")
    put(base / "models" / "vae", "wan/config.json")
    assert files.choices(files.VAE) == [DEMO]
    with refused("“wan”"):
        files.path_of(files.VAE, "wan")


SANA = b'{"_class_name": "SanaVideoCausalTransformer3DModel"}'


def test_diffusers_folders_of_transformers_are_listed_too(base):
    models = base / "models" / "diffusion_models"
    weights = "diffusion_pytorch_model"
    put(models, f"flat/{weights}.safetensors", f"bare/{weights}.bf16.safetensors", "notes/config.json")
    put(models, f"wan/{weights}.safetensors", f"author/pipe/vae/{weights}.safetensors")
    put(models, *(f"author/pipe/transformer/{weights}-0000{i}-of-00002.safetensors" for i in (1, 2)))
    put(base / "models" / "diffusers", f"hub/transformer/{weights}.safetensors.index.json")
    for name in ("flat", "author/pipe/transformer"):
        (models / name / "config.json").write_bytes(SANA)
    for name in ("wan", "author/pipe/vae"):
        (models / name / "config.json").write_bytes(b'{"_class_name": "WanTransformer3DModel"}')
    listed = files.choices(files.TRANSFORMER)
    folders = [name for name in listed if not name.endswith(".safetensors")]
    assert folders == ["author/pipe/transformer", "bare", "flat", "hub/transformer", DEMO]
    for name in (*folders[:-1], "author/pipe", "author\\pipe\\transformer", "hub"):
        assert files.check(files.TRANSFORMER, name) is True, name
    assert files.path_of(files.TRANSFORMER, "author/pipe") == models / "author" / "pipe"
    assert type(files.check(files.TRANSFORMER, "notes")) is str


def test_a_part_of_a_model_says_so_when_it_is_chosen(base):
    name = "long/diffusion_pytorch_model-00002-of-00003.safetensors"
    for kind in KINDS:
        put(base / "models" / kind.folder, name)
        said = files.check(kind, name)
        assert "one of 3 parts" in said
        assert "“long”" in said


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.folder)
def test_a_list_shows_what_can_be_read_and_all_of_it(base, kind):
    put(
        base / "models" / kind.folder, *(f"a{suffix}" for suffix in (".sft", ".pkl", ".pt2", ".ckpt", ".SFT"))
    )
    names = files.choices(kind)
    assert names[:4] == ["a.SFT", "a.ckpt", "a.pkl", "a.sft"]
    assert "a.pt2" not in names


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.folder)
def test_a_name_from_windows_finds_its_file(base, kind):
    put(base / "models" / kind.folder, "sana/deep/a.safetensors")
    assert (
        files.path_of(kind, "sana\\deep\\a.safetensors")
        == base / "models" / kind.folder / "sana/deep/a.safetensors"
    )
    for name in ("..\\vae\\a.safetensors", "a\\..\\..\\b.safetensors", "\\etc\\passwd", 5):
        with refused(f"“{name}”"):
            files.path_of(kind, name)


def test_a_states_name_from_windows_finds_its_file(base):
    put(base / "output" / "sana_states", "take/one.safetensors")
    found = files.saved_state("sana_states\\take\\one.safetensors [output]")
    assert found == base / "output" / "sana_states" / "take" / "one.safetensors"
    with refused("no saved state"):
        files.saved_state("sana_states\\two.safetensors [output]")
    with refused("outside"):
        files.saved_state("..\\..\\two.safetensors [output]")


@pytest.mark.parametrize("kind", WITH_DEMO, ids=lambda kind: kind.folder)
def test_the_demo_comes_from_its_set(kind, monkeypatch, tmp_path):
    demo = DemoSet.at(tmp_path / "set")
    monkeypatch.setattr("comfyui_sana_video.demo.model_set.demo_set", lambda: demo)
    assert files.path_of(kind, DEMO) == getattr(demo, kind.demo)
    assert files.check(kind, DEMO) is True


NVIDIA = "Efficient-Large-Model/SANA-Video"
WAN, LTX = "Comfy-Org/Wan_2.1_ComfyUI_repackaged", "Kijai/LTXV2_comfy"


@pytest.mark.parametrize(
    ("kind", "name", "words"),
    [
        (files.TRANSFORMER, "gone", ("a SANA-Video transformer", f"{NVIDIA}_2B_480p_LongLive")),
        (files.TRANSFORMER, "SANA_Video_2.0_5B_720p_4step", (f"{NVIDIA}_2.0_5B_720p", "_2.0_5B_720p_4step")),
        (files.TEXT_ENCODER, "gone", ("Gemma-2-2B-it", "Comfy-Org/PixelDiT", "google/gemma-2-2b-it")),
        (files.VAE, "gone", ("Wan 2.1's for 480p", WAN, "split_files/vae/wan_2.1_vae.safetensors")),
        (files.VAE, "LTX2_vae", ("LTX-2's for 720p", LTX, "VAE/LTX2_video_vae_bf16.safetensors")),
        (files.VAE, "LTX23_vae", ("LTX-2.3's for SANA-Video 2.0", "vae/LTX23_video_vae_bf16.safetensors")),
        (files.LORA, "gone", ("a LoRA", "of your own")),
    ],
)
def test_a_missing_file_names_folder_file_and_where_it_is_published(kind, name, words):
    """One place, not all: the page draws these words on the node."""
    name = f"{name}.safetensors"
    said = (f"“{name}”", f"models/{kind.folder}", "press R", *words)
    with refused(*said):
        files.path_of(kind, name)
    assert all(word in files.check(kind, name) for word in said)
    assert ("demo (built in)" in files.check(kind, name)) == bool(kind.demo)
    assert len(files.check(kind, name)) < 400


@pytest.mark.parametrize("name", ["", "../vae/a.safetensors", "a/../../b.safetensors", "/etc/passwd"])
def test_a_name_stays_in_its_folder(base, name):
    put(base / "models", "vae/a.safetensors", "b.safetensors")
    for kind in (files.TRANSFORMER, files.TEXT_ENCODER):
        with refused(
            f"“{name}” isn't the name of a file in models/{kind.folder}", "Choose one from the list"
        ):
            files.path_of(kind, name)


def test_a_linked_name_is_not_checked_before_the_run():
    """ComfyUI passes None for what comes through a link."""
    loaders = [
        NAMED[f"SanaVideo{name}"] for name in ("ModelLoader", "TextEncoderLoader", "VAELoader", "LoraLoader")
    ]
    assert [loader.validate_inputs(None) for loader in loaders] == [True] * 4
    assert [type(loader.validate_inputs("gone")) for loader in loaders] == [str] * 4


def test_there_is_no_demo_lora(base):
    with refused("models/loras"):
        files.path_of(files.LORA, DEMO)


# --- saved states


def test_saved_states_newest_first_without_hidden_files(base):
    put(
        base / "output" / "sana_states",
        "old.safetensors",
        "sub/new.safetensors",
        ".half.safetensors",
        "a.mp4",
    )
    put(base / "output", "elsewhere.safetensors")
    put(base / "input", "given.safetensors", "deep/b.safetensors", ".hidden.safetensors", "cat.png")
    times = {
        "output/sana_states/old": 10,
        "input/given": 20,
        "output/sana_states/sub/new": 30,
        "input/deep/b": 5,
    }
    for name, when in times.items():
        os.utime(base / f"{name}.safetensors", (when, when))
    assert files.saved_states() == [
        "sana_states/sub/new.safetensors [output]",
        "given.safetensors [input]",
        "sana_states/old.safetensors [output]",
        "deep/b.safetensors [input]",
    ]
    for name in files.saved_states():
        assert files.saved_state(name).is_file()


def test_without_folders_there_are_no_states():
    assert files.saved_states() == []


def test_a_broken_link_does_not_break_the_list(base):
    """Otherwise ComfyUI could list no node of any pack: it asks for all schemas at once."""
    put(base / "output" / "sana_states", "a.safetensors")
    (base / "output" / "sana_states" / "b.safetensors").symlink_to("gone")
    assert files.saved_states() == ["sana_states/a.safetensors [output]"]


# --- new files


def _new(prefix, suffix=".safetensors"):
    with files.new_file(prefix, suffix) as path:
        return path


def test_new_names(base):
    assert _new("a/state") == base / "output" / "a" / "state_00001_.safetensors"
    put(base / "output" / "a", "state_00041_.safetensors")
    assert _new("a/state").name == "state_00042_.safetensors"
    assert "%year%" not in _new("take_%year%", ".mp4").name


def test_a_new_name_is_held_until_it_is_written(base):
    """Also against other processes: tests/core/files/test_claims.py."""
    with files.new_file("state", ".safetensors") as one, files.new_file("state", ".safetensors") as other:
        one.touch()
        assert [one.name, other.name] == ["state_00001_.safetensors", "state_00002_.safetensors"]
        assert _new("state").name == "state_00003_.safetensors"
    assert [path.name for path in (base / "output").iterdir()] == ["state_00001_.safetensors"]


def test_two_processes_that_counted_the_same_number(base, monkeypatch):
    put(base / "output", "state_00001_.safetensors")  # finished between counting and holding
    told = (str(base / "output"), "state", 1, "", "state")
    monkeypatch.setattr(files.folder_paths, "get_save_image_path", lambda *_: told)
    assert _new("state").name == "state_00002_.safetensors"


@pytest.mark.parametrize(
    "prefix, words",
    [
        ("x" * 300, "too long"),
        ("x" * 300 + "/a", "too long"),
        ("nul\0", "null"),
        ("file/a", "cannot be written"),
    ],
    ids=["name", "folder", "nul", "file"],
)
def test_a_prefix_that_cannot_be_written_is_refused_before_the_run(base, prefix, words):
    put(base / "output" / "sana_states", "file")
    check = NAMED["SanaVideoSaveState"].validate_inputs
    assert words in check(prefix)
    assert (check("good"), check(None)) == (True, True)
    assert "does not name a file" in check("../a")
    assert files.saved_states() == []


def test_states_that_are_being_written_are_not_listed(base):
    with atomic_path(_state(base, "a")) as temporary:
        temporary.with_suffix(".safetensors").touch()
        assert files.saved_states() == []


def _state(base, name):
    put(base / "output" / "sana_states", "note.txt")
    return base / "output" / "sana_states" / f"{name}.safetensors"


@pytest.mark.parametrize("name", ["x" * 300 + " [output]", "nul\0", "folder.safetensors [input]"])
def test_names_of_states_that_cannot_be(base, name):
    put(base / "input" / "folder.safetensors", "a.txt")
    assert "“" in NAMED["SanaVideoLoadState"].validate_inputs(name)


def test_temporary_names_are_never_the_same(base):
    one, other = files.temporary_file(".mp4"), files.temporary_file(".mp4")
    assert one != other
    assert one.parent == other.parent == base / "temp"
    assert one.parent.is_dir()
    assert one.suffix == ".mp4"
