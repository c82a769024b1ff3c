"""Keys of chunks: every field counts, nothing else does, and no field can pass for another."""

import dataclasses
from fractions import Fraction
from types import SimpleNamespace

import pytest
import torch
from comfyui_sana_video.sana_video_core.films import keys
from comfyui_sana_video.sana_video_core.films.keys import Link, Root, SegmentKey, json_digest, tensors_digest
from comfyui_sana_video.sana_video_core.transformer import compute
from comfyui_sana_video.sana_video_core.transformer.compute import compute_tag

ROOT = Root(
    family="demo",
    rows=16,
    columns=16,
    channels=16,
    batch=1,
    window=None,
    first=11,
    following=10,
    tensors=None,
)
SAMPLED = {"seed": 7, "sampler": "few_step", "steps": 4, "shift": 8.0, "rule": "training", "absorb": "clean"}
LINK = Link(
    before=ROOT.key, entry="start", length=11, embedding="e", model="m", compute="c", loras=(("l", 1.0),),
    **SAMPLED,
)  # fmt: skip
PRIMED = Link(before=ROOT.key, entry="primed", length=1, embedding="e", model="m", compute="c", latents="z")
SEGMENT = SegmentKey(
    chunk=LINK.key, vae="v", vae_dtype="bf16", tiling="whole", kernels="triton", compute="c",
    fps=Fraction(16), codec="h264", crf=23, row=0, encoder="libx264 165",
)  # fmt: skip
CHANGES = {
    ROOT: {"family": "longsana_480p", "window": 2, "tensors": "t"},
    LINK: {"entry": "same", "shift": 7.0, "loras": (("l", 0.5),)},
    PRIMED: {"loras": (("l", 0.5),)},
    SEGMENT: {"fps": Fraction(24), "crf": None},
}
ENTRY_DECIDES = {"entry", "latents", *SAMPLED}  # which of them are there


def changed(key, name):
    value = CHANGES[key].get(name, getattr(key, name))
    if value == getattr(key, name):
        value = value + 1 if isinstance(value, int) else f"{value} "
    return dataclasses.replace(key, **{name: value})


def cases():
    for key in CHANGES:
        skipped = ENTRY_DECIDES - {"latents"} if key is PRIMED else {"latents"} if key is LINK else set()
        names = [field.name for field in dataclasses.fields(key) if field.name not in skipped]
        yield from (pytest.param(key, name, id=f"{type(key).__name__}-{name}") for name in names)


@pytest.mark.parametrize("key, name", list(cases()))
def test_each_field_alone_changes_the_key(key, name):
    assert changed(key, name).key != key.key
    assert dataclasses.replace(key).key == key.key


def test_keys_are_as_they_were_published():
    """A key that changes loses everybody's chunks: raise `SCHEMA` and these only for a reason."""
    assert [key.key[:12] for key in CHANGES] == PUBLISHED
    assert LINK.anywhere(ROOT.anywhere)[:12] == ANYWHERE


PUBLISHED = ["e98893b468d5", "7cdfc88f27f6", "50405748cd24", "8f3f2dc4603f"]
ANYWHERE = "5ae346195cc2"


@pytest.mark.parametrize(
    "one, other",
    [
        ({"embedding": 'e","model":"m'}, {"model": 'm","embedding":"e'}),
        ({"embedding": "", "model": "em"}, {"embedding": "em", "model": ""}),
        ({"loras": (("a", 1.0), ("b", 1.0))}, {"loras": (("b", 1.0), ("a", 1.0))}),
        ({"loras": (("a,b", 1.0),)}, {"loras": (("a", 1.0), ("b", 1.0))}),
        ({"sampler": "1", "steps": 2}, {"sampler": "2", "steps": 1}),
        ({"sampler": "4", "steps": 4}, {"sampler": 4, "steps": "4"}),
        ({"shift": 0.1 + 0.2}, {"shift": 0.3}),
        ({"rule": "None"}, {"rule": "null"}),
    ],
)
def test_no_text_passes_for_another_field(one, other):
    assert dataclasses.replace(LINK, **one).key != dataclasses.replace(LINK, **other).key


def test_kinds_of_keys_and_schemas_are_apart(monkeypatch):
    assert len({ROOT.key, LINK.key, LINK.anywhere(ROOT.key), PRIMED.key, SEGMENT.key}) == 5
    before = LINK.key
    monkeypatch.setattr(keys, "SCHEMA", keys.SCHEMA + 1)
    assert LINK.key != before


def test_a_number_has_one_spelling():
    assert dataclasses.replace(LINK, shift=8, loras=(["l", 1],)).key == LINK.key
    assert dataclasses.replace(SEGMENT, fps=Fraction(32, 2)).key == SEGMENT.key
    with pytest.raises(TypeError, match="no place"):
        _ = dataclasses.replace(LINK, steps=torch.tensor(4)).key


@pytest.mark.parametrize("link", [LINK, PRIMED])
@pytest.mark.parametrize("name", sorted(ENTRY_DECIDES - {"entry"}))
def test_how_a_chunk_was_made_goes_with_how_it_was_entered(link, name):
    value = None if getattr(link, name) is not None else 1
    with pytest.raises(ValueError, match="doesn't go with"):
        dataclasses.replace(link, **{name: value})


def test_entries_are_what_happens_to_a_prompt():
    assert keys.ENTRIES == ("start", "same", "recache", "keep", "primed")
    with pytest.raises(ValueError, match="choose one of"):
        dataclasses.replace(LINK, entry="cut")


