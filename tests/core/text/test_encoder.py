"""The text encoder against diffusers, its files, and the tiny encoder of tests and demo."""

import copy
import hashlib
import inspect
import json
import logging
import shutil
import struct
from string import ascii_letters

import pytest
import torch
import transformers
from comfyui_sana_video.demo.model_set import demo_set
from comfyui_sana_video.demo.text_encoder import build_demo_text_encoder, demo_vocabulary
from comfyui_sana_video.sana_video_core.errors import FileError, InputError
from comfyui_sana_video.sana_video_core.files.tensor_file import write_tensors
from comfyui_sana_video.sana_video_core.text import encoder as encoder_module
from comfyui_sana_video.sana_video_core.text.encoder import TextEncoder, load_text_encoder
from comfyui_sana_video.sana_video_core.text.prompt import embedding_digest, encode_prompt, prompt_digest
from comfyui_sana_video.sana_video_core.text.system_prompt import find_system_prompt
from safetensors.torch import load_file, save_file
from support.text_folders import build_encoder_with_system_prompt
from tokenizers import Tokenizer

# any system prompt will do where diffusers' own is not the point
SYSTEM_PROMPT = "Describe the scene for a painter.\nPrompt: "
LONG = "a very long prompt " * 100
WORDS = len(demo_vocabulary()[0])


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """The demo's encoder, freshly written."""
    folder = tmp_path_factory.mktemp("demo") / "written"
    build_demo_text_encoder(folder)
    return folder


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """The same, but it takes a system prompt."""
    return build_encoder_with_system_prompt(tmp_path_factory.mktemp("demo") / "gemma")


@pytest.fixture(scope="module")
def encoder(demo):
    return load_text_encoder(demo, system_prompt=SYSTEM_PROMPT)


@pytest.fixture(scope="module")
def pipeline(encoder):
    """diffusers' own text path, around copies of the same tokenizer and model."""
    diffusers = pytest.importorskip("diffusers")
    parts = {"tokenizer": copy.deepcopy(encoder.tokenizer), "text_encoder": copy.deepcopy(encoder.model)}
    return diffusers.SanaVideoPipeline(**parts, vae=None, transformer=None, scheduler=None)


@pytest.fixture
def damaged(demo, tmp_path):
    """A copy of the demo folder that a test may break."""
    return shutil.copytree(demo, tmp_path / "copy")


def edit_json(path, **changes):
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def edit_weights(folder, change):
    path = folder / "model.safetensors"
    write_tensors(path, change(load_file(path)), {"format": "pt"})  # not into the file that is mapped


class TestAgainstDiffusers:
    @pytest.mark.parametrize("length", [300, 20])
    @pytest.mark.parametrize(
        "prompts", [["a red circle moves"], ["  3 cats, a dog.\n", "", "红色 one 😀"], [LONG, "word"]]
    )
    def test_equal(self, encoder, pipeline, prompts, length):
        lines = inspect.signature(pipeline.__call__).parameters["complex_human_instruction"].default
        options = {"complex_human_instruction": lines, "max_sequence_length": length, "device": "cpu"}
        negatives = ["blurry, " + prompt for prompt in prompts]
        scored = prompts[0].strip() + " motion score: 30."
        theirs = pipeline.encode_prompt(prompts, negative_prompt=negatives, **options)
        theirs_scored = pipeline.encode_prompt(scored, False, **options)

        system_prompt = "\n".join(lines)
        positive = encoder.encode(prompts, system_prompt=system_prompt, max_tokens=length)
        negative = encoder.encode(negatives, system_prompt=False, max_tokens=length)
        moving = encoder.encode(prompts[0], system_prompt=system_prompt, max_tokens=length, motion_score=30)
        for ours, other in zip((*positive, *negative, *moving), (*theirs, *theirs_scored[:2]), strict=True):
            assert ours.shape[1] == length
            torch.testing.assert_close(ours, other.to(ours.dtype), atol=1e-5, rtol=0)


