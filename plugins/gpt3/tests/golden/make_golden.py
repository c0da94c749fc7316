"""Make the GPT-2 golden folders beside this file from Hugging Face transformers.

Python 3.11, torch==2.13.0 (CPU), transformers==5.23.0, safetensors==0.8.0, numpy==2.3.5.
Run it as `python make_golden.py` (all cases) or `python make_golden.py NAME ...`; it writes the same bytes every time.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[3] / "tools"))

from golden_transformers import Case, make_all  # noqa: E402

BASE: dict[str, Any] = {
    "activation_function": "gelu_new",
    "architectures": ["GPT2LMHeadModel"],
    "attn_pdrop": 0.1,
    "bos_token_id": 66,
    "embd_pdrop": 0.1,
    "eos_token_id": 66,
    "initializer_range": 0.02,
    "layer_norm_epsilon": 1e-05,
    "model_type": "gpt2",
    "n_ctx": 32,
    "n_embd": 24,
    "n_head": 4,
    "n_inner": 48,
    "n_layer": 2,
    "n_positions": 32,
    "resid_pdrop": 0.1,
    "torch_dtype": "float32",
    "transformers_version": "4.43.0",
    "use_cache": True,
    "vocab_size": 67,
}

CASES = {
    # The published files have no n_inner: 4 x n_embd.
    "gpt2": Case({"n_embd": 20}, without=("n_inner",), control={"activation_function": "relu"}),
    "odd_heads": Case(
        {"n_embd": 30, "n_head": 5, "n_inner": 26, "vocab_size": 101, "bos_token_id": 100, "eos_token_id": 100},
        control={"n_head": 6},
    ),
    "untied": Case(
        {"n_embd": 18, "n_head": 3, "n_layer": 3, "tie_word_embeddings": False, "layer_norm_epsilon": 1e-3},
        control={"layer_norm_epsilon": 1e-1},
    ),
    "gelu_exact": Case({"n_head": 2, "activation_function": "gelu"}),
    "sharded": Case({}, length=16, shards=3),
    "left_padded": Case({}, inputs="left_padded"),
    "packed": Case({}, inputs="packed"),
}


if __name__ == "__main__":
    make_all(HERE, CASES, BASE, 3000, sys.argv[1:])
