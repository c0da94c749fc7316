"""Make `shapes.json` beside this file: the tensors of the seven published models, as the reference declares them.

transformers has no Baichuan, so its Llama, whose parameters a Baichuan has with q, k and v as the rows of `W_pack`, is
built on torch's meta device at each published configuration. Layers are written once, as `*`.
Python 3.11, torch==2.13.0 (CPU), transformers==5.23.0. Run it as `python make_published.py`.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "golden"))

from plain_baichuan import shapes  # noqa: E402

_7B = {"hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32, "num_attention_heads": 32}
_13B = {"hidden_size": 5120, "intermediate_size": 13696, "num_hidden_layers": 40, "num_attention_heads": 40}
MODELS = {
    "Baichuan-7B": {**_7B, "vocab_size": 64000},
    "Baichuan-13B-Base": {**_13B, "vocab_size": 64000},
    "Baichuan-13B-Chat": {**_13B, "vocab_size": 64000},
    "Baichuan2-7B-Base": {**_7B, "vocab_size": 125696},
    "Baichuan2-7B-Chat": {**_7B, "vocab_size": 125696},
    "Baichuan2-13B-Base": {**_13B, "vocab_size": 125696},
    "Baichuan2-13B-Chat": {**_13B, "vocab_size": 125696},
}


def declared(config: dict[str, int]) -> dict[str, object]:
    found: dict[str, tuple[int, ...]] = {}
    for name, shape in shapes({**config, "rms_norm_eps": 1e-6}).items():
        pattern = re.sub(r"\.layers\.\d+\.", ".layers.*.", name)
        if found.setdefault(pattern, shape) != shape:
            raise SystemExit(f"{name} is {shape}, and {found[pattern]} in another layer")
    return {"layers": config["num_hidden_layers"], "tensors": found}


if __name__ == "__main__":
    content = {f"baichuan-inc/{name}": declared(config) for name, config in MODELS.items()}
    (HERE / "shapes.json").write_text(json.dumps(content, indent=1, sort_keys=True) + "\n")