class TestPrompts:
    def test_a_batch_is_its_rows(self, encoder):
        prompts = ["a red circle", "", LONG]
        embeddings, masks = encoder.encode(prompts, motion_score=5)
        for row, prompt in enumerate(prompts):
            single, mask = encoder.encode(prompt, motion_score=5)
            torch.testing.assert_close(embeddings[row], single[0], atol=1e-6, rtol=0)
            assert torch.equal(masks[row], mask[0])

    @pytest.mark.parametrize("system_prompt", [True, False])
    def test_what_is_not_read_is_told_and_nothing_else_changes(self, encoder, caplog, system_prompt):
        """The last tokens that are read are those of the word before the first that is told."""
        words = [f"ball{number}" for number in range(300)]
        options = {"system_prompt": system_prompt, "max_tokens": 60}
        long, _ = encoder.encode(" ".join(words), **options, motion_score=10)
        (said,) = [r.getMessage() for r in caplog.records]
        # behind a system prompt, the first word takes its space
        tokens = len(encoder._token_ids(" " * system_prompt + " ".join(words) + " motion score: 10."))
        assert f"The prompt has {tokens} tokens and the model reads 60: “ball" in said
        assert "and the motion score had no effect. Shorten it." in said
        first = words.index(said.split("“")[1].split()[0])
        caplog.clear()
        short, mask = encoder.encode(" ".join(words[:first]), **options)
        assert caplog.records == []
        assert mask.sum() > 50
        assert torch.equal(short[mask], long[mask])
        encoder.encode(" ".join(words[: first + 1]), **options)
        assert len(caplog.records) == 1

    @pytest.mark.parametrize("bos, side", [(True, "left"), (False, "right"), (False, "left")])
    def test_the_settings_of_the_tokenizer_do_not_matter(self, encoder, damaged, bos, side):
        settings = {"add_bos_token": bos, "padding_side": side, "truncation_side": side}
        edit_json(damaged / "tokenizer_config.json", **settings)
        if not bos:
            edit_json(damaged / "tokenizer.json", post_processor=None)
        odd = load_text_encoder(damaged, system_prompt=SYSTEM_PROMPT)
        plain = odd.tokenizer("a", padding="max_length", max_length=9)["input_ids"]
        assert (2 in plain) == bos
        assert (plain[0] == 0) == (side == "left")
        for prompt in ("a red circle", LONG):
            for ours, expected in zip(odd.encode(prompt), encoder.encode(prompt), strict=True):
                assert torch.equal(ours, expected)

    def test_a_tokenizer_without_special_tokens_takes_them_from_the_model(self, encoder):
        tokenizer, model = copy.deepcopy((encoder.tokenizer, encoder.model))
        tokenizer.bos_token = tokenizer.pad_token = None
        bare = TextEncoder(tokenizer, model, system_prompt=SYSTEM_PROMPT)
        assert torch.equal(bare.encode("a cat")[0], encoder.encode("a cat")[0])
        model.config.bos_token_id = None
        with pytest.raises(FileError, match="names a bos_token_id"):
            TextEncoder(tokenizer, model)

    @pytest.mark.parametrize(
        "arguments, sentence",
        [
            ({"prompts": []}, "There is no prompt to encode"),
            ({"prompts": ["a", 5]}, "A prompt must be a text, and 5 is of type int"),
            ({"prompts": "cut \ud83d"}, "half a character at position 4"),
            ({"motion_score": -1}, "motion score must be a whole number from 0"),
            ({"motion_score": 2.5}, "motion score must be a whole number"),
            ({"max_tokens": 0}, "max_tokens must be a whole number of at least 1"),
            ({"system_prompt": 1}, "must be on, off or a text, and 1 is none"),
        ],
    )
    def test_impossible_input(self, encoder, arguments, sentence):
        with pytest.raises(InputError, match=sentence):
            encoder.encode(**{"prompts": "a cat", **arguments})


