"""Write `shapes.json` beside this file: what Hugging Face transformers declares for every named OPT.

Python 3.11, torch==2.13.0 (CPU), transformers==5.23.0; run it as `python make_published.py`. The sizes are those of
Zhang et al. 2022, table 1, and of 350m's published `config.json`. Heads are tied, and of a tied pair the embedding
alone is a tensor.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from transformers import OPTConfig, OPTForCausalLM

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[3] / "tools"))

import published  # noqa: E402

# layers, hidden, heads
SIZES = {
    "125m": (12, 768, 12),
    "350m": (24, 1024, 16),
    "1.3b": (24, 2048, 32),
    "2.7b": (32, 2560, 32),
    "6.7b": (32, 4096, 32),
    "13b": (40, 5120, 40),
    "30b": (48, 7168, 56),
    "66b": (64, 9216, 72),
}
VARIANT: dict[str, dict[str, Any]] = {"350m": {"do_layer_norm_before": False, "word_embed_proj_dim": 512}}


def declared(size: str) -> dict[str, tuple[int, ...]]:
    layers, hidden, heads = SIZES[size]
    config = OPTConfig(
        vocab_size=50272,
        hidden_size=hidden,
        ffn_dim=4 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        **VARIANT.get(size, {}),
    )
    with torch.device("meta"):
        return published.declared(OPTForCausalLM(config))


if __name__ == "__main__":
    published.write(HERE / "shapes.json", {f"facebook/opt-{size}": declared(size) for size in SIZES})
