"""Gemma-2 in one file, its tokenizer inside, against the same weights as a folder."""

import io
import json
import sys
from string import ascii_letters

import pytest
import sentencepiece
import torch
import transformers
from comfyui_sana_video.demo.text_encoder import SPACE, _random_gemma, _write_tokenizer
from comfyui_sana_video.sana_video_core.errors import FileError
from comfyui_sana_video.sana_video_core.text import encoder as encoder_module
from comfyui_sana_video.sana_video_core.text import gemma_file
from comfyui_sana_video.sana_video_core.text.encoder import load_text_encoder
from safetensors.torch import load_file, save_file
from support.text_folders import forget_the_demo

SYSTEM_PROMPT = "Describe the scene for a painter.\nPrompt: "
SIZES = {"head_dim": "16", "query_pre_attn_scalar": "16"}  # of the tiny model; the real file says nothing
SENTENCES = [
    "a small red circle moves slowly to the right across a dark background",
    "two shapes move towards each other, meet, and the purple one changes its colour",
    ascii_letters + " 0123456789 .,:;!?<>/|_-",
]
TEXTS = [
    "a red circle moves",
    "  two  spaces,\tand\n\na line \n",
    "   ",
    "红色 one 😀 e\u0301 ﬁ",
    "12 34,5",
    "<bos>a<end_of_turn>\n<unk><mask></s> <pad",
    "word " * 400,
]


def train(**changes):
    """A sentencepiece model with the settings of Gemma's."""
    model = io.BytesIO()
    settings = {
        "model_type": "bpe",
        "vocab_size": 450,
        "byte_fallback": True,
        "normalization_rule_name": "identity",
        "add_dummy_prefix": False,
        "remove_extra_whitespaces": False,
        "allow_whitespace_only_pieces": True,
        "split_digits": True,
        "character_coverage": 1.0,
        "user_defined_symbols": ["<mask>", "\n", "\n\n", 2 * SPACE, 3 * SPACE],
        "control_symbols": ["<end_of_turn>"],
        **{f"{name}_id": i for i, name in enumerate(("pad", "eos", "bos", "unk"))},
        **{f"{name}_piece": f"<{name}>" for name in ("pad", "eos", "bos", "unk")},
    }
    sentencepiece.SentencePieceTrainer.Train(
        sentence_iterator=iter(SENTENCES), model_writer=model, minloglevel=2, **{**settings, **changes}
    )
    return torch.frombuffer(bytearray(model.getvalue()), dtype=torch.uint8)


@pytest.fixture(scope="module")
def spiece():
    return train()


@pytest.fixture(scope="module")
def folder(spiece, tmp_path_factory):
    """The weights and the pieces in Hugging Face layout, for the package tokenizers."""
    folder = tmp_path_factory.mktemp("gemma")
    pieces = sentencepiece.SentencePieceProcessor(model_proto=spiece.numpy().tobytes())
    vocabulary = {pieces.IdToPiece(i): i for i in range(pieces.GetPieceSize())}
    splits = [(piece[:cut], piece[cut:]) for piece in vocabulary for cut in range(1, len(piece))]
    merges = [(left, right) for left, right in splits if left in vocabulary and right in vocabulary]
    _write_tokenizer(folder, vocabulary, merges)
    table = json.loads((folder / "tokenizer.json").read_text())
    turn = {**table["added_tokens"][0], "id": vocabulary["<end_of_turn>"], "content": "<end_of_turn>"}
    table["added_tokens"].append(turn)
    (folder / "tokenizer.json").write_text(json.dumps(table))
    _random_gemma(len(vocabulary), seed=0, width=32).save_pretrained(folder)
    forget_the_demo(folder)
    return folder


@pytest.fixture(scope="module")
def content(folder, spiece):
    """The tensors of the one file."""
    weights = load_file(folder / "model.safetensors")
    return {**{f"model.{name}": tensor for name, tensor in weights.items()}, "spiece_model": spiece}


@pytest.fixture
def load(tmp_path):
    def load(tensors, metadata=SIZES, **options):
        save_file(tensors, tmp_path / "gemma.safetensors", metadata)
        return load_text_encoder(tmp_path / "gemma.safetensors", system_prompt=SYSTEM_PROMPT, **options)

    return load