class TestEncodePrompt:
    def test_embeddings_and_digest_are_of_the_system_prompt_really_used(self, encoder):
        for system_prompt, used in ((True, encoder.system_prompt), (False, None), ("Mine: ", "Mine: ")):
            prompt = encode_prompt(encoder, " a cat ", system_prompt=system_prompt, motion_score=30)
            embeddings, mask = encoder.encode("a cat", system_prompt=used, motion_score=30)
            assert torch.equal(prompt.embeddings, embeddings)
            assert torch.equal(prompt.mask, mask)
            assert prompt.digest == prompt_digest("a cat", system_prompt=used, motion_score=30)
            assert prompt.text == "a cat"

    @pytest.mark.parametrize(
        "text, kept",
        [
            ("a cat --ar 16:9", "a cat"),
            ("a cat --aspect_ratio 1:1 ", "a cat"),
            (" a cat--hw 480:832", "a cat"),
            ("a cat --hw 480:832 --ar 16:9", "a cat"),
            ("a cat --ar 16:9 runs", "a cat"),
            ("a cat --ar", "a cat"),
            ("--ar 16:9", ""),
            ("art in a harbour - ar -- hw", "art in a harbour - ar -- hw"),
            ("A--AR", "A--AR"),
        ],
    )
    def test_a_size_in_a_prompt_is_left_out_with_a_word(self, encoder, caplog, text, kept):
        """prepare_prompt_ar of the original cuts at each of the three names in turn."""
        theirs = text
        for name in ("--aspect_ratio", "--ar", "--hw"):
            theirs = theirs.split(name)[0]
        assert theirs.strip() == kept
        prompt = encode_prompt(encoder, text, motion_score=30)
        said = [record.getMessage() for record in caplog.records if "left out" in record.getMessage()]
        rest = text.strip().removeprefix(kept).strip()
        assert [rest in message for message in said] == ([True] if rest else [])
        plain = encode_prompt(encoder, kept, motion_score=30)
        assert (prompt.text, prompt.digest) == (kept, plain.digest)
        assert torch.equal(prompt.embeddings, plain.embeddings)
        direct = encoder.encode([text, text], motion_score=30)[0]
        assert torch.equal(direct[1:], plain.embeddings)


class TestDigest:
    def test_every_part_counts(self):
        variants = [
            ("a cat", SYSTEM_PROMPT, 10),
            ("A cat", SYSTEM_PROMPT, 10),
            ("a cat", SYSTEM_PROMPT + " ", 10),
            ("a cat", None, 10),
            ("a cat", SYSTEM_PROMPT, 11),
            ("a cat", SYSTEM_PROMPT, None),
            ("a cat motion score: 10.", SYSTEM_PROMPT, None),
            ("", None, None),
            ("half \ud83d", None, None),
            ('a cat", "", 10]', None, None),
            ('a cat", "", 10', None, None),
        ]
        digests = {
            prompt_digest(text, system_prompt=system_prompt, motion_score=score)
            for text, system_prompt, score in variants
        }
        assert len(digests) == len(variants)

    def test_it_does_not_change_between_versions(self):
        """Saved states hold digests, so this form may never change."""
        digest = hashlib.sha256(SYSTEM_PROMPT.encode()).hexdigest()
        for system_prompt, middle in ((None, ""), (SYSTEM_PROMPT, digest)):
            expected = hashlib.sha256(f'["a \\u732b", "{middle}", 10]'.encode()).hexdigest()
            assert prompt_digest(" a 猫", system_prompt=system_prompt, motion_score=10) == expected
        plain = prompt_digest("a", system_prompt=None, motion_score=None)
        assert plain == prompt_digest("a", system_prompt="", motion_score=0)


