"""Make the Llama golden folders beside this file from Hugging Face transformers.

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
    "architectures": ["LlamaForCausalLM"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "hidden_act": "silu",
    "hidden_size": 32,
    "initializer_range": 0.02,
    "intermediate_size": 24,
    "max_position_embeddings": 64,
    "model_type": "llama",
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "num_key_value_heads": 4,
    "pretraining_tp": 1,
    "rms_norm_eps": 1e-05,
    "rope_scaling": None,
    "rope_theta": 10000.0,
    "tie_word_embeddings": False,
    "torch_dtype": "float32",
    "transformers_version": "4.43.0",
    "use_cache": True,
    "vocab_size": 67,
}
LLAMA3_SCALING = {
    "factor": 8.0,
    "high_freq_factor": 4.0,
    "low_freq_factor": 1.0,
    "original_max_position_embeddings": 32,
    "rope_type": "llama3",
}


CASES = {
    # Llama 1 published 1e-6 and no num_key_value_heads, rope_theta or rope_scaling.
    "llama1_mha": Case(
        {"rms_norm_eps": 1e-06, "transformers_version": "4.28.1"},
        without=(
            "attention_bias",
            "attention_dropout",
            "num_key_value_heads",
            "pretraining_tp",
            "rope_scaling",
            "rope_theta",
        ),
        control={"rope_theta": 500000.0},
    ),
    "llama3_gqa": Case(
        {"hidden_size": 48, "num_attention_heads": 8, "num_key_value_heads": 2, "rope_theta": 500000.0},
        control={"rope_theta": 10000.0},
    ),
    "llama31_rope_llama3": Case(
        {
            "head_dim": 16,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "rope_theta": 10000.0,
            "rope_scaling": LLAMA3_SCALING,
            "max_position_embeddings": 128,
        },
        length=40,
        control={"rope_scaling": None},
    ),
    "rope_linear": Case({"rope_scaling": {"type": "linear", "factor": 4.0}}, control={"rope_scaling": None}),
    "rope_dynamic": Case(
        {"rope_scaling": {"type": "dynamic", "factor": 2.0}, "max_position_embeddings": 16},
        length=36,
        control={"rope_scaling": None},
    ),
    "tied": Case(
        {"tie_word_embeddings": True, "num_key_value_heads": 2, "num_hidden_layers": 3},
        control={"num_key_value_heads": 2, "rope_theta": 100.0},
    ),
    "bias_odd_heads": Case(
        {
            "attention_bias": True,
            "hidden_size": 40,
            "num_attention_heads": 5,
            "num_key_value_heads": 5,
            "head_dim": 6,
            "vocab_size": 101,
        },
    ),
    "sharded": Case({"num_hidden_layers": 3, "num_key_value_heads": 2}, length=16, shards=3),
    "left_padded": Case({"num_key_value_heads": 2}, inputs="left_padded"),
    "packed": Case({"num_key_value_heads": 2}, inputs="packed"),
}


if __name__ == "__main__":
    make_all(HERE, CASES, BASE, 1000, sys.argv[1:])
