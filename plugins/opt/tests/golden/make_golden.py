"""Make the OPT golden folders beside this file from Hugging Face transformers.

Python 3.11, torch==2.13.0 (CPU), transformers==5.23.0, safetensors==0.8.0, numpy==2.3.5.
Run it as `python make_golden.py` (all cases) or `python make_golden.py NAME ...`; it writes the same bytes every time.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[3] / "tools"))

from golden import random_ids  # noqa: E402
from golden_transformers import Case, make_all  # noqa: E402

SEED = 4000
BASE: dict[str, Any] = {
    "_remove_final_layer_norm": False,
    "activation_dropout": 0.0,
    "activation_function": "relu",
    "architectures": ["OPTForCausalLM"],
    "attention_dropout": 0.0,
    "bos_token_id": 2,
    "do_layer_norm_before": True,
    "dropout": 0.1,
    "eos_token_id": 2,
    "ffn_dim": 32,
    "hidden_size": 24,
    "init_std": 0.02,
    "layerdrop": 0.0,
    "max_position_embeddings": 24,
    "model_type": "opt",
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "prefix": "</s>",
    "torch_dtype": "float32",
    "transformers_version": "4.21.0.dev0",
    "use_cache": True,
    "vocab_size": 67,
    "word_embed_proj_dim": 24,
}
POST: dict[str, Any] = {"do_layer_norm_before": False, "word_embed_proj_dim": 20}
BARE: dict[str, Any] = {
    "activation_function": "gelu",
    "enable_bias": False,
    "layer_norm_elementwise_affine": False,
}

CASES = {
    "pre_norm": Case({}, control={"activation_function": "gelu"}),
    "post_norm_projected": Case(POST, control={"do_layer_norm_before": True, "_remove_final_layer_norm": True}),
    "odd_heads": Case({"hidden_size": 30, "num_attention_heads": 5, "vocab_size": 101, "word_embed_proj_dim": 30}),
    "left_padded": Case({}, inputs="left_padded"),
    "post_norm_left_padded": Case(
        {**POST, "hidden_size": 30, "num_attention_heads": 3, "vocab_size": 101}, inputs="left_padded"
    ),
    "packed": Case({}, inputs="packed"),
    "no_final_norm": Case({"_remove_final_layer_norm": True, "word_embed_proj_dim": 28}),
    # Norms without parameters and projections without biases, as the two switches of the published code allow.
    "bare": Case(BARE, control={"activation_function": "relu"}),
    "untied": Case({"tie_word_embeddings": False}, shards=2),
}


def with_unused_pad(number: int, case: Case) -> Case:
    """Give the case a `pad_token_id` that none of its ids is: transformers does not train the pad token's embedding."""
    vocab = case.published(BASE)["vocab_size"]
    used = set(random_ids(vocab, 2, case.length, SEED + number).flatten().tolist()) | {0}
    return replace(case, config={**case.config, "pad_token_id": min(set(range(vocab)) - used)})


if __name__ == "__main__":
    cases = {name: with_unused_pad(number, case) for number, (name, case) in enumerate(CASES.items())}
    make_all(HERE, cases, BASE, SEED, sys.argv[1:])
