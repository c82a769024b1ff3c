"""Checks inside ComfyUI's process: its CLIP and our encoder, its VAE and ours, wrong models."""

from __future__ import annotations

import importlib
import io
import tempfile
from pathlib import Path

from checks_inside import check, close, image, pack, refused, run, same

SENTENCES = (
    "a small red circle moves slowly to the right across a dark background",
    "two shapes move towards each other, meet, and the purple one changes its colour",
    "abcdefghijklmnopqrstuvwxyz ABCDEFGHIJKLMNOPQRSTUVWXYZ 0123456789 .,:;!?<>/|_-\"'()",
)


def _gemma_file(folder: Path) -> Path:
    """A small Gemma-2 in the layout of ComfyUI's file.

    Its weights keep attention logits far from the soft cap of 50, which ComfyUI's Gemma-2 leaves out.
    """
    import sentencepiece
    import torch
    from safetensors.torch import save_file

    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.Train(
        sentence_iterator=iter(SENTENCES * 3),
        model_writer=model,
        model_type="bpe",
        vocab_size=420,
        byte_fallback=True,
        normalization_rule_name="identity",
        add_dummy_prefix=False,
        remove_extra_whitespaces=False,
        pad_id=0,
        eos_id=1,
        bos_id=2,
        unk_id=3,
        minloglevel=2,
    )
    transformers, generator = importlib.import_module("transformers"), torch.Generator().manual_seed(4)
    config = transformers.Gemma2Config(
        vocab_size=420, hidden_size=32, intermediate_size=64, num_hidden_layers=3, num_attention_heads=2,
        num_key_value_heads=1, head_dim=256,
    )  # fmt: skip
    tensors = {
        f"model.{name}": torch.randn(value.shape, generator=generator) * (0.1 if value.ndim > 1 else 0.3)
        for name, value in transformers.Gemma2Model(config).state_dict().items()
    }
    tensors["spiece_model"] = torch.frombuffer(bytearray(model.getvalue()), dtype=torch.uint8)
    save_file(tensors, folder / "gemma.safetensors")
    return folder / "gemma.safetensors"


def _core_clip(path: Path, clip_type: str):
    """ComfyUI's loader with the sizes of that file: it knows only the full size of Gemma-2."""
    import comfy.sd
    from comfy.text_encoders import llama

    sizes = {"vocab_size": 420, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3}
    sizes |= {"num_attention_heads": 2, "num_key_value_heads": 1}
    known = llama.Gemma2_2B_Config
    llama.Gemma2_2B_Config = lambda **options: known(**{**sizes, **options})
    try:
        return comfy.sd.load_clip([str(path)], clip_type=getattr(comfy.sd.CLIPType, clip_type))
    finally:
        llama.Gemma2_2B_Config = known


@check
def cores_clip_and_our_encoder_agree(demo):
    texts = ("a red circle", "  two shapes,\nmeet ", "the purple one " * 120)
    with tempfile.TemporaryDirectory() as folder:
        path = _gemma_file(Path(folder))
        ours, core = pack("bridge.text_encoders").HostedTextEncoder.load(path), _core_clip(path, "PIXELDIT")
        for text in texts:
            for instruction, score in ((True, 10), (False, 0)):
                (a, extra), (b, other) = (
                    run("SanaVideoTextEncode", e, text, score, instruction)[0] for e in (ours, core)
                )
                assert a.shape == b.shape == (1, 300, 32), (a.shape, b.shape)
                assert same(extra["attention_mask"], other["attention_mask"])
                assert extra["sana_digest"] == other["sana_digest"]
                rows = extra["attention_mask"].bool()
                close(a[rows], b[rows], 2e-3 * a[rows].abs().max().item())
        import nodes as core_nodes

        whole = core_nodes.CLIPTextEncode().encode(core, "a red circle")[0][0]
        mine = run("SanaVideoTextEncode", core, "a red circle", 0, True)[0]
        assert same(mine[0], whole[0])
        assert same(mine[1]["attention_mask"], whole[1]["attention_mask"].long())
        empty = run("SanaVideoTextEncode", core, "", 0, True)[0]
        assert same(empty[0], core_nodes.CLIPTextEncode().encode(core, "")[0][0][0])
        _, extra = run("SanaVideoTextEncode", ours, "", 0, True)[0]
        assert same(extra["attention_mask"], empty[1]["attention_mask"])


@check
def a_clip_of_another_type_is_refused(demo):
    with tempfile.TemporaryDirectory() as folder:
        wrong = _core_clip(_gemma_file(Path(folder)), "LUMINA2")
    refused(lambda: run("SanaVideoTextEncode", wrong, "a ball", 0, True), "pixeldit")