class TestTheSameAsTheFolder:
    @pytest.mark.parametrize("dtype", [None, torch.bfloat16])
    def test_embeddings_are_bit_identical(self, folder, content, load, dtype):
        expected = load_text_encoder(folder, system_prompt=SYSTEM_PROMPT, dtype=dtype)
        ours = load(content, dtype=dtype)
        assert ours.dtype == expected.dtype
        for options in ({}, {"system_prompt": False, "motion_score": 30, "max_tokens": 20}):
            for one, other in zip(
                ours.encode(TEXTS, **options), expected.encode(TEXTS, **options), strict=True
            ):
                assert torch.equal(one, other)

    def test_buffers_and_settings(self, folder, content, load):
        """No file holds the rotary frequencies, and building on meta loses their values."""
        random_state = torch.get_rng_state()
        ours = load(content, dtype=torch.bfloat16).model
        assert torch.equal(random_state, torch.get_rng_state())
        theirs = load_text_encoder(folder, dtype=torch.bfloat16).model
        buffers = dict(ours.named_buffers())
        assert "rotary_emb.inv_freq" in buffers
        assert buffers.keys() == dict(theirs.named_buffers()).keys()
        for name, expected in theirs.named_buffers():
            assert torch.equal(buffers[name].to(expected.dtype), expected), name
        assert buffers["rotary_emb.inv_freq"].dtype == torch.float32
        assert not ours.state_dict().keys() & buffers.keys()
        ours, theirs = (model.config.to_dict() for model in (ours, theirs))
        ignored = ("_name_or_path", "_attn_implementation_autoset", "architectures", "dtype", "torch_dtype")
        fixed = [key for key in theirs if key not in ignored]
        assert {key: ours[key] for key in fixed} == {key: theirs[key] for key in fixed}

    def test_what_a_file_does_not_say_is_as_in_gemma_2_2b(self, content, load):
        wide = {name: tensor for name, tensor in content.items() if "_proj" not in name or "mlp" in name}
        for layer in range(2):
            for name, rows in (("q", 512), ("k", 256), ("v", 256)):
                wide[f"model.layers.{layer}.self_attn.{name}_proj.weight"] = torch.zeros(rows, 32)
            wide[f"model.layers.{layer}.self_attn.o_proj.weight"] = torch.zeros(32, 512)
        config = load(wide, metadata=None).model.config
        ours, real = config.to_dict(), transformers.Gemma2Config().to_dict()
        read = ("vocab_size", "hidden_size", "intermediate_size", "layer_types")
        fixed = [key for key in real if key not in read and "num_" not in key and not key.startswith("_")]
        assert {key: ours[key] for key in fixed} == {key: real[key] for key in fixed}
        assert (config.head_dim, config.num_attention_heads, config.num_key_value_heads) == (256, 2, 1)
        assert (config.query_pre_attn_scalar, config.attn_logit_softcapping) == (256, 50)
        assert config.sliding_window == 4096
        assert config._attn_implementation == "eager"

    def test_half_precision_is_kept_and_float8_becomes_bfloat16(self, content, load):
        for stored, loaded in ((torch.float16,) * 2, (torch.float8_e4m3fn, torch.bfloat16)):
            narrow = {key: w.to(stored) if w.is_floating_point() else w for key, w in content.items()}
            encoder = load(narrow)
            assert {tensor.dtype for tensor in encoder.model.state_dict().values()} == {loaded}
            assert encoder.encode("a")[0].dtype == loaded

    def test_the_model_outlives_the_file(self, content, load, tmp_path):
        encoder = load(content)
        before = encoder.encode("a red circle")[0]
        path = tmp_path / "gemma.safetensors"
        with path.open("r+b") as file:
            file.write(bytes(path.stat().st_size))
        assert torch.equal(encoder.encode("a red circle")[0], before)


def test_the_original_system_prompt_is_looked_for_beside_the_file(content, tmp_path, monkeypatch):
    save_file(content, tmp_path / "gemma.safetensors", SIZES)
    monkeypatch.setattr(encoder_module, "find_system_prompt", lambda near: f"found in {[*near]}")
    encoder = load_text_encoder(tmp_path / "gemma.safetensors")
    assert encoder.resolve_system_prompt(True) == f"found in {[tmp_path]}"


class TestTokens:
    def test_whitespace_is_kept_and_nothing_is_prepended(self, content, load):
        tokenizer = load(content).tokenizer
        spaced = "a  b \n\n c\t "
        ids = tokenizer(spaced)["input_ids"]
        assert tokenizer._processor.DecodeIds(ids) == spaced
        assert tokenizer("a")["input_ids"] == [tokenizer._processor.PieceToId("a")]
        assert tokenizer("")["input_ids"] == []
        assert tokenizer("<eos>\n")["input_ids"] == [1, tokenizer._processor.PieceToId("\n")]

    def test_unknown_characters_become_bytes(self, content, load):
        tokenizer = load(content).tokenizer
        pieces = [tokenizer._processor.IdToPiece(i) for i in tokenizer("猫")["input_ids"]]
        assert pieces == ["<0xE7>", "<0x8C>", "<0xAB>"]


