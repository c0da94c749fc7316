"""Write `shapes.json` beside this file: what Hugging Face transformers declares for every named Qwen2, 2.5 and 3.

Python 3.11, torch==2.13.0 (CPU), transformers==5.23.0; run it as `python make_published.py`. The sizes are those of the
published `config.json` files, written down here and not taken from zoo. Of a tied pair the embedding alone is a tensor.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
import transformers

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[3] / "tools"))

import published  # noqa: E402

# layers, hidden, intermediate, heads, key/value heads, vocabulary, tied
QWEN2 = {
    "0.5B": (24, 896, 4864, 14, 2, 151936, True),
    "1.5B": (28, 1536, 8960, 12, 2, 151936, True),
    "3B": (36, 2048, 11008, 16, 2, 151936, True),
    "7B": (28, 3584, 18944, 28, 4, 152064, False),
    "14B": (48, 5120, 13824, 40, 8, 152064, False),
    "32B": (64, 5120, 27648, 40, 8, 152064, False),
    "72B": (80, 8192, 29568, 64, 8, 152064, False),
}
QWEN3 = {
    "0.6B": (28, 1024, 3072, 16, 8, 151936, True),
    "1.7B": (28, 2048, 6144, 16, 8, 151936, True),
    "4B": (36, 2560, 9728, 32, 8, 151936, True),
    "8B": (36, 4096, 12288, 32, 8, 151936, False),
    "14B": (40, 5120, 17408, 40, 8, 151936, False),
    "32B": (64, 5120, 25600, 64, 8, 151936, False),
}
MODELS = {f"Qwen/Qwen2-{size}": ("Qwen2", QWEN2[size]) for size in ("0.5B", "1.5B", "7B", "72B")}
MODELS |= {f"Qwen/Qwen2.5-{size}{kind}": ("Qwen2", QWEN2[size]) for kind in ("", "-Instruct") for size in QWEN2}
MODELS |= {f"Qwen/Qwen3-{size}": ("Qwen3", QWEN3[size]) for size in QWEN3}


def declared(generation: str, sizes: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
    layers, hidden, intermediate, heads, kv_heads, vocab, tied = sizes
    config = getattr(transformers, f"{generation}Config")(
        vocab_size=vocab,
        hidden_size=hidden,
        intermediate_size=intermediate,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        tie_word_embeddings=tied,
        **({"head_dim": 128, "attention_bias": False} if generation == "Qwen3" else {}),
    )
    with torch.device("meta"):
        return published.declared(getattr(transformers, f"{generation}ForCausalLM")(config))


if __name__ == "__main__":
    published.write(HERE / "shapes.json", {name: declared(*sizes) for name, sizes in MODELS.items()})
