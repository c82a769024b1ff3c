"""Checks inside ComfyUI's process: its CLIP and our encoder, its VAE and ours, wrong models."""

from __future__ import annotations

import importlib
import io
import json
import tempfile
from pathlib import Path
from unittest.mock import patch

from checks_inside import ROOT, check, close, image, pack, refused, run, same

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
        bare = run("SanaVideoTextEncode", core, "", 0, False)[0]  # core leaves out the instruction, too
        assert same(bare[0], core_nodes.CLIPTextEncode().encode(core, "")[0][0][0])
        empty = run("SanaVideoTextEncode", core, "", 0, True)[0]
        _, extra = run("SanaVideoTextEncode", ours, "", 0, True)[0]
        assert same(extra["attention_mask"], empty[1]["attention_mask"])


@check
def known_prompts_of_cores_clip_need_no_call(demo):
    """A CLIP is known by its file, until something changes it."""
    store_of, through = pack("sana_video_core.films.store").Store, pack("bridge.prompts").prompts_through
    embedding = pack("sana_video_core.text.embedding").embedding_of
    encoders = pack("bridge.text_encoders")
    clip_encoder, prompt_of = encoders.ClipTextEncoder, encoders.prompt_of
    how, calls, encode = {"motion_score": 10, "instruction": True}, [], clip_encoder.encode

    def counted(self, prompts, **options):
        calls.append(prompts)
        return encode(self, prompts, **options)

    with tempfile.TemporaryDirectory() as folder, patch.object(clip_encoder, "encode", counted):
        path, store = _gemma_file(Path(folder)), store_of(Path(folder) / "store")
        core = _core_clip(path, "PIXELDIT")
        assert clip_encoder(core).path == path
        (fresh,), (known,) = (through(store, core, ["a red circle"], **how) for _ in range(2))
        assert calls == ["a red circle"]
        (node,) = run("SanaVideoTextEncode", core, "a red circle", 10, True)
        calls.clear()
        for prompt in (fresh, known):
            assert embedding(prompt).content == embedding(prompt_of([node])).content
            assert (prompt.digest, prompt.text) == (node[1]["sana_digest"], "a red circle")
        again = _core_clip(path, "PIXELDIT")  # another day
        through(store, again, ["a red circle"], **how)
        assert not calls
        layered, patched = core.clone(), core.clone()
        layered.clip_layer(-2)
        key = next(key for key in core.patcher.model_state_dict() if key.endswith("norm.weight"))
        assert patched.add_patches({key: ("diff", (core.patcher.model_state_dict()[key] * 0,))}, 1.0)
        for changed in (layered, patched):
            assert clip_encoder(changed).path is None
        ours = encoders.HostedTextEncoder.load(path)
        assert ours.path == path
        through(store, ours, ["a red circle"], **how)  # other software: other bits
        assert len(list((Path(folder) / "store" / "texts").rglob("*.safetensors"))) == 2


@check
def a_clip_of_another_type_is_refused(demo):
    with tempfile.TemporaryDirectory() as folder:
        wrong = _core_clip(_gemma_file(Path(folder)), "LUMINA2")
    refused(lambda: run("SanaVideoTextEncode", wrong, "a ball", 0, True), "pixeldit")


@check
def our_loader_gives_cores_vae(demo):
    """The same object as Load VAE's, of a file that Load VAE can't read, too."""
    import comfy.sd
    import torch
    from safetensors.torch import load_file, save_file

    path = pack("demo.model_set").demo_set().vae
    tensors = load_file(path)
    core = comfy.sd.VAE(sd=dict(tensors))
    assert type(demo.vae) is type(core) is comfy.sd.VAE
    for name in ("latent_channels", "device", "vae_dtype", "output_device"):
        assert getattr(demo.vae, name) == getattr(core, name), name
    with tempfile.TemporaryDirectory() as folder:
        prefixed, renamed = Path(folder) / "prefixed.safetensors", Path(folder) / "diffusers.safetensors"
        save_file({f"model.{name}": tensor for name, tensor in tensors.items()}, prefixed)
        names = json.loads((ROOT / "tests" / "data" / "wan_vae_keymap.json").read_text(encoding="utf-8"))
        save_file({diffusers: tensors[original] for diffusers, original in names.items()}, renamed)
        loaded = [demo.vae, *map(pack("bridge.vaes").load_vae, (prefixed, renamed))]
    for vae in loaded:
        weights = vae.get_sd()
        assert all(torch.equal(weights[name], tensor) for name, tensor in core.get_sd().items())
    load, arguments = demo.vae.patcher.cached_patcher_init
    again = load(*arguments, disable_dynamic=True)
    assert type(again) is type(demo.vae.patcher)
    assert again.model is not demo.vae.patcher.model


