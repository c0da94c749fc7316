"""Make `opt.json` beside this file: the tensors that Hugging Face transformers declares for each named OPT.

Python 3.11, torch==2.13.0 (CPU), transformers==5.23.0. Nothing is allocated (`torch.device("meta")`). The sizes are
those of Zhang et al. 2022, table 1, and of 350m's published `config.json`; `*` stands for the layer number.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import torch
from transformers import OPTConfig, OPTForCausalLM

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


def declared(size: str) -> dict[str, Any]:
    """Number of layers, of parameters, and the shape of every tensor, by name."""
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
        model = OPTForCausalLM(config)
    tensors: dict[str, list[int]] = {}
    for name, parameter in model.named_parameters():
        pattern, shape = re.sub(r"\.\d+\.", ".*.", name), list(parameter.shape)
        if tensors.setdefault(pattern, shape) != shape:
            raise SystemExit(f"{name}: layers differ")
    return {"layers": layers, "parameters": sum(p.numel() for p in model.parameters()), "tensors": tensors}


if __name__ == "__main__":
    found = {f"facebook/opt-{size}": declared(size) for size in SIZES}
    lines = [f"{json.dumps(name)}: {json.dumps(entry)}" for name, entry in found.items()]
    Path(__file__).with_name("opt.json").write_text("{\n" + ",\n".join(lines) + "\n}\n")
