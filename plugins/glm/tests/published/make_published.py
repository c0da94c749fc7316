"""Write `shapes.json` beside this file: what the reference implementations declare at the published sizes.

Run as the golden script is (`../golden/README.md`); nothing is allocated. Two layers are built, and `*` stands for the
number of a layer: they are alike, and the script stops if not.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import torch

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "golden"))

import oracles  # noqa: E402

_10B = {"hidden_size": 4096, "num_attention_heads": 64, "max_sequence_length": 1024}
_130B = {"hidden_size": 12288, "inner_hidden_size": 32768, "num_attention_heads": 96, "max_sequence_length": 2048}
MODELS: dict[str, tuple[Any, int, dict[str, Any]]] = {
    "THUDM/glm-10b": (oracles.mglm, 48, {**_10B, "vocab_size": 50304}),
    "THUDM/glm-10b-chinese": (oracles.mglm, 48, {**_10B, "vocab_size": 50048}),
    "THUDM/glm-130b": (oracles.swiss, 70, {**_130B, "vocab_size": 150528, "layernorm_order": "post"}),
}

if __name__ == "__main__":
    found = {}
    for name, (build, layers, sizes) in MODELS.items():
        with torch.device("meta"):
            model = build({**sizes, "num_layers": 2})
        tensors: dict[str, list[int]] = {}
        for key, parameter in model.named_parameters():
            pattern, shape = re.sub(r"\.\d+\.", ".*.", key), list(parameter.shape)
            if tensors.setdefault(pattern, shape) != shape:
                raise SystemExit(f"{key} is {shape}, not {tensors[pattern]}")
        found[name] = {"layers": layers, "tensors": tensors}
    (HERE / "shapes.json").write_text(json.dumps(found, indent=1) + "\n")
