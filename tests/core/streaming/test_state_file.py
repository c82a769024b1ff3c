"""A state's file: bit-identical to the state, complete or absent, and no other file mistaken for one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from comfyui_sana_video.sana_video_core.errors import FileError
from comfyui_sana_video.sana_video_core.files import tensor_file
from comfyui_sana_video.sana_video_core.streaming.state_file import OLDER, load_state, save_state
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from support import checks_stream
from support.checkpoint_files import WEIGHTS, cuts, refusal, write_ours
from support.checks_stream import assert_same_state, begin, prompt, run
from support.pack import ROOT, Pack

PACK = Pack()
PROMPTS = ('猫が跳ねる, Ø \U0001f3ac "quoted" {json: [1]}\n\ttwo lines\0', "half a smile: \ud83d", "")


@pytest.fixture(scope="module")
def model():
    return PACK.tiny_model()


@pytest.fixture(scope="module")
def state(model):
    """Two chunks."""
    return run(PACK, model, begin(PACK, model), plan=(3, 2), loras=("one 1", "ä/two.safetensors 0.5"))


@pytest.fixture
def path(tmp_path):
    return tmp_path / "s.safetensors"


def _primed(model, length, **size):
    generator = torch.Generator().manual_seed(1)
    latents = torch.randn(1, 16, length, 4, 6, generator=generator)
    return PACK.core("streaming.stream").prime(model, begin(PACK, model, **size), prompt(PACK, "p"), latents)


def _cut(model, **size):
    first = run(PACK, model, begin(PACK, model, **size), "a", plan=(3, 2))
    return run(PACK, model, first, "b", plan=(2,), on_prompt_change="cut")


def _with_prompts(model):
    whole = run(PACK, model, begin(PACK, model), plan=(1, 1, 1))
    history = tuple(replace(chunk, prompt=words) for chunk, words in zip(whole.history, PROMPTS, strict=True))
    return replace(whole, history=history)


STATES = {
    "fresh": lambda model: begin(PACK, model),
    "fresh_window": lambda model: begin(PACK, model, window=3),
    "one_chunk": lambda model: run(PACK, model, begin(PACK, model)),
    "chunks": lambda model: run(PACK, model, begin(PACK, model), plan=(3, 2, 1), loras=("a 1", "b 1")),
    "seeds": lambda model: run(
        PACK, model, run(PACK, model, begin(PACK, model), seed=2**64 - 1), "b", seed=0
    ),
    "recached": lambda model: run(PACK, model, run(PACK, model, begin(PACK, model), plan=(2, 2)), "b"),
    "image_primed": lambda model: _primed(model, 1),
    "video_primed": lambda model: _primed(model, 21),
    "primed_and_on": lambda model: run(PACK, model, _primed(model, 1), plan=(2,)),
    "cut": _cut,
    "at_a_cut": lambda model: _cut(model).with_cut(),
    "batch_2": lambda model: run(PACK, model, begin(PACK, model, batch=2), plan=(3, 2)),
    "window_1": lambda model: run(PACK, model, begin(PACK, model, window=1), plan=(2, 1, 1)),
    "window_2": lambda model: run(PACK, model, begin(PACK, model, window=2), plan=(2, 1, 1)),
    "window_not_full": lambda model: run(PACK, model, begin(PACK, model, window=9), plan=(2, 1)),
    "window_cut": lambda model: _cut(model, window=2),
    "prompts": _with_prompts,
}


# --- save and load


@pytest.mark.parametrize("kind", STATES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_save_and_load(path, kind, dtype):
    model = PACK.tiny_model().to(dtype)
    state = STATES[kind](model)
    save_state(state, path)
    loaded = load_state(path)
    assert_same_state(state, loaded)
    assert type(loaded.memory) is type(state.memory)
    assert [type(block) for block in loaded.memory or ()] == [type(block) for block in state.memory or ()]
    if state.memory:
        assert loaded.memory[0].tail.dtype == dtype
        assert loaded.memory[0].past.vk.dtype == torch.float32
    again = path.with_name("again.safetensors")
    save_state(loaded, again)
    assert_same_state(load_state(again), state)


def test_prompts_come_back_unchanged(model, path):
    save_state(_with_prompts(model), path)
    assert tuple(chunk.prompt for chunk in load_state(path).history) == PROMPTS


def test_the_file_is_safetensors_and_never_a_pickle(state, path, monkeypatch):
    save_state(state, path)
    start = path.read_bytes()[:9]
    assert 0 < int.from_bytes(start[:8], "little") < path.stat().st_size
    assert start[8:] == b"{"
    monkeypatch.setattr(torch, "load", lambda *args, **options: pytest.fail("a pickle was opened"))
    pickled = path.with_suffix(".pth")
    torch.save({"state_dict": WEIGHTS}, pickled)
    refusal(lambda: load_state(pickled), FileError)


def test_any_name_that_was_saved_can_be_loaded(state, tmp_path):
    for name in ("take 1", "take.1", "猫.state", "t.SAFETENSORS", "a.pth"):
        save_state(state, tmp_path / name)
        assert_same_state(state, load_state(str(tmp_path / name)))


def test_a_loaded_state_is_a_value(state, path):
    """Overwriting its file in place doesn't show in the state."""
    save_state(state, path)
    loaded = load_state(path)
    with path.open("r+b") as file:
        file.seek(path.stat().st_size // 4)
        file.write(bytes(path.stat().st_size // 2))
    assert_same_state(state, loaded)


def test_saving_writes_to_no_tensor(state, path):
    before = [(tensor.data_ptr(), tensor._version, tensor.clone()) for tensor in state.tensors()]
    save_state(state, path)
    for (address, version, content), tensor in zip(before, state.tensors(), strict=True):
        assert (tensor.data_ptr(), tensor._version) == (address, version)
        assert torch.equal(tensor, content)


def test_saving_over_the_file_that_a_state_came_from(model, state, path):
    save_state(state, path)
    longer = run(PACK, model, load_state(path))
    save_state(longer, path)
    assert_same_state(load_state(path), longer)


# --- other files


def test_other_files_are_refused(tmp_path):
    for weights in (tmp_path / "plain", write_ours(tmp_path, WEIGHTS)):
        if not weights.exists():
            save_file(WEIGHTS, weights)
        assert "isn't a saved state" in refusal(lambda: load_state(weights), FileError)  # noqa: B023
    refusal(lambda: load_state(tmp_path), FileError)
    refusal(lambda: load_state(tmp_path / "nowhere.safetensors"), FileError)
    (tmp_path / "text.safetensors").write_text("Dear diary, today I made a video.")
    assert "text.safetensors" in refusal(lambda: load_state(tmp_path / "text.safetensors"), FileError)


def test_a_state_is_not_a_checkpoint(state, path):
    save_state(state, path)
    assert "isn't a SANA-Video transformer" in refusal(
        lambda: PACK.core("checkpoints.checkpoint").load_transformer(path), FileError
    )


def test_truncated_states(state, path):
    save_state(state, path)
    whole = path.read_bytes()
    header = int.from_bytes(whole[:8], "little")
    for length in cuts(len(whole), 8 + header):
        path.write_bytes(whole[:length])
        assert path.name in refusal(lambda: load_state(path), FileError)


# --- states that somebody changed


@pytest.fixture(scope="module")
def parts(state, tmp_path_factory):
    """Description and tensors of a good file."""
    path = tmp_path_factory.mktemp("parts") / "s.safetensors"
    save_state(state, path)
    return _read(path)


def _changed(path, parts, change, **metadata):
    described, tensors = json.loads(json.dumps(parts[0])), dict(parts[1])
    change(described, tensors)
    tensor_file.write_tensors(
        path, tensors, {"sana_video_state": "1", "state": json.dumps(described), **metadata}
    )
    return path


def test_the_changes_below_begin_with_a_good_file(state, parts, path):
    _changed(path, parts, lambda described, tensors: None)
    assert_same_state(load_state(path), state)


@pytest.mark.parametrize("version", ["3", "0", "", "1.0"])
def test_another_version(parts, path, version):
    _changed(path, parts, lambda *_: None, sana_video_state=version)
    assert "Update the pack" in refusal(lambda: load_state(path), FileError)


@pytest.mark.parametrize("text", ["", "{", "null", "[]", "5", '"words"', "{}", "[" * 100_000, "1" * 5000])
def test_a_malformed_description(parts, path, text):
    _changed(path, parts, lambda *_: None, state=text)
    assert path.name in refusal(lambda: load_state(path), FileError)


def test_the_rule_is_kept_and_older_files_have_none(model, parts, path):
    made = run(PACK, model, begin(PACK, model), rule="original")
    save_state(made, path)
    assert_same_state(load_state(path), made)
    _changed(path, parts, lambda described, _: [chunk.pop("rule") for chunk in described["story"]])
    assert {chunk.rule for chunk in load_state(path).history} == {"training"}


def test_an_unknown_family(parts, path):
    _changed(path, parts, lambda described, _: described["identity"].update(family="sana_video_9000p"))
    message = refusal(lambda: load_state(path), FileError)
    assert "sana_video_9000p" in message
    assert "Update the pack" in message


WRONG = {
    "fingerprint": (None, 5, ["x"]),
    "family": (None, 5, True),
    "channels": (None, "16", 16.0, 8, 0, -16, True),
    "rows": (None, "4", 4.0, 6, 3, 0, -4, 10**30),
    "columns": (None, "6", 6.0, 4, 0, -6),
    "batch": (None, "1", 1.0, 2, 0, -1, True),
    "window": ("1", 1.0, 0, -1, 1, 2, True, [1]),
    "prompt": (None, 5, ["x"], {}),
    "digest": (None, 5, ["x"]),
    "scene": (None, "0", 0.0, 1, 7, -1, False),
    "seed": ("7", 7.0, True, [7]),
    "primed": (None, 0, 1, "yes"),
    "loras": (None, "a", {}, [1], [None], 5),
    "rule": (None, "theirs", 5, ["original"]),
    "entry": ("cut", "", 5),
    "weights": (None, 5),
    "compute": (None, 5),
    "key": (5, ["x"]),
    "anywhere": (5, True),
    "text": (1, -1, "0", 0.0, True, [0]),
}
OWN_SCENE, OWN_BLOCKS = (None, "0", 0.0, 1, -1, 5, True), (None, "2", 2.0, 0, 1, 3, -2, True, 10**9)


def _fields():
    for record, names in (("identity", list(WRONG)[:7]), ("story", list(WRONG)[7:])):
        # older files lack some
        missing = {name: ("missing",) for name in names if name not in (*OLDER, "text")}
        yield from ((record, name, v) for name in names for v in (*missing.get(name, ()), *WRONG[name]))
    yield from (("", "scene", value) for value in ("missing", *OWN_SCENE))
    for name in ("identity", "story", "blocks"):
        yield from (("", name, value) for value in ("missing", None, "x", 5, [], {}, [1], [[]], True))
    for name in ("memory", "memory_before"):
        yield from (("blocks", name, value) for value in ("missing", *OWN_BLOCKS))


def test_every_wrong_field_is_noticed(parts, path, subtests):
    for record, name, value in _fields():

        def change(described, tensors, record=record, name=name, value=value):
            owner = described[record] if record else described
            owner = owner[0] if record == "story" else owner
            if value == "missing":
                del owner[name]
            else:
                owner[name] = value

        with subtests.test(record=record, name=name, value=value):
            changed = _changed(path, parts, change)
            refusal(lambda changed=changed: load_state(changed), FileError)


SHAPES = (
    (),
    (0,),
    (3,),
    (1, 1, 1, 1),
    (1, 3, 20, 20, 1),
    (2, 3, 20, 20),
    (1, 3, 19, 19),
    (1, 60, 1, 5),
    (1, 16, 0, 4, 6),
)


def test_every_wrong_tensor_is_noticed(parts, path):
    for name, tensor in parts[1].items():
        others = [torch.zeros(shape) for shape in SHAPES]
        others += [tensor.to(torch.int32), tensor[:, :1], torch.cat([tensor, tensor])]
        if not name.endswith("tail"):  # tails are in the compute dtype
            others += [tensor.half(), tensor.bfloat16(), tensor.double()]
        for other in (None, *others):

            def change(described, tensors, name=name, other=other):
                del tensors[name]
                if other is not None:
                    tensors[name] = other.contiguous()

            refusal(lambda: load_state(_changed(path, parts, change)), FileError)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_nan_in_any_tensor_is_noticed(parts, path, value):
    """Also in the memory that only a recache reads, many chunks later."""
    assert any(name.startswith("memory_before") for name in parts[1])
    for name, tensor in parts[1].items():
        if tensor.dtype == torch.bool:
            continue
        broken = tensor.clone()
        broken.view(-1)[broken.numel() // 2] = value

        def change(described, tensors, name=name, broken=broken):
            tensors[name] = broken

        message = refusal(lambda: load_state(_changed(path, parts, change)), FileError)
        assert name in message
        assert "no numbers" in message


@pytest.mark.parametrize(
    "name", ["extra", "memory.2.vk", "memory.0.sums.0.vk", "story.2.latents", "memory_before.0.sums.0.ksum"]
)
def test_an_extra_tensor_is_noticed(parts, path, name):
    _changed(path, parts, lambda _, tensors: tensors.update({name: torch.zeros(1)}))
    assert name in refusal(lambda: load_state(path), FileError)


def test_extra_and_missing_chunks_are_noticed(parts, path):
    for change in (
        lambda described, tensors: described["story"].pop(),
        lambda described, tensors: (described["story"].pop(), tensors.pop("story.1.latents")),
        lambda described, tensors: described["story"].append(described["story"][0]),
        lambda described, tensors: described.update(scene=1),
        lambda described, tensors: described["story"][0].update(scene=1),
    ):
        refusal(lambda: load_state(_changed(path, parts, change)), FileError)  # noqa: B023


def _read(path):
    with safe_open(path, framework="pt") as file:
        return json.loads(file.metadata()["state"]), load_file(path)


@pytest.mark.parametrize("kind, scene", [("fresh", 1), ("fresh", -1), ("at_a_cut", 1), ("at_a_cut", 3)])
def test_a_wrong_scene_without_a_memory_is_noticed(model, path, kind, scene):
    save_state(STATES[kind](model), path)
    _changed(path, _read(path), lambda described, _: described.update(scene=scene))
    refusal(lambda: load_state(path), FileError)


@pytest.mark.parametrize("name", ["channels", "rows", "columns", "batch", "window"])
@pytest.mark.parametrize("size", [0, -2])
def test_an_impossible_size_without_a_tensor_is_noticed(model, path, name, size):
    save_state(STATES["fresh_window"](model), path)
    _changed(path, _read(path), lambda described, _: described["identity"].update({name: size}))
    refusal(lambda: load_state(path), FileError)


def test_memories_of_different_depths_are_noticed(parts, path):
    """Otherwise only a change of prompt would read the shorter one, perhaps days later."""

    def change(described, tensors):
        described["blocks"]["memory_before"] = 1
        for part in ("vk", "ksum", "tail"):
            del tensors[f"memory_before.1.{part}"]

    refusal(lambda: load_state(_changed(path, parts, change)), FileError)


def test_tensors_of_another_picture_or_batch_are_named(parts, path):
    """Every tensor for itself: one that fits its neighbours but not the stream is noticed, too."""
    for name, axis in (("tail", 3), ("tail", 0), ("vk", 0), ("ksum", 0)):

        def cut(_, tensors, name=name, axis=axis):
            for key in [key for key in tensors if key.startswith("memory") and key.endswith(name)]:
                twice = torch.cat([tensors[key]] * 2, dim=axis)
                tensors[key] = twice.contiguous()

        words = refusal(lambda change=cut: load_state(_changed(path, parts, change)), FileError)
        assert f"memory.0.{name} is" in words


@pytest.mark.parametrize("shape", [(), (3,), (1, 2, 3), (1, 1, 2, 3, 3)])
def test_a_tensor_with_other_axes_is_named(parts, path, shape):
    for name in ("memory.0.vk", "memory.1.vk", "memory.0.tail"):

        def change(_, tensors, name=name):
            tensors[name] = torch.zeros(shape)

        words = refusal(lambda change=change: load_state(_changed(path, parts, change)), FileError)
        assert name.rpartition(".")[0] in words
        assert "unpack" not in words


def test_blocks_and_memories_of_different_models_are_noticed(parts, path):
    def wider(names):
        def change(_, tensors):
            for key in [key for key in tensors if key.startswith(names)]:
                tensors[key] = torch.cat([tensors[key]] * 2, dim=1).contiguous()

        return change

    for names in ("memory.1.", "memory_before."):
        words = refusal(lambda names=names: load_state(_changed(path, parts, wider(names))), FileError)
        assert "of different models" in words


@pytest.mark.parametrize("kind", ["window_1", "window_2", "window_not_full"])
def test_every_sum_of_a_window_counts(model, path, kind):
    save_state(STATES[kind](model), path)
    parts = _read(path)
    sums = [name for name in parts[1] if ".sums." in name]
    assert sums
    for name in sums:
        refusal(lambda: load_state(_changed(path, parts, lambda _, tensors: tensors.pop(name))), FileError)  # noqa: B023
    stem, _, _ = sums[-1].rpartition(".sums.")
    last = {n.rpartition(".")[0] for n in sums if n.startswith(stem)}
    number = max(int(n.rpartition(".")[2]) for n in last)

    def one_less(described, tensors):
        for part in ("vk", "ksum"):
            del tensors[f"{stem}.sums.{number}.{part}"]

    refusal(lambda: load_state(_changed(path, parts, one_less)), FileError)


# --- disks and interrupts

FULL_DISK = """
import resource, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import conftest
from comfyui_sana_video.sana_video_core.errors import FileError
from comfyui_sana_video.sana_video_core.streaming.state_file import OLDER, load_state, save_state
old = Path(sys.argv[2])
state, size = load_state(old), old.stat().st_size
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
for name in (old.name, "new.safetensors"):
    for limit in (0, 1, 100, size // 2, size - 1):
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
        try:
            save_state(state, old.with_name(name))
            print("written")
        except FileError as error:
            print(error)
resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
save_state(state, old.with_name("fits.safetensors"))
"""


@pytest.mark.skipif(os.name == "nt", reason="Windows cannot limit the size of files")
def test_a_full_disk(state, path):
    save_state(state, path)
    before = path.read_bytes()
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(ROOT / "tests"), str(path)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == 10
    assert all("could not be written" in line and "too large" in line for line in lines), lines
    assert path.read_bytes() == before
    assert sorted(file.name for file in path.parent.iterdir()) == ["fits.safetensors", "s.safetensors"]
    assert_same_state(load_state(path.with_name("fits.safetensors")), state)


@pytest.mark.parametrize("there", [False, True])
def test_an_interrupted_save(model, state, path, monkeypatch, there):
    if there:
        save_state(state, path)
    before = path.read_bytes() if there else None

    def stopped(tensors, temporary, metadata):
        Path(temporary).write_bytes(b"half of it")
        raise KeyboardInterrupt

    monkeypatch.setattr(tensor_file, "save_file", stopped)
    with pytest.raises(KeyboardInterrupt):
        save_state(run(PACK, model, state), path)
    assert [file.name for file in path.parent.iterdir()] == ([path.name] if there else [])
    assert before is None or path.read_bytes() == before


@pytest.mark.skipif(os.name == "nt", reason="no umask on Windows")
@pytest.mark.parametrize("mask", [0o022, 0o077])
def test_permissions(state, path, mask):
    old = os.umask(mask)
    try:
        save_state(state, path)
    finally:
        os.umask(old)
    assert path.stat().st_mode & 0o777 == 0o666 & ~mask


def test_places_where_no_state_can_be(state, tmp_path):
    (tmp_path / "folder.safetensors").mkdir()
    assert "no folder" in refusal(
        lambda: save_state(state, tmp_path / "missing" / "s.safetensors"), FileError
    )
    assert "it is a folder" in refusal(lambda: save_state(state, tmp_path / "folder.safetensors"), FileError)
    assert [file.name for file in tmp_path.iterdir()] == ["folder.safetensors"]


def test_checks_of_the_stream_know_what_a_state_holds():
    """`assert_same_state`, which this file relies on, sees a change in anything."""
    model = PACK.tiny_model()
    whole = run(PACK, model, begin(PACK, model), plan=(2, 2))
    chunk = whole.history[0]
    for other in (
        replace(whole, identity=replace(whole.identity, rows=8)),
        replace(whole, scene=1),
        replace(whole, memory=whole.memory_before),
        replace(whole, memory_before=None),
        *(
            replace(whole, history=(replace(chunk, **change), whole.history[1]))
            for change in ({"prompt": "x"}, {"digest": "x"}, {"seed": 8}, {"primed": True}, {"loras": ("x",)})
        ),
        replace(whole, history=(replace(chunk, rule="original"), whole.history[1])),
    ):
        with pytest.raises(AssertionError):
            checks_stream.assert_same_state(whole, other)
