"""A tiny Gemma-2 with its tokenizer, in the real formats, for the demo model and for the tests.

Its weights are random but fixed by the seed. It shares the real one's properties that matter here: words
merge with the space before them, unknown letters become bytes, special tokens have Gemma's ids, attention is
soft-capped and causal.
"""

import json
from collections import Counter
from itertools import pairwise
from pathlib import Path
from string import ascii_letters

import torch

# Gemma's first ids, in order.
SPECIALS = ("<pad>", "<eos>", "<bos>", "<unk>", "<mask>")
SPACE = "\u2581"

# The words of the demo's prompts; each becomes one token.
_WORDS = """
a an red orange yellow green blue purple white grey brown black ball square triangle star ring cross floor
moves left right up down in circle bounces off the walls grows shrinks spins stops turns and over motion score
"""


def demo_vocabulary() -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Token ids and merges, in the order of a byte-pair model with byte fallback (as Gemma's)."""
    # Every letter first merges with the space before it, whatever word it begins.
    merges = [(SPACE, letter) for letter in ascii_letters] + _learn_merges()
    tokens = [
        *SPECIALS,
        *(f"<0x{byte:02X}>" for byte in range(256)),
        SPACE,
        "\n",
        *(chr(code) for code in range(ord("!"), ord("~") + 1)),
        *(left + right for left, right in merges),
    ]
    # Two merges may give the same token, which keeps its first id.
    return {token: index for index, token in enumerate(dict.fromkeys(tokens))}, merges


def build_demo_text_encoder(folder: Path, *, seed: int = 0, width: int = 32) -> None:
    """Write config.json, model.safetensors and the tokenizer into `folder`: same seed, same bytes."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    vocabulary, merges = demo_vocabulary()
    _write_tokenizer(folder, vocabulary, merges)
    _random_gemma(len(vocabulary), seed, width).save_pretrained(folder)


def _learn_merges() -> list[tuple[str, str]]:
    """Byte-pair encoding of the words above, each with its space; ties go to the greater pair."""
    split = {word: [word[:2], *word[2:]] for word in (SPACE + word for word in _WORDS.split())}
    merges = []
    while any(len(pieces) > 1 for pieces in split.values()):
        pairs = Counter(pair for pieces in split.values() for pair in pairwise(pieces))
        best = max(pairs, key=lambda pair: (pairs[pair], pair))
        merges.append(best)
        split = {word: _join(pieces, best) for word, pieces in split.items()}
    return merges


def _join(pieces: list[str], pair: tuple[str, str]) -> list[str]:
    joined = []
    for piece in pieces:
        if joined and (joined[-1], piece) == pair:
            joined[-1] += piece
        else:
            joined.append(piece)
    return joined


def _write_tokenizer(folder: Path, vocabulary: dict[str, int], merges: list[tuple[str, str]]) -> None:
    """tokenizer.json and tokenizer_config.json, the same under transformers 4 and 5."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

    tokenizer = Tokenizer(
        models.BPE(vocab=vocabulary, merges=merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    )
    tokenizer.normalizer = normalizers.Replace(" ", SPACE)
    tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<bos> $A", pair="<bos> $A <bos> $B", special_tokens=[("<bos>", vocabulary["<bos>"])]
    )
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIALS])
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {
        "tokenizer_class": "GemmaTokenizer",
        "add_bos_token": True,
        "add_eos_token": False,
        "padding_side": "right",
        "clean_up_tokenization_spaces": False,
        **{f"{token[1:-1]}_token": token for token in SPECIALS},
    }
    text = json.dumps(settings, indent=2, sort_keys=True) + "\n"
    (folder / "tokenizer_config.json").write_bytes(text.encode("utf-8"))


def _random_gemma(vocab_size: int, seed: int, width: int):
    """A Gemma2Model of 2 layers with seeded weights. Leaves the global random state unchanged."""
    from transformers import Gemma2Config, Gemma2Model

    config = Gemma2Config(
        vocab_size=vocab_size,
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=2,  # one with a sliding window, one without
        num_attention_heads=width // 16,
        num_key_value_heads=width // 32,
        head_dim=16,
        query_pre_attn_scalar=16,
        sliding_window=4096,  # as the real one: never shorter than a prompt with its system prompt
        sana_instruction="",  # pyright: ignore[reportCallIssue]  ours: no system prompt
    )
    with torch.random.fork_rng(devices=[]):  # the constructor draws initial weights
        model = Gemma2Model(config)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            # large enough that attention has preferences: an embedding depends on the words before it
            parameter.copy_(
                torch.randn(parameter.shape, generator=generator) * (0.2 if parameter.ndim > 1 else 0.1)
            )
    return model
