"""Gemma-2 from one safetensors file, as ComfyUI keeps it: weights under `model.`, the tokenizer as bytes.

Source of the layout: Comfy-Org/PixelDiT, text_encoders/gemma_2_2b_it_elm_bf16.safetensors. The sizes are read
off the tensors; what no tensor shows is as in google/gemma-2-2b-it.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import FileError
from ..files.finite import check_finite
from ..files.quantised import quantised_sentence, refuse_quantised
from ..files.tensor_file import read_tensors
from ..files.training_names import unwrapped
from .gemma_folder import NEEDED
from .tokenizer import TOKENIZER, SentencePieceTokenizer, read_tokenizer

HEAD_DIM = 256  # Gemma-2-2B's; a file's metadata may override it and `query_pre_attn_scalar`
GEMMA_2_2B = {  # what no tensor shows
    "rope_theta": 10000.0,
    "sliding_window": 4096,
    "attn_logit_softcapping": 50.0,
    "final_logit_softcapping": 30.0,
    "rms_norm_eps": 1e-6,
    "hidden_activation": "gelu_pytorch_tanh",
    "attn_implementation": "eager",  # the others may skip the soft-capping of the attention logits
}
NOT_READ = (TOKENIZER, "lm_head.weight")
GEMMA2 = "layers.0.pre_feedforward_layernorm.weight"  # not in the first Gemma or other language models
LAYERS = {2304: 26, 3584: 42, 4608: 46}  # width -> layers of Gemma-2-2B, 9B and 27B
# part of a tensor's name -> what has it; the first match counts
RELATIVES = {".q_norm.": "a later Gemma", "pre_self_attn_layernorm": "a T5Gemma"}
OTHERS = {
    "lora_": "a LoRA",
    ".SelfAttention.": "a T5",
    "text_model.": "a CLIP",
    ".resblocks.": "a CLIP",
    "self_attn.q_proj.": "another language model",
    "decoder.conv": "a VAE",
    "decoder.up_blocks.": "a VAE",
    "blocks.0.": "a diffusion model",
}


def load_gemma_file(
    path: Path, *, device: torch.device | str, dtype: torch.dtype | None
) -> tuple[SentencePieceTokenizer, Any]:
    """Tokenizer and Gemma2Model on `device`. dtype None keeps the file's, but float8 becomes bfloat16."""
    try:
        tensors, metadata = read_tensors(path)
        tensors = unwrapped(tensors)
    except FileError as error:
        raise FileError(f"{error} {NEEDED}") from error
    prefix = _find_prefix(path, tensors)
    weights = {
        name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)
    }
    weights = {name: tensor for name, tensor in weights.items() if name not in NOT_READ}
    _refuse_quantized(path, weights)
    tokenizer = read_tokenizer(path, tensors)
    model = _empty_model(path, _sizes(path, weights, metadata))
    _check_weights(path, weights, {name: tensor.shape for name, tensor in model.state_dict().items()})
    check_finite(weights, path)
    if len(tokenizer) > model.config.vocab_size:
        raise FileError(
            f"The tokenizer in “{path.name}” knows {len(tokenizer)} tokens, "
            f"but its weights only {model.config.vocab_size}: they do not belong together. {NEEDED}"
        )
    if dtype is None:
        stored = weights["embed_tokens.weight"].dtype
        dtype = stored if stored.itemsize > 1 else torch.bfloat16
    # copies: mapped tensors would change with the file
    owned = {name: tensor.to(device, dtype, copy=True) for name, tensor in weights.items()}
    model.load_state_dict(owned, assign=True)
    return tokenizer, model.to(device)


def _find_prefix(path: Path, tensors: Mapping[str, Tensor]) -> str:
    """What precedes the names of the weights: `model.`, `text_encoders.gemma2_2b.transformer.model.`, …"""
    prefixes = [name.removesuffix(GEMMA2) for name in tensors if f".{name}".endswith(f".{GEMMA2}")]
    prefix = min(prefixes, default="")
    names = [name for name in tensors if name.startswith(prefix)]
    kinds = RELATIVES if prefixes else OTHERS
    kind = next((kind for part, kind in kinds.items() if any(part in name for name in names)), None)
    if prefixes and kind is None:
        return prefix
    kind = (
        kind
        or f"a file of another kind, with {len(tensors)} tensors (such as {min(tensors, default='none')})"
    )
    raise FileError(f"“{path.name}” isn't a Gemma-2 but {kind}. {NEEDED}")


