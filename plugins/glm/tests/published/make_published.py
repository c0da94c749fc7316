"""Write `shapes.json` beside this file: what the reference implementations declare for every named GLM.

Run it as the golden script is run (`../golden/README.md`).
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parents[3] / "tools"), str(HERE.parent / "golden")]

import oracles  # noqa: E402
import published  # noqa: E402

_10B = {"hidden_size": 4096, "num_attention_heads": 64, "num_layers": 48, "max_sequence_length": 1024}
_130B = {"hidden_size": 12288, "num_attention_heads": 96, "num_layers": 70, "max_sequence_length": 2048}
MODELS: dict[str, tuple[Any, dict[str, Any]]] = {
    "THUDM/glm-10b": (oracles.mglm, {**_10B, "vocab_size": 50304}),
    "THUDM/glm-10b-chinese": (oracles.mglm, {**_10B, "vocab_size": 50048}),
    "THUDM/glm-130b": (
        oracles.swiss,
        {**_130B, "inner_hidden_size": 32768, "vocab_size": 150528, "layernorm_order": "post"},
    ),
}

if __name__ == "__main__":
    found = {}
    for name, (build, sizes) in MODELS.items():
        with torch.device("meta"):
            found[name] = published.declared(build(sizes))
    published.write(HERE / "shapes.json", found)
