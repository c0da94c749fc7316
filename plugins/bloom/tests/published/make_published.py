"""Write `shapes.json` beside this file: what Hugging Face transformers declares for every named Bloom.

Python 3.11, torch==2.13.0 (CPU), transformers==5.23.0; run it as `python make_published.py`. The sizes are those of the
published `config.json` files, written down here and not taken from zoo. Heads are tied, and of a tied pair the
embedding alone is a tensor.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from transformers import BloomConfig, BloomForCausalLM

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[3] / "tools"))

import published  # noqa: E402

# hidden, layers, heads
SIZES = {
    "-560m": (1024, 24, 16),
    "-1b1": (1536, 24, 16),
    "-1b7": (2048, 24, 16),
    "-3b": (2560, 30, 32),
    "-7b1": (4096, 30, 32),
    "": (14336, 70, 112),
}
MODELS = {f"bigscience/{kind}{size}": size for kind in ("bloom", "bloomz") for size in SIZES}
MODELS |= {"bigscience/bloomz-7b1-mt": "-7b1", "bigscience/bloomz-7b1-p3": "-7b1"}
MODELS |= {"bigscience/bloomz-mt": "", "bigscience/bloomz-p3": ""}


def declared(hidden: int, layers: int, heads: int) -> dict[str, tuple[int, ...]]:
    config = BloomConfig(vocab_size=250880, hidden_size=hidden, n_layer=layers, n_head=heads)
    with torch.device("meta"):
        return published.declared(BloomForCausalLM(config))


if __name__ == "__main__":
    published.write(HERE / "shapes.json", {name: declared(*SIZES[size]) for name, size in MODELS.items()})