@check
def cores_vae_has_what_the_bridge_asks_for(demo):
    from vae_socket import ASKED

    for name, kind in ASKED.items():
        assert isinstance(getattr(demo.vae, name), kind), name
    assert demo.vae.patcher.model is demo.vae.first_stage_model
    assert demo.vae.patcher.load_device == demo.vae.device
    network = pack("sana_video_core.vae.wan_vae").WanVAE(pack("demo.model_set").VAE_CONFIG)
    ours, theirs = network.state_dict(), demo.vae.first_stage_model.state_dict()
    assert {n: t.shape for n, t in ours.items()} == {n: t.shape for n, t in theirs.items()}


@check
def our_decoder_runs_on_whoever_loaded_the_vae(demo):
    """The same bits from Load VAE's object and ours, and from the core without ComfyUI."""
    import comfy.sd
    import torch
    from safetensors.torch import load_file

    path = pack("demo.model_set").demo_set().vae
    core = comfy.sd.VAE(sd=load_file(path))
    alone = pack("sana_video_core.checkpoints.vae_file").load_vae(path)
    latents = torch.randn(1, 16, 8, 6, 8, generator=torch.Generator().manual_seed(2))
    pixels = torch.cat(list(alone.decode_stream(latents)), dim=2)[0].permute(1, 2, 3, 0)
    images = run("SanaVideoDecode", core, {"samples": latents})
    assert images.shape == (29, 48, 64, 3)
    assert same(images, run("SanaVideoDecode", demo.vae, {"samples": latents}))
    close(images, (pixels + 1) / 2, 1e-6)
    _, one, _ = demo.sample()
    latent, two, _ = demo.sample(state=one)
    ours, theirs = (run("SanaVideoDecode", vae, latent, two) for vae in (demo.vae, core))
    assert ours.shape == (40, 48, 64, 3)
    assert same(ours, theirs)
    primed, mine = (
        run("SanaVideoPrime", demo.causal, vae, demo.positive, demo.start(), image=image())
        for vae in (core, demo.vae)
    )
    assert same(primed.state.history[0].latents, mine.state.history[0].latents)


@check
def weights_that_are_cast_as_they_are_used_decode_alike(demo):
    """As ComfyUI leaves them when memory is short: in the file's type, until a layer runs."""
    import comfy.sd
    import torch
    from safetensors.torch import load_file

    tensors = load_file(pack("demo.model_set").demo_set().vae)
    whole = comfy.sd.VAE(sd=dict(tensors), dtype=torch.bfloat16)
    late = comfy.sd.VAE(sd=dict(tensors))
    late.vae_dtype = torch.bfloat16
    for layer in late.first_stage_model.modules():
        if hasattr(layer, "comfy_cast_weights"):
            layer.comfy_cast_weights = True
    latents = {"samples": torch.randn(1, 16, 3, 6, 8, generator=torch.Generator().manual_seed(2))}
    assert {p.dtype for p in late.first_stage_model.parameters()} == {torch.float32}
    ours = run("SanaVideoDecode", whole, latents)
    assert same(run("SanaVideoDecode", late, latents), ours)
    close(ours, run("SanaVideoDecode", demo.vae, latents), 0.1)
    assert not same(ours, run("SanaVideoDecode", demo.vae, latents))


