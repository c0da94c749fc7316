"""Write `shapes_v1.json` beside this file: what modelscope's torch code declares for every named Qwen v1.

The environment is that of `../golden/make_golden_v1.py`; run it as `python make_published_v1.py`. The sizes are those
of the published `config.json` files, written down here and not taken from zoo.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parents[3] / "tools"), str(HERE.parent / "golden")]

import published  # noqa: E402
from make_golden_v1 import BASE, modelscope_model  # noqa: E402

SIZES = {
    "7b": {"hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32, "intermediate_size": 22016},
    "14b": {"hidden_size": 5120, "num_hidden_layers": 40, "num_attention_heads": 40, "intermediate_size": 27392},
}
VOCABULARY = {"7b": 151936, "14b": 152064}


def declared(size: str) -> dict[str, tuple[int, ...]]:
    config = {**BASE, **SIZES[size], "kv_channels": 128, "vocab_size": VOCABULARY[size]}
    with torch.device("meta"):
        return published.declared(modelscope_model(config))


if __name__ == "__main__":
    models = {f"qwen/qwen-{size}{kind}": declared(size) for size in SIZES for kind in ("", "-chat")}
    published.write(HERE / "shapes_v1.json", models)