@check
def cores_wan_vae_streams_as_its_own_whole_decode(demo):
    import comfy.sd
    import torch
    from safetensors.torch import load_file

    path = pack("demo.model_set").demo_set().vae
    core = comfy.sd.VAE(sd=load_file(path))
    latents = torch.randn(1, 16, 8, 6, 8, generator=torch.Generator().manual_seed(2))
    whole = core.decode(latents)
    assert whole.shape == (1, 29, 48, 64, 3)
    images = run("SanaVideoDecode", core, {"samples": latents})
    close(images, whole[0], 1e-6)
    close(images, run("SanaVideoDecode", demo.vae, {"samples": latents}), 1e-4)
    _, one, _ = demo.sample()
    latent, two, _ = demo.sample(state=one)
    ours, theirs = (run("SanaVideoDecode", vae, latent, two) for vae in (demo.vae, core))
    assert ours.shape == theirs.shape == (40, 48, 64, 3)
    close(theirs, ours, 1e-4)
    primed = run("SanaVideoPrime", demo.causal, core, demo.positive, demo.start(), image=image())
    mine = run("SanaVideoPrime", demo.causal, demo.vae, demo.positive, demo.start(), image=image())
    close(primed.state.history[0].latents, mine.state.history[0].latents, 1e-4)


@check
def a_vae_of_another_model_is_refused(demo):
    """Sixteen channels do not make a Wan VAE: Flux's and HunyuanVideo's have sixteen, too."""
    import comfy.sd
    import torch
    from safetensors.torch import load_file

    other = comfy.sd.VAE(sd=load_file(pack("demo.model_set").demo_set().vae))
    other.first_stage_model = torch.nn.Identity()
    latent, state, _ = demo.sample()
    for call in (
        lambda: run("SanaVideoDecode", other, latent),
        lambda: run("SanaVideoDecodeStream", other, state, 0, 16.0, "h264", 0),
        lambda: run("SanaVideoPrime", demo.causal, other, demo.positive, demo.start(), image=image()),
    ):
        refused(call, "Identity", "Wan 2.1 VAE")


@check
def a_text_that_another_node_changed_is_another_prompt(demo):
    """Core's nodes copy our text and digest along with what they change."""
    import nodes as core_nodes

    joined = core_nodes.ConditioningConcat().concat(demo.positive, demo.negative)[0]
    averaged = core_nodes.ConditioningAverage().addWeighted(demo.positive, demo.negative, 0.5)[0]
    nothing = core_nodes.ConditioningZeroOut().zero_out(demo.positive)[0]
    digests = [
        demo.sample(positive=c)[1].state.history[-1].digest
        for c in (demo.positive, joined, averaged, nothing)
    ]
    assert len(set(digests)) == 4, digests
    assert demo.sample(positive=joined)[1].state.history[-1].prompt == ""


@check
def sana_files_in_cores_loader_are_refused_by_ours(demo):
    """Core mistakes SANA's names for PixArt's; our nodes must not sample the result."""
    import comfy.sd
    from safetensors.torch import load_file

    tensors = load_file(pack("demo.model_set").demo_set().transformer)
    try:
        wrong = comfy.sd.load_diffusion_model_state_dict(dict(tensors))
    except Exception:  # of this size even core's own construction fails
        wrong = None
    wrong = wrong or demo.vae.patcher
    for call in (
        lambda: run("SanaVideoStart", wrong, 64, 48, 1),
        lambda: demo.sample(wrong),
        lambda: run("SanaVideoEmptyLatent", wrong, 64, 48, 9, 1),
    ):
        refused(call, "Load SANA-Video Model", "Load Diffusion Model")


@check
def a_bidirectional_model_is_refused_by_streams(demo):
    for call in (
        lambda: run("SanaVideoStart", demo.clip_model, 64, 48, 1),
        lambda: demo.sample(demo.clip_model),
    ):
        refused(call, "Load SANA-Video Model", "longsana_480p")


@check
def foreign_conditioning_has_a_digest_of_its_own(demo):
    bare = [[demo.positive[0][0], {"attention_mask": demo.positive[0][1]["attention_mask"]}]]
    other = [[demo.negative[0][0], {"attention_mask": demo.negative[0][1]["attention_mask"]}]]
    _, one, _ = demo.sample(positive=bare)
    _, two, _ = demo.sample(state=one, positive=bare)
    _, three, _ = demo.sample(state=one, positive=other)
    digests = [s.state.history[-1].digest for s in (one, two, three)]
    assert digests[0] == digests[1] != digests[2]
    _, known, _ = demo.sample()
    assert same(known.tensors[0], one.tensors[0])