class TestEmbeddingDigest:
    @pytest.fixture
    def encoded(self, encoder):
        return encoder.encode(["a cat", "a red circle moves"], system_prompt=False, max_tokens=12)

    def test_the_values_count_and_not_their_layout(self, encoded):
        embeddings, mask = encoded
        half = embeddings.bfloat16()
        expected = embedding_digest(half, mask)
        assert expected != embedding_digest(embeddings, mask)
        assert embedding_digest(half.double().transpose(1, 2).contiguous().transpose(1, 2), mask) == expected
        for same in (mask.long(), mask.float(), mask[:, None], mask[:, None, None, :]):
            assert embedding_digest(half, same) == expected
        one = embedding_digest(half[:1].requires_grad_(), mask[:1])
        assert embedding_digest(half[:1], mask[0]) == one
        assert one not in (expected, embedding_digest(half[1:], mask[1:]))

    def test_padding_does_not_matter_and_every_token_does(self, encoded):
        embeddings, mask = encoded
        digest = embedding_digest(embeddings, mask)
        padded = torch.where(mask[..., None], embeddings, torch.nan)
        assert embedding_digest(padded, mask) == digest
        for place in mask.nonzero().tolist():
            changed = embeddings.clone()
            changed[(*place, 3)] += 1e-3
            assert embedding_digest(changed, mask) != digest
        shorter = mask.clone()
        shorter[1, mask[1].sum() - 1] = False
        assert len({digest, embedding_digest(embeddings, shorter), embedding_digest(embeddings, None)}) == 3

    def test_the_place_of_the_rows_counts(self):
        """The same unmasked values, shared differently between the videos, or in another length or width."""
        rows = torch.ones(2, 2, 4)
        left, right = torch.tensor([[1, 1], [1, 0]]), torch.tensor([[1, 0], [1, 1]])
        wider = torch.ones(2, 3, 4), torch.tensor([[1, 1, 0], [1, 0, 0]])
        narrow = torch.ones(2, 4, 2), torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]])
        cases = [(rows, left), (rows, right), wider, narrow, (rows, torch.zeros(2, 2))]
        assert len({embedding_digest(*case) for case in cases}) == len(cases)

    def test_no_mask_is_a_mask_of_everything(self, encoded):
        embeddings = encoded[0]
        everything = embedding_digest(embeddings, None)
        for mask in (torch.ones(2, 12), torch.ones(12), torch.ones(1, 12)):
            assert embedding_digest(embeddings, mask) == everything

    def test_it_does_not_change_between_versions(self):
        """Saved states hold digests, so this form may never change."""
        values = struct.pack("<4f", 1, 2, -0.5, 4)
        expected = hashlib.sha256(b"[1, 3, 2]" + bytes([1, 0, 1]) + values).hexdigest()
        embeddings = torch.tensor([[[1, 2], [9, 9], [-0.5, 4]]], dtype=torch.float16)
        assert embedding_digest(embeddings, torch.tensor([1, 0, 1])) == expected

    @pytest.mark.parametrize(
        "shape, mask, sentence",
        [
            ((3, 4), None, r"\[batch, tokens, width\], and a tensor of \[3, 4\] \(float32\)"),
            ((2, 3, 4), (2, 4), r"mask .* \[2, 4\], .* must be \[2, 3\] or \[1, 3\]"),
            ((2, 3, 4), (3, 3), r"mask .* \[3, 3\]"),
            ((2, 3, 4), (3, 2), r"mask .* \[3, 2\]"),
            ((2, 3, 4), (), r"mask .* \[\]"),
        ],
    )
    def test_impossible_input(self, shape, mask, sentence):
        with pytest.raises(InputError, match=sentence):
            embedding_digest(torch.zeros(shape), None if mask is None else torch.ones(mask))