def test_a_chain_has_one_key_on_every_machine():
    def chain(tags, seed=7):
        key = anywhere = ROOT.key
        for tag in tags:
            link = dataclasses.replace(LINK, before=key, compute=tag, seed=seed)
            key, anywhere = link.key, link.anywhere(anywhere)
        return key, anywhere

    (here, same), (there, also_same) = chain(["a", "a"]), chain(["b", "a"])
    assert here != there
    assert same == also_same != chain(["a", "a"], seed=8)[1]
    assert same != chain(["a"])[1]


def test_the_digest_of_tensors_sees_everything():
    base = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.zeros(0)}
    others = [
        {"a": base["a"], "c": base["b"]},
        {"a": base["a"]},
        {"a": base["a"].reshape(3, 2), "b": base["b"]},
        {"a": base["a"].view(torch.int32), "b": base["b"]},
        {"a": base["a"], "b": torch.zeros(0, 2)},
        {"a": torch.nextafter(base["a"], base["a"] + 1), "b": base["b"]},
        {"a": base["a"] * -1 * -1 - 0.0, "b": torch.zeros(1)},
    ]
    digests = {tensors_digest(tensors) for tensors in [base, *others]}
    assert len(digests) == len(others) + 1
    assert tensors_digest(dict(reversed(base.items()))) == tensors_digest(base)
    assert tensors_digest({"a": base["a"].T.contiguous().T, "b": base["b"]}) == tensors_digest(base)
    assert tensors_digest({"z": torch.zeros(1)}) != tensors_digest({"z": -torch.zeros(1)}), "bits, not values"


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float8_e4m3fn, torch.bool, torch.complex64])
def test_tensors_of_any_dtype_have_a_digest(dtype):
    assert tensors_digest({"a": torch.ones(3).to(dtype)}) != tensors_digest({"a": torch.zeros(3).to(dtype)})


# --- the compute tag

CPU = (torch.device("cpu"), torch.float32, "reference", "full")


def tag(*changed):
    return compute_tag(*(new if new is not None else old for new, old in zip(changed, CPU, strict=True)))


def test_the_tag_says_what_computes_and_how(monkeypatch):
    base = tag(None, None, None, None)
    assert f"torch {torch.__version__}; kernels reference; precision full; dtype float32; numerics 1" in base
    assert f"threads {torch.get_num_threads()}" in base
    assert torch.backends.cpu.get_cpu_capability() in base
    others = [
        tag(torch.device("mps"), None, None, None),
        tag(None, torch.bfloat16, None, None),
        tag(None, None, "triton", None),
        tag(None, None, None, "fp8"),
    ]
    for target, name, value in [
        (compute, "NUMERICS", 2),
        (compute, "_cpu_name", lambda: "another; CPU"),
        (compute.platform, "system", lambda: "Another"),
        (torch, "get_num_threads", lambda: 1000),
        (torch, "__version__", "1.0"),
        (torch.backends.cpu, "get_cpu_capability", lambda: "NEON"),
    ]:
        with monkeypatch.context() as patch:
            patch.setattr(target, name, value)
            others.append(tag(None, None, None, None))
    assert len({base, *others}) == len(others) + 1
    assert tag(None, None, None, None) == base


def test_the_tag_says_how_float32_is_computed(monkeypatch):
    """Also where somebody sets it in the way of PyTorch 2.9, after which the older getters raise."""

    def computed(matmul, general="none"):
        mkldnn = {
            "matmul": SimpleNamespace(fp32_precision=matmul),
            "conv": SimpleNamespace(fp32_precision="none"),
        }
        fake = SimpleNamespace(cpu=cpu, fp32_precision=general, mkldnn=SimpleNamespace(**mkldnn), cuda=newer)
        monkeypatch.setattr(torch, "backends", fake)
        return tag(None, None, None, None).rpartition("float32 ")[2]

    cpu, newer = torch.backends.cpu, SimpleNamespace(matmul=SimpleNamespace(fp32_precision="none"))
    assert computed("none") == computed("ieee") == "ieee, ieee"
    assert computed("bf16") == "bf16, ieee"
    assert computed("none", "tf32") == "tf32, tf32"
    older = SimpleNamespace(matmul=SimpleNamespace(allow_tf32=False))
    monkeypatch.setattr(torch, "backends", SimpleNamespace(cpu=cpu, cuda=older))
    monkeypatch.setattr(torch, "get_float32_matmul_precision", lambda: "medium")
    assert tag(None, None, None, None).endswith("; float32 medium")


def test_the_tag_of_a_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA H200")
    monkeypatch.setattr(torch.version, "cuda", "12.8")
    monkeypatch.setattr(torch.backends.cudnn, "version", lambda: 91002)
    gpu = torch.device("cuda", 0)
    base = tag(gpu, torch.bfloat16, "triton", None)
    assert base.startswith("device NVIDIA H200; ")
    assert "cuda 12.8; cudnn 91002; " in base
    assert "; triton " in base
    assert "threads" not in base
    monkeypatch.setattr(torch, "are_deterministic_algorithms_enabled", lambda: True)
    assert tag(gpu, torch.bfloat16, "triton", None) != base


def test_json_is_canonical():
    assert json_digest({"b": 1, "a": [None, True]}) == json_digest({"a": [None, True], "b": 1})
    with pytest.raises(ValueError, match="JSON"):
        json_digest(float("nan"))
