"""A text encoder of full size with random weights, in one file as ComfyUI's users have it."""

from __future__ import annotations

import io
from pathlib import Path

import sentencepiece
import torch
import transformers
from safetensors.torch import save_file

WORDS = ["a red ball rolls over a blue floor and bounces off the wall", "abcdefghijklmnopqrstuvwxyz .,:"] * 5


def write_text_encoder(path: Path) -> Path:
    """Gemma-2-2B, drawn on the GPU, with a small vocabulary of its own."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.Train(
        sentence_iterator=iter(WORDS),
        model_writer=model,
        model_type="bpe",
        vocab_size=340,
        byte_fallback=True,
        pad_id=0,
        eos_id=1,
        bos_id=2,
        unk_id=3,
    )
    torch.set_default_dtype(torch.bfloat16)
    with torch.device("cuda"):
        gemma = transformers.Gemma2Model(transformers.Gemma2Config())
    torch.set_default_dtype(torch.float32)
    tensors = {f"model.{name}": tensor.cpu() for name, tensor in gemma.state_dict().items()}
    tensors["spiece_model"] = torch.frombuffer(bytearray(model.getvalue()), dtype=torch.uint8)
    save_file(tensors, path)
    return path