@check
def the_fused_layers_take_cores_weights(demo):
    """On the kernels' plain versions, as they would run on a GPU; also with weights that are cast late."""
    import comfy.sd
    import torch
    from safetensors.torch import load_file

    tensors = load_file(pack("demo.model_set").demo_set().vae)
    core = comfy.sd.VAE(sd=pack("sana_video_core.checkpoints.keys").canonical_vae(tensors))
    late = comfy.sd.VAE(sd={name: tensor.bfloat16() for name, tensor in tensors.items()})
    wan_vae, ops = pack("sana_video_core.vae.wan_vae"), pack("sana_video_core.vae.ops")
    latents = torch.randn(1, 16, 3, 6, 8, generator=torch.Generator().manual_seed(0))
    for vae in (core, late):
        network = pack("bridge.vaes").vae_of(vae).network
        expected, choose = network.decode(latents), wan_vae.choose_for_frames
        wan_vae.choose_for_frames = lambda *asked: ops.Choice(True, "")
        try:
            with torch.no_grad():
                fused = network.decode(latents)
        finally:
            wan_vae.choose_for_frames = choose
        close(fused.float(), expected.float(), 1e-4 if expected.dtype == torch.float32 else 0.1)
        assert not same(fused, expected), "it ran the plain layers"


@check
def cores_own_nodes_take_our_vae(demo):
    """VAE Decode, VAE Encode and both tiled nodes; the tiles are small enough to be several."""
    import torch

    import nodes as core_nodes

    latents = {"samples": torch.randn(1, 16, 5, 16, 24, generator=torch.Generator().manual_seed(2))}
    ours = run("SanaVideoDecode", demo.vae, latents)
    decoded = core_nodes.VAEDecode().decode(demo.vae, latents)[0]
    assert decoded.shape == ours.shape == (17, 128, 192, 3)
    close(decoded, ours, 1e-4)
    tiled = core_nodes.VAEDecodeTiled().decode(demo.vae, latents, 64, 16, 64, 8)[0]
    assert tiled.shape == ours.shape
    alike(tiled, ours)
    encoded = core_nodes.VAEEncode().encode(demo.vae, ours)[0]["samples"]
    mine = pack("bridge.vaes").vae_of(demo.vae).encode(ours.movedim(-1, 0)[None] * 2 - 1)
    assert encoded.shape == mine.shape == latents["samples"].shape
    close(encoded, mine, 1e-3)
    tiled = core_nodes.VAEEncodeTiled().encode(demo.vae, ours, 64, 16, 64, 8)[0]["samples"]
    assert tiled.shape == encoded.shape
    alike(tiled, encoded)


def alike(a, b) -> None:
    """Tiles see less of the picture around them, so values differ; what is shown doesn't."""
    import torch

    likeness = torch.corrcoef(torch.stack([a.flatten(), b.flatten()]).double())[0, 1].item()
    assert likeness > 0.9, likeness


@check
def a_vae_of_another_model_is_refused(demo):
    """Sixteen channels do not make a Wan VAE: Flux's and HunyuanVideo's have sixteen, too."""
    import comfy.sd
    import torch
    from safetensors.torch import load_file

    tensors = load_file(pack("demo.model_set").demo_set().vae)
    foreign, nothing = comfy.sd.VAE(sd=dict(tensors)), comfy.sd.VAE(sd={})
    foreign.first_stage_model = torch.nn.Identity()
    for name in ("decoder.head.2.weight", "decoder.head.2.bias"):
        tensors[name] = torch.cat([tensors[name], tensors[name][:1]])
    four_colours = comfy.sd.VAE(sd=tensors)
    latent, state, _ = demo.sample()
    for other, named in ((foreign, "Identity"), (nothing, "empty"), (four_colours, "16 latent channels")):
        for call in (
            lambda other=other: run("SanaVideoDecode", other, latent),
            lambda other=other: run("SanaVideoDecodeStream", other, state, 0, 16.0, "h264", 0),
            lambda other=other: run(
                "SanaVideoPrime", demo.causal, other, demo.positive, demo.start(), image=image()
            ),
        ):
            refused(call, named, "Connect")


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
    assert demo.sample(positive=joined)[1].state.history[-1].prompt == "combined text"


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