class TestNames:
    @pytest.mark.parametrize(
        "prefix", ["", "transformer.model.", "text_encoders.gemma2_2b.transformer.model."]
    )
    def test_any_prefix(self, content, load, prefix):
        renamed = {
            name.replace("model.", prefix, 1) if name.startswith("model.") else name: tensor
            for name, tensor in content.items()
        }
        assert torch.equal(load(renamed).encode("a cat")[0], load(content).encode("a cat")[0])

    def test_what_is_not_read(self, content, load):
        """The head, and everything else of a checkpoint with all parts in it."""
        long = "text_encoders.gemma2_2b.transformer."
        whole = {f"{long}{name}": tensor for name, tensor in content.items() if name != "spiece_model"}
        whole |= {
            "text_encoders.spiece_model": content["spiece_model"],
            "text_encoders.gemma2_2b.logit_scale": torch.tensor(1.0),
            "model.diffusion_model.layers.0.attention.qkv.weight": torch.zeros(2, 2, dtype=torch.int8),
            "vae.decoder.conv_in.weight": torch.zeros(2),
        }
        expected = load(content).encode("a cat")[0]
        assert torch.equal(load(whole).encode("a cat")[0], expected)
        head = content["model.embed_tokens.weight"].clone()
        assert torch.equal(load({**content, "lm_head.weight": head}).encode("a cat")[0], expected)
        bare = {name.removeprefix("model."): tensor for name, tensor in content.items()}
        assert torch.equal(load({**bare, "lm_head.weight": head}).encode("a cat")[0], expected)


Q, K = "model.layers.1.self_attn.q_proj.weight", "model.layers.0.self_attn.k_proj.weight"


def without(*names):
    return lambda all: {name: tensor for name, tensor in all.items() if name not in names}


def with_tensor(name, tensor):
    return lambda all: {**all, name: tensor}


def only(name):
    return lambda all: {name: torch.zeros(2, 2)}


@pytest.mark.parametrize(
    "change, sentence",
    [
        (only("encoder.block.0.layer.0.SelfAttention.q.weight"), "isn't a Gemma-2 but a T5"),
        (only("text_model.encoder.layers.0.self_attn.q_proj.weight"), "isn't a Gemma-2 but a CLIP"),
        (only("transformer.resblocks.0.attn.in_proj_weight"), "isn't a Gemma-2 but a CLIP"),
        (only("blocks.0.attn.qkv.weight"), "isn't a Gemma-2 but a diffusion model"),
        (
            only("model.diffusion_model.double_blocks.0.img_attn.qkv.weight"),
            "isn't a Gemma-2 but a diffusion model",
        ),
        (only("decoder.conv_in.weight"), "isn't a Gemma-2 but a VAE"),
        (only("diffusion_model.blocks.0.attn.qkv.lora_A.weight"), "isn't a Gemma-2 but a LoRA"),
        (
            without("model.layers.0.pre_feedforward_layernorm.weight"),
            "isn't a Gemma-2 but another language model",
        ),
        (
            with_tensor("model.layers.0.self_attn.q_norm.weight", torch.ones(16)),
            "isn't a Gemma-2 but a later Gemma",
        ),
        (with_tensor("model.layers.0.pre_self_attn_layernorm.weight", torch.ones(32)), "but a T5Gemma"),
        (only("strange"), r"isn't a Gemma-2 but a file of another kind, with 1 tensors \(such as strange\)"),
        (lambda all: {}, r"with 0 tensors \(such as none\)"),
        (without("spiece_model"), "holds Gemma-2 without its tokenizer .* give that folder"),
        (
            with_tensor("spiece_model", torch.arange(90, dtype=torch.uint8)),
            "not Gemma's: it is damaged, or isn't",
        ),
        (with_tensor("spiece_model", torch.zeros(0, dtype=torch.uint8)), "not Gemma's: "),
        (with_tensor("spiece_model", torch.zeros(9)), "not Gemma's: it is stored as float32"),
        (lambda all: {**all, "spiece_model": train(bos_id=1, eos_id=2)}, "begin with token 1 and not with 2"),
        (
            lambda all: {**all, "spiece_model": train(vocab_size=451)},
            "451 tokens, but its weights only 450: they do not",
        ),
        (without(Q, "model.norm.weight"), r"layers.1.self_attn.q_proj.weight is missing \(2 in all\)"),
        (without("model.embed_tokens.weight"), "isn't a complete Gemma-2: embed_tokens.weight is missing"),
        (with_tensor("model.embed_tokens.weight", torch.zeros(4)), r"embed_tokens.weight has shape \[4\]"),
        (with_tensor("model.layers.1.strange", torch.zeros(1)), r"layers.1.strange is unknown \(1 in all\)"),
        (with_tensor(Q, torch.zeros(16, 32)), r"q_proj.weight has shape \[16, 32\], but .* \[32, 32\]"),
        (
            with_tensor(Q.replace("1", "0"), torch.zeros(24, 32)),
            "no heads of 16 values: 24 values of queries, 16 of",
        ),
        (with_tensor(Q.replace("1", "0"), torch.zeros(0, 32)), "no heads of 16 values"),
        (with_tensor(Q.replace("1", "0"), torch.zeros(48, 32)), "no heads of 16 values: 48 .* width 32"),
        (with_tensor(K, torch.zeros(8, 32)), "no heads of 16 values: 32 values of queries, 8 of keys"),
        (with_tensor(K, torch.zeros(24, 32)), "no heads of 16 values: 32 values of queries, 24 of keys"),
        (with_tensor(K, torch.zeros(48, 32)), "no heads of 16 values: 32 values of queries, 48 of keys"),
        (
            with_tensor(f"{Q}_scale", torch.ones(1)),
            r"is quantised .*weight_scale.* CLIPLoader \(type pixeldit\)",
        ),
        (with_tensor(Q.replace("weight", "comfy_quant"), torch.ones(9).byte()), "is quantised .*comfy_quant"),
        (with_tensor(Q.replace("weight", "scale_weight"), torch.ones(1)), "is quantised"),
        (
            with_tensor(Q, torch.ones(32, 32, dtype=torch.int8)),
            "is quantised .*layers.1.self_attn.q_proj.weight",
        ),
    ],
)
def test_a_wrong_file_is_refused_with_a_reason(content, load, change, sentence):
    with pytest.raises(
        FileError, match=rf"\A“gemma.safetensors”[^\n]*{sentence}|\AThe tokenizer in[^\n]*{sentence}"
    ) as info:
        load(change(content))
    assert str(info.value).endswith(".")
    assert "\n" not in str(info.value)
    assert any(way in str(info.value) for way in ("gemma_2_2b_it_elm_bf16.safetensors", "download it again"))


