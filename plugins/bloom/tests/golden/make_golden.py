"""Make the Bloom golden folders beside this file from Hugging Face transformers.

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
    "apply_residual_connection_post_layernorm": False,
    "architectures": ["BloomForCausalLM"],
    "attention_dropout": 0.0,
    "attention_softmax_in_fp32": True,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "hidden_dropout": 0.0,
    "hidden_size": 24,
    "initializer_range": 0.02,
    "layer_norm_epsilon": 1e-05,
    "masked_softmax_fusion": True,
    "model_type": "bloom",
    "n_head": 4,
    "n_inner": None,
    "n_layer": 2,
    "offset_alibi": 100,
    "pad_token_id": 3,
    "pretraining_tp": 1,
    "seq_length": 64,
    "skip_bias_add": True,
    "skip_bias_add_qkv": False,
    "slow_but_exact": False,
    "torch_dtype": "float32",
    "transformers_version": "4.21.0",
    "unk_token_id": 0,
    "use_cache": True,
    "vocab_size": 67,
}

# The number of heads is no shape: with another one the same weights read other columns and have other slopes.
CASES = {
    # The first published files say n_embed and num_attention_heads, and have no seq_length.
    "four_heads": Case(
        {"n_embed": 24, "num_attention_heads": 4, "transformers_version": "4.20.0"},
        without=("hidden_size", "n_head", "seq_length", "slow_but_exact", "torch_dtype"),
        length=16,
        control={"num_attention_heads": 6},
    ),
    "six_heads": Case({"n_head": 6, "vocab_size": 101}, length=12, control={"n_head": 4}),
    "five_heads": Case({"n_head": 5, "hidden_size": 20, "vocab_size": 101}, length=19, shards=2, control={"n_head": 4}),
    "twelve_heads": Case({"n_head": 12, "n_layer": 1}, length=40, control={"n_head": 8}),
    "residual_after_norm": Case(
        {"apply_residual_connection_post_layernorm": True},
        length=16,
        control={"apply_residual_connection_post_layernorm": False},
    ),
    "untied": Case({"tie_word_embeddings": False, "n_head": 3, "n_layer": 1}, length=16, control={"n_head": 4}),
    "left_padded": Case({"n_head": 6}, length=16, inputs="left_padded", control={"n_head": 4}),
    "packed": Case({"n_head": 6}, length=16, inputs="packed", control={"n_head": 4}),
}


if __name__ == "__main__":
    make_all(HERE, CASES, BASE, 3000, sys.argv[1:])