class TestModel:
    def test_soft_capping_is_applied(self, damaged):
        # Steep logits, so that the cap has something to cut.
        edit_weights(damaged, lambda all: {key: w * 12 if "q_proj" in key else w for key, w in all.items()})
        capped = load_text_encoder(damaged, system_prompt=SYSTEM_PROMPT)
        assert capped.model.config._attn_implementation == "eager"
        edit_json(damaged / "config.json", attn_logit_softcapping=None)
        free = load_text_encoder(damaged, system_prompt=SYSTEM_PROMPT)
        assert (capped.encode("a red circle")[0] - free.encode("a red circle")[0]).abs().max() > 1e-2

    def test_dtype_and_device(self, encoder, damaged):
        half = load_text_encoder(damaged, dtype=torch.bfloat16, device=torch.device("cpu"))
        assert (half.dtype, half.device) == (torch.bfloat16, torch.device("cpu"))
        embeddings, mask = half.encode("a cat", system_prompt=SYSTEM_PROMPT)
        expected, _ = encoder.encode("a cat")
        assert (embeddings.dtype, mask.dtype, expected.dtype) == (torch.bfloat16, torch.bool, torch.float32)
        assert (embeddings.float() - expected).abs().mean() < 0.03
        half.model.save_pretrained(damaged)
        assert load_text_encoder(damaged).dtype == torch.bfloat16  # as stored
        assert not expected.requires_grad
        assert not expected.is_inference()  # somebody may train with it

    def test_the_encoder_follows_a_model_that_was_moved(self, demo):
        """A host moves the module without telling the encoder."""
        encoder = load_text_encoder(demo, system_prompt=SYSTEM_PROMPT)
        encoder.encode("a cat")
        encoder.model.to(torch.float64)
        assert (encoder.dtype, encoder.encode("a cat")[0].dtype) == (torch.float64, torch.float64)
        if int(transformers.__version__.split(".")[0]) < 5:  # its rotary positions know no meta device
            return
        encoder.model.to("meta")
        embeddings, mask = encoder.encode("a cat")
        assert {encoder.device.type, embeddings.device.type, mask.device.type} == {"meta"}


class TestFolders:
    def check(self, path, encoder):
        loaded = load_text_encoder(path, system_prompt=SYSTEM_PROMPT)
        assert torch.equal(loaded.encode("a red circle")[0], encoder.encode("a red circle")[0])

    def test_diffusers_layout(self, encoder, damaged, tmp_path, monkeypatch):
        inner, tokenizer = tmp_path / "text_encoder", tmp_path / "tokenizer"
        tokenizer.mkdir()
        for file in damaged.glob("tokenizer*"):
            file.rename(tokenizer / file.name)
        damaged.rename(inner)
        monkeypatch.chdir(inner)
        for path in (tmp_path, str(inner), "."):
            self.check(path, encoder)

    def test_with_the_language_head(self, encoder, damaged):
        edit_weights(damaged, lambda all: {f"model.{key}": value for key, value in all.items()})
        edit_json(damaged / "config.json", architectures=["Gemma2ForCausalLM"])
        self.check(damaged, encoder)
        head = encoder.model.embed_tokens.weight.clone()
        edit_weights(damaged, lambda all: {**all, "lm_head.weight": head})
        self.check(damaged, encoder)

    def test_in_several_files(self, encoder, damaged):
        (damaged / "model.safetensors").unlink()
        encoder.model.save_pretrained(damaged, max_shard_size="50KB")
        shards = sorted(damaged.glob("*.safetensors"))
        assert len(shards) > 1
        self.check(damaged, encoder)
        index = damaged / "model.safetensors.index.json"
        index.rename(damaged / "lost")
        self.check(damaged, encoder)
        (damaged / "lost").rename(index)
        shards[-1].unlink()
        with pytest.raises(FileError, match=rf"There is no file .*{shards[-1].name}"):
            load_text_encoder(damaged)

    @pytest.mark.parametrize(
        "name", ["model.fp16.safetensors", "pytorch_model.bin", "pytorch_model.bf16.bin"]
    )
    def test_variants_and_pickles(self, encoder, damaged, name):
        weights = load_file(damaged / "model.safetensors")
        (damaged / "model.safetensors").unlink()
        torch.save(weights, damaged / name) if name.endswith("bin") else save_file(weights, damaged / name)
        self.check(damaged, encoder)

    def test_parts_of_a_variant(self, encoder, damaged):
        (damaged / "model.safetensors").unlink()
        encoder.model.save_pretrained(damaged, max_shard_size="50KB", variant="bf16")
        assert len(list(damaged.glob("*bf16*.safetensors"))) > 1
        self.check(damaged, encoder)

    def test_parts_with_the_variant_at_their_end(self, encoder, damaged):
        """As diffusers names them."""
        self.test_parts_of_a_variant(encoder, damaged)
        for path in damaged.glob("model.bf16-*"):
            path.rename(
                damaged / f"{path.name.replace('.bf16', '').removesuffix('.safetensors')}.bf16.safetensors"
            )
        (damaged / "model.safetensors.index.bf16.json").unlink()
        self.check(damaged, encoder)

    def test_a_loaded_encoder_does_not_change_with_its_file(self, damaged):
        loaded = load_text_encoder(damaged)
        before = [parameter.clone() for parameter in loaded.model.parameters()]
        with (damaged / "model.safetensors").open("r+b") as file:
            file.seek(-4096, 2)
            file.write(bytes(4096))
        assert all(map(torch.equal, before, loaded.model.parameters()))

    def test_an_index_stays_in_its_folder(self, damaged):
        (damaged / "model.safetensors").rename(damaged.parent / "elsewhere.safetensors")
        index = {"metadata": {}, "weight_map": {"norm.weight": "../elsewhere.safetensors"}}
        (damaged / "model.safetensors.index.json").write_text(json.dumps(index))
        with pytest.raises(FileError, match="outside of its folder"):
            load_text_encoder(damaged)

    def test_nan_and_scales(self, damaged):
        def broken(all):
            return {**all, "norm.weight": torch.full_like(all["norm.weight"], float("nan"))}

        before = load_file(damaged / "model.safetensors")
        edit_weights(damaged, broken)
        with pytest.raises(FileError, match=r"norm.weight holds values that are no numbers"):
            load_text_encoder(damaged)
        edit_weights(damaged, lambda all: {**before, "layers.0.mlp.up_proj.weight_scale": torch.ones(1)})
        with pytest.raises(FileError, match="quantised with"):
            load_text_encoder(damaged)


