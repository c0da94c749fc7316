"""Write `shapes.json` beside this file: the tensors of every named Baichuan, as the reference declares them.

transformers has no Baichuan, so its Llama, whose parameters a Baichuan has with q, k and v as the rows of `W_pack`, is
built at each published configuration (`../golden/plain_baichuan.py`).
Python 3.11, torch==2.13.0 (CPU), transformers==5.23.0; run it as `python make_published.py`.
"""

from __future__ import annotations

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parents[3] / "tools"), str(HERE.parent / "golden")]

import published  # noqa: E402
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

if __name__ == "__main__":
    models = {f"baichuan-inc/{name}": shapes({**sizes, "rms_norm_eps": 1e-6}) for name, sizes in MODELS.items()}
    published.write(HERE / "shapes.json", models)