def _refuse_quantized(path: Path, weights: Mapping[str, Tensor]) -> None:
    instead = (
        ", such as gemma_2_2b_it_elm_bf16.safetensors, or load this file with ComfyUI's own CLIPLoader "
        "(type pixeldit): the text node of SANA-Video takes its CLIP too"
    )
    refuse_quantised(path.name, weights, instead=instead)
    odd = [name for name, tensor in weights.items() if not tensor.is_floating_point()]
    if odd:
        raise FileError(quantised_sentence(path.name, "whole numbers", min(odd), instead))


def _sizes(path: Path, weights: Mapping[str, Tensor], metadata: Mapping[str, str]) -> dict[str, Any]:
    """The arguments of Gemma2Config that differ between files."""
    shapes = []
    for name in (
        "embed_tokens",
        "layers.0.mlp.gate_proj",
        "layers.0.self_attn.q_proj",
        "layers.0.self_attn.k_proj",
    ):
        tensor = weights.get(f"{name}.weight")
        if tensor is None or tensor.ndim != 2:
            problem = "is missing" if tensor is None else f"has shape {list(tensor.shape)}"
            raise FileError(f"“{path.name}” isn't a complete Gemma-2: {name}.weight {problem}. {NEEDED}")
        shapes.append(tensor.shape)
    (vocab, hidden), (intermediate, _), (queries, _), (keys, _) = shapes
    head, scalar = (metadata.get(key, str(HEAD_DIM)) for key in ("head_dim", "query_pre_attn_scalar"))
    if not all(re.fullmatch("[1-9][0-9]{0,5}", value) for value in (head, scalar)):
        raise FileError(
            f"The metadata of “{path.name}” says head_dim {head} and query_pre_attn_scalar {scalar}, "
            f"which must be whole numbers (Gemma-2-2B has {HEAD_DIM}). {NEEDED}"
        )
    heads, key_heads = queries // int(head), keys // int(head)
    if (
        not heads
        or not key_heads
        or queries % int(head)
        or keys % int(head)
        or heads % key_heads
        or hidden % heads
    ):
        raise FileError(
            f"“{path.name}” has no heads of {head} values: {queries} values of queries, {keys} of keys, "
            f"width {hidden}. It is damaged or another model. {NEEDED}"
        )
    layers = len({match[1] for name in weights if (match := re.match(r"layers\.(\d{1,6})\.", name))})
    if layers != LAYERS.get(hidden, layers):
        raise FileError(
            f"“{path.name}” isn't whole: it has {layers} layers of {LAYERS[hidden]}. "
            f"Download it again. {NEEDED}"
        )
    return {
        "vocab_size": vocab,
        "hidden_size": hidden,
        "intermediate_size": intermediate,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": key_heads,
        "head_dim": int(head),
        "query_pre_attn_scalar": int(scalar),
    }


def _empty_model(path: Path, sizes: Mapping[str, Any]) -> Any:
    """Gemma2Model with parameters on meta; its buffers, which no file holds, are computed."""
    import transformers

    def build(**changes: int):
        return transformers.Gemma2Model(transformers.Gemma2Config(**{**GEMMA_2_2B, **sizes, **changes}))

    with torch.device("meta"):
        model = build()
    # without layers it has the same buffers: rotary frequencies, since transformers 5 the embedding's scale
    with torch.random.fork_rng(devices=[]):  # its constructor draws weights
        twin = build(num_hidden_layers=0, vocab_size=8)
    for name, buffer in twin.named_buffers():
        owner, _, leaf = name.rpartition(".")
        setattr(model.get_submodule(owner), leaf, buffer)
    if any(buffer.is_meta for buffer in model.buffers()):
        raise FileError(
            f"“{path.name}” cannot be read with the installed transformers {transformers.__version__}, "
            "whose Gemma-2 is built in a new way. Install transformers 5.23, or use Gemma-2 as a folder."
        )
    return model


def _check_weights(path: Path, weights: Mapping[str, Tensor], expected: Mapping[str, torch.Size]) -> None:
    for names, what in (
        (expected.keys() - weights.keys(), "missing"),
        (weights.keys() - expected.keys(), "unknown"),
    ):
        if names:
            raise FileError(
                f"“{path.name}” isn't a complete Gemma-2: {min(names)} is {what} ({len(names)} in all). "
                f"Download the whole file again. {NEEDED}"
            )
    for name, shape in expected.items():
        if weights[name].shape != shape:
            raise FileError(
                f"“{path.name}”: {name} has shape {list(weights[name].shape)}, but the Gemma-2 that the "
                f"other tensors describe has {list(shape)}. The file is damaged; download it again."
            )
