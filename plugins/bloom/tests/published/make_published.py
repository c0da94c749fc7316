"""Write `shapes.json` beside this file: what Hugging Face transformers declares for every named Bloom.

Python 3.11, torch==2.13.0 (CPU), transformers==5.23.0. Models are built on the meta device, so nothing is allocated;
of a tied pair the embedding alone is a tensor of the files. Run it as `python make_published.py`; it writes the same
bytes every time.

The sizes are those of the published `config.json` files, written down here and not taken from zoo.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import torch
from transformers import BloomConfig, BloomForCausalLM

# n_embed, n_layer, n_head
SIZES = {
    "-560m": (1024, 24, 16),
    "-1b1": (1536, 24, 16),
    "-1b7": (2048, 24, 16),
    "-3b": (2560, 30, 32),
    "-7b1": (4096, 30, 32),
    "": (14336, 70, 112),
}
NAMES = {f"bigscience/{kind}{size}": size for kind in ("bloom", "bloomz") for size in SIZES}
NAMES |= {"bigscience/bloomz-7b1-mt": "-7b1", "bigscience/bloomz-7b1-p3": "-7b1"}
NAMES |= {"bigscience/bloomz-mt": "", "bigscience/bloomz-p3": ""}


def declared(size: str) -> dict[str, object]:
    """Layer count, and shape by name with `*` for the layer; every layer must have the same."""
    n_embed, n_layer, n_head = SIZES[size]
    config = BloomConfig(vocab_size=250880, n_embed=n_embed, n_layer=n_layer, n_head=n_head)
    with torch.device("meta"):
        model = BloomForCausalLM(config)
    if not config.tie_word_embeddings or "lm_head.weight" in dict(model.named_parameters()):
        raise SystemExit("the head is not tied")
    shapes: dict[str, list[int]] = {}
    layers: dict[str, set[int]] = {}
    for name, parameter in model.named_parameters():
        found = re.search(r"\.h\.(\d+)\.", name)
        pattern = re.sub(r"\.h\.\d+\.", ".h.*.", name)
        if shapes.setdefault(pattern, list(parameter.shape)) != list(parameter.shape):
            raise SystemExit(f"{name} differs from the layer before")
        if found:
            layers.setdefault(pattern, set()).add(int(found[1]))
    if any(numbers != set(range(n_layer)) for numbers in layers.values()):
        raise SystemExit("a layer lacks a tensor")
    return {"layers": n_layer, "shapes": shapes}


if __name__ == "__main__":
    by_size = {size: declared(size) for size in SIZES}
    lines = [f" {json.dumps(name)}: {json.dumps(by_size[size])}" for name, size in NAMES.items()]
    Path(__file__).with_name("shapes.json").write_text("{\n" + ",\n".join(lines) + "\n}\n")
