"""Write `shapes.json` beside this file: what Hugging Face transformers declares for every named Llama.

Python 3.11, torch==2.13.0 (CPU), transformers==5.23.0; run it as `python make_published.py`. The sizes are those of the
published `config.json` files, written down here and not taken from zoo.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[3] / "tools"))

import published  # noqa: E402

# layers, hidden, intermediate, heads, key/value heads
_7B, _13B = (32, 4096, 11008, 32, 32), (40, 5120, 13824, 40, 40)
_GROUPED_70B = (80, 8192, 28672, 64, 8)
MODELS = {
    "facebook/llama-7b": (_7B, 32000),
    "facebook/llama-13b": (_13B, 32000),
    "facebook/llama-30b": ((60, 6656, 17920, 52, 52), 32000),
    "facebook/llama-65b": ((80, 8192, 22016, 64, 64), 32000),
    "meta-llama/Llama-2-7b": (_7B, 32000),
    "meta-llama/Llama-2-7b-chat": (_7B, 32000),
    "meta-llama/Llama-2-13b": (_13B, 32000),
    "meta-llama/Llama-2-13b-chat": (_13B, 32000),
    "meta-llama/Llama-2-70b": (_GROUPED_70B, 32000),
    "meta-llama/Meta-Llama-3-8B": ((32, 4096, 14336, 32, 8), 128256),
    "meta-llama/Meta-Llama-3-70B": (_GROUPED_70B, 128256),
    "meta-llama/Meta-Llama-3.1-8B-Instruct": ((32, 4096, 14336, 32, 8), 128256),
    "FlagAlpha/Llama2-Chinese-7b-Chat": (_7B, 32000),
    "FlagAlpha/Llama2-Chinese-13b-Chat": (_13B, 32000),
    "idea-ccnl/ziya-llama-13b-v1": (_13B, 39424),
    "linly-ai/chinese-llama-2-7b": (_7B, 40076),
    "linly-ai/chinese-llama-2-13b": (_13B, 40076),
}


def declared(sizes: tuple[int, ...], vocab: int) -> dict[str, tuple[int, ...]]:
    layers, hidden, intermediate, heads, kv_heads = sizes
    config = LlamaConfig(
        vocab_size=vocab,
        hidden_size=hidden,
        intermediate_size=intermediate,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        tie_word_embeddings=False,
    )
    with torch.device("meta"):
        return published.declared(LlamaForCausalLM(config))


if __name__ == "__main__":
    published.write(HERE / "shapes.json", {name: declared(*sizes) for name, sizes in MODELS.items()})
