"""Make the Qwen2 and Qwen3 golden folders beside this file from Hugging Face transformers.

Python 3.11, torch==2.13.0 (CPU), transformers==5.23.0, safetensors==0.8.0, numpy==2.3.5.
Run it as `python make_golden.py` (all cases) or `python make_golden.py NAME ...`; it writes the same bytes every time.
Qwen v1 is not in transformers: see `make_golden_v1.py`.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[3] / "tools"))

from golden_transformers import Case, make_all  # noqa: E402

# The published files carry a sliding window that `use_sliding_window` switches off; here it is shorter than the
# sequence, so that a plugin which obeys the number alone is found out.
QWEN2: dict[str, Any] = {
    "architectures": ["Qwen2ForCausalLM"],
    "attention_dropout": 0.0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "hidden_act": "silu",
    "hidden_size": 32,
    "initializer_range": 0.02,
    "intermediate_size": 24,
    "max_position_embeddings": 64,
    "max_window_layers": 0,
    "model_type": "qwen2",
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-06,
    "rope_theta": 1000000.0,
    "sliding_window": 8,
    "tie_word_embeddings": False,
    "torch_dtype": "float32",
    "transformers_version": "4.41.2",
    "use_cache": True,
    "use_sliding_window": False,
    "vocab_size": 67,
}
QWEN3: dict[str, Any] = {
    **QWEN2,
    "architectures": ["Qwen3ForCausalLM"],
    "attention_bias": False,
    "head_dim": 12,
    "model_type": "qwen3",
    "rope_scaling": None,
    "sliding_window": None,
    "transformers_version": "4.51.0",
}
CASES = {
    "qwen2_gqa": Case({"hidden_size": 48, "num_attention_heads": 8}, control={"use_sliding_window": True}),
    "qwen2_tied": Case({"tie_word_embeddings": True, "num_hidden_layers": 3}, control={"rope_theta": 100.0}),
    "qwen2_odd_heads": Case(
        {"hidden_size": 40, "num_attention_heads": 5, "num_key_value_heads": 1, "vocab_size": 101}, shards=2
    ),
    "qwen3_gqa": Case({**QWEN3, "num_attention_heads": 6}, control={"rms_norm_eps": 0.1}),
    "qwen3_tied": Case({**QWEN3, "tie_word_embeddings": True, "num_hidden_layers": 3}, control={"rope_theta": 100.0}),
    "qwen3_odd_heads": Case(
        {**QWEN3, "head_dim": 10, "num_attention_heads": 3, "num_key_value_heads": 3, "vocab_size": 71}
    ),
    "qwen2_left_padded": Case({}, inputs="left_padded"),
    "qwen2_packed": Case({}, inputs="packed"),
}

if __name__ == "__main__":
    make_all(HERE, CASES, QWEN2, 2000, sys.argv[1:])
