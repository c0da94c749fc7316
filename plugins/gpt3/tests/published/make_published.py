"""Write `shapes.json` beside this file: what Hugging Face transformers declares for every named GPT.

Python 3.11, torch==2.13.0 (CPU), transformers==5.23.0; run it as `python make_published.py`. The sizes are those of
PaddleNLP's and OpenAI's published configurations, written down here and not taken from zoo. Heads are tied, and of a
tied pair the embedding alone is a tensor.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from transformers import GPT2Config, GPT2LMHeadModel

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[3] / "tools"))

import published  # noqa: E402

# layers, hidden, heads, vocabulary, positions
MODELS = {
    "gpt3": (12, 768, 12, 50304, 1024),
    "gpt3-345M": (24, 1024, 16, 50304, 1024),
    "gpt3-1.3B": (24, 2048, 16, 50304, 1024),
    "gpt3-6.7B": (32, 4096, 32, 50304, 1024),
    "gpt3-13B": (40, 5120, 40, 50304, 4096),
    "gpt3-175B": (96, 12288, 96, 51200, 1024),
    "gpt2-en": (12, 768, 12, 50257, 1024),
    "gpt2-medium-en": (24, 1024, 16, 50304, 1024),
    "gpt2-large-en": (36, 1280, 20, 50257, 1024),
    "gpt2-xl-en": (48, 1600, 25, 50257, 1024),
    "openai-community/gpt2": (12, 768, 12, 50257, 1024),
    "openai-community/gpt2-medium": (24, 1024, 16, 50257, 1024),
    "openai-community/gpt2-large": (36, 1280, 20, 50257, 1024),
    "openai-community/gpt2-xl": (48, 1600, 25, 50257, 1024),
}


def declared(layers: int, hidden: int, heads: int, vocab: int, positions: int) -> dict[str, tuple[int, ...]]:
    config = GPT2Config(n_layer=layers, n_embd=hidden, n_head=heads, vocab_size=vocab, n_positions=positions)
    with torch.device("meta"):
        return published.declared(GPT2LMHeadModel(config))


if __name__ == "__main__":
    published.write(HERE / "shapes.json", {name: declared(*sizes) for name, sizes in MODELS.items()})