def lose_a_tensor(folder):
    edit_weights(folder, lambda all: {key: all[key] for key in all if key != "layers.1.mlp.up_proj.weight"})


def truncate(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def add_a_token(folder):
    table = json.loads((folder / "tokenizer.json").read_text())
    table["model"]["vocab"]["one too many"] = len(table["model"]["vocab"])
    (folder / "tokenizer.json").write_text(json.dumps(table))


def set_config(**changes):
    return lambda folder: edit_json(folder / "config.json", **changes)


@pytest.mark.parametrize(
    "damage, sentence",
    [
        (shutil.rmtree, "There is no file or folder .*copy.* Needed is Gemma-2-2B-it"),
        (lambda folder: (folder / "config.json").unlink(), "has no config.json"),
        (lambda folder: (folder / "config.json").write_text('{"model'), "config.json” cannot be read"),
        (lambda folder: (folder / "config.json").write_text("[]"), "holds no JSON object"),
        (set_config(model_type="llama"), "with Gemma-2 .* says llama"),
        (set_config(hidden_size="wide"), "cannot be read"),
        (set_config(intermediate_size=48), "weights in .* cannot be read"),
        (set_config(num_hidden_layers=1, layer_types=["full_attention"]), r"layers.1.* no place .*11 in all"),
        (lambda folder: (folder / "tokenizer.json").write_text("{"), "tokenizer in .* cannot be read"),
        (lambda folder: (folder / "tokenizer.json").unlink(), "There is no tokenizer for the text encoder"),
        (add_a_token, f"knows {WORDS + 1} tokens, .* only {WORDS}: they do not belong together"),
        (truncate, "“model.safetensors” cannot be read .* incomplete"),
        (lose_a_tensor, r"layers.1.mlp.up_proj.weight is missing \(1 in all\)"),
        (
            lambda folder: (folder / "model.safetensors").rename(folder / "weights.bin"),
            "holds no model.safetensors",
        ),
    ],
)
def test_a_broken_folder_is_refused_with_a_reason(damaged, damage, sentence):
    damage(damaged)
    one_line = rf"\A[^\n]*{sentence}[^\n]*\.\Z"  # with a full stop
    with pytest.raises(FileError, match=one_line):
        load_text_encoder(damaged)


def test_another_kind_of_path_is_refused_with_a_reason(tmp_path):
    (tmp_path / "text_encoder").mkdir()
    with pytest.raises(
        FileError, match=r"text_encoder has no config\.json.* the file gemma_2_2b_it_elm_bf16"
    ):
        load_text_encoder(tmp_path)


class TestDemoEncoder:
    def test_the_same_seed_writes_the_same_bytes_and_draws_nothing(self, written, tmp_path):
        torch.manual_seed(3)
        before = torch.get_rng_state()
        build_demo_text_encoder(tmp_path / "again", seed=0)
        build_demo_text_encoder(tmp_path / "other", seed=1)
        assert torch.equal(before, torch.get_rng_state())
        names = sorted(path.name for path in written.iterdir())
        assert names == ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"]
        for name in names:
            first = (written / name).read_bytes()
            assert first == (tmp_path / "again" / name).read_bytes()
            assert (first == (tmp_path / "other" / name).read_bytes()) == (name != "model.safetensors")

    def test_the_tokenizer_is_of_gemmas_kind(self, demo, encoder):
        tokenizer = encoder.tokenizer
        assert tokenizer.convert_ids_to_tokens([0, 1, 2, 3]) == ["<pad>", "<eos>", "<bos>", "<unk>"]
        assert len(tokenizer) == encoder.model.config.vocab_size
        tokens = tokenizer.convert_ids_to_tokens(tokenizer.encode("猫"))
        assert tokens == ["<bos>", "<0xE7>", "<0x8C>", "<0xAB>"]
        text = "A cat\tand 2 dogs,\nΩ 猫 😀!"
        assert tokenizer.unk_token_id not in tokenizer.encode(text)
        assert Tokenizer.from_file(str(demo / "tokenizer.json")).encode(text).ids == tokenizer.encode(text)
        assert tokenizer.decode(tokenizer.encode(text), skip_special_tokens=True) == text

    @pytest.mark.parametrize("rest", ["", "at", "ing", "he"])
    def test_any_letter_merges_with_the_space_before_it(self, encoder, rest):
        for letter in ascii_letters:
            assert "▁" not in encoder.tokenizer.tokenize("Prompt: " + letter + rest)

    def test_a_word_of_the_scenes_is_one_token(self, encoder):
        words = "a red ball moves right over a grey floor and bounces off the walls in a circle"
        assert encoder.tokenizer.tokenize(" " + words) == ["▁" + word for word in words.split()]

    @pytest.mark.parametrize("trained", [True, False], ids=["trained", "random"])
    @pytest.mark.parametrize("known", [None, SYSTEM_PROMPT], ids=["none known", "one known"])
    def test_it_reads_prompts_as_they_are(self, written, monkeypatch, caplog, trained, known):
        """Trained without a system prompt, it takes none, whatever is installed, and nobody is warned."""
        encoder_module._warn_no_system_prompt.cache_clear()
        monkeypatch.setattr(encoder_module, "find_system_prompt", lambda **_: known)
        folder = demo_set().text_encoder if trained else written
        with caplog.at_level(logging.DEBUG, logger="sana_video"):
            for encoder in (load_text_encoder(folder), load_text_encoder(folder, system_prompt=known)):
                assert encoder.resolve_system_prompt(True) is None
                on, off = (
                    encoder.encode("a ball", system_prompt=choice, motion_score=9) for choice in (True, False)
                )
                assert all(torch.equal(a, b) for a, b in zip(on, off, strict=True))
                # a text is used as it is
                assert encoder.resolve_system_prompt(SYSTEM_PROMPT) == SYSTEM_PROMPT
        assert not caplog.records


def test_the_loader_finds_the_original_system_prompt(demo):
    """True means the original, read from diffusers or a yaml file; no host has to look for it."""
    original = find_system_prompt()
    encoder = load_text_encoder(demo)
    assert encoder.resolve_system_prompt(True) == original
    by_default, named = encoder.encode("a ball"), encoder.encode("a ball", system_prompt=original)
    assert torch.equal(by_default[0], named[0])
    assert not torch.equal(by_default[0], encoder.encode("a ball", system_prompt=False)[0])
    assert load_text_encoder(demo, system_prompt=SYSTEM_PROMPT).resolve_system_prompt(True) == SYSTEM_PROMPT