def test_a_truncated_file_and_one_of_another_format(content, load, tmp_path):
    load(content)
    path = tmp_path / "gemma.safetensors"
    for damaged in (path.read_bytes()[:-100], b"GGUF" + bytes(99), b""):
        path.write_bytes(damaged)
        with pytest.raises(FileError, match=r"Needed is Gemma-2-2B-it: the file gemma_2_2b_it_elm") as caught:
            load_text_encoder(path)
        assert ("quantised with GGUF" if b"GGUF" in damaged else "cannot be read") in str(caught.value)


def test_names_that_training_leaves_and_other_suffixes(content, load, tmp_path):
    load({name.replace("model.", "model.module."): tensor for name, tensor in content.items()})
    (tmp_path / "gemma.safetensors").rename(tmp_path / "gemma.sft")
    load_text_encoder(tmp_path / "gemma.sft")


def test_a_file_without_its_last_layers_and_one_with_nan(content, load, monkeypatch):
    """Nothing in a file says how many layers there are, but a Gemma-2 of this width has so many."""
    monkeypatch.setattr(gemma_file, "LAYERS", {32: 2})
    load(content)
    with pytest.raises(FileError, match="isn't whole: it has 1 layers of 2"):
        load({name: tensor for name, tensor in content.items() if ".layers.1." not in name})
    broken = content["model.norm.weight"].clone()
    broken[-1] = float("nan")
    with pytest.raises(FileError, match=r"norm.weight holds values that are no numbers"):
        load(content | {"model.norm.weight": broken})


@pytest.mark.parametrize("value", ["0", "wide", "-16", "1.5", ""])
def test_impossible_metadata(content, load, value):
    for key in SIZES:
        with pytest.raises(FileError, match=f"metadata of “gemma.safetensors” says .*{key} {value}"):
            load(content, {**SIZES, key: value})


def test_without_sentencepiece(content, load, folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "sentencepiece", None)
    with pytest.raises(FileError, match=r"package sentencepiece, .* python -m pip install sentencepiece\.$"):
        load(content)
    load_text_encoder(folder)


def test_a_transformers_that_builds_gemma_in_another_way(content, load, monkeypatch):
    def with_new_buffer(config, build=transformers.Gemma2Model):
        model = build(config)
        for layer in model.layers:
            layer.register_buffer("scale", torch.ones(1), persistent=False)
        return model

    monkeypatch.setattr("transformers.Gemma2Model", with_new_buffer)
    with pytest.raises(FileError, match=r"installed transformers .* built in a new way"):
        load(content)


def test_a_file_of_a_folder(folder):
    with pytest.raises(FileError, match=r"without its tokenizer .* part of a folder"):
        load_text_encoder(folder / "model.safetensors")
