"""Make the Qwen v1 golden folders beside this file from modelscope's torch code, and check them a second time.

Python 3.11, torch==2.13.0 (CPU), modelscope==1.9.5, transformers==4.33.3, safetensors==0.8.0, numpy==1.26.4
(the README says how to install them). Run it as `python make_golden_v1.py` or `python make_golden_v1.py NAME ...`;
it writes the same bytes every time.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[3] / "tools"))

import golden  # noqa: E402
from modelscope.models.nlp.qwen.configuration import QWenConfig  # noqa: E402
from modelscope.models.nlp.qwen.text_generation import QWenForTextGeneration  # noqa: E402

BASE: dict[str, Any] = {
    "architectures": ["QWenLMHeadModel"],
    "attn_dropout_prob": 0.0,
    "auto_map": {
        "AutoConfig": "configuration_qwen.QWenConfig",
        "AutoModelForCausalLM": "modeling_qwen.QWenLMHeadModel",
    },
    "bf16": False,
    "emb_dropout_prob": 0.0,
    "fp16": False,
    "fp32": False,
    "hidden_size": 32,
    "initializer_range": 0.02,
    "intermediate_size": 48,
    "kv_channels": 8,
    "layer_norm_epsilon": 1e-06,
    "max_position_embeddings": 64,
    "model_type": "qwen",
    "no_bias": True,
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "onnx_safe": None,
    "rotary_emb_base": 10000,
    "rotary_pct": 1.0,
    "scale_attn_weights": True,
    "seq_length": 32,
    "tie_word_embeddings": False,
    "tokenizer_class": "QWenTokenizer",
    "transformers_version": "4.32.0",
    "use_cache": True,
    "use_dynamic_ntk": True,
    "use_flash_attn": "auto",
    "use_logn_attn": True,
    "vocab_size": 67,
}
# name: (changes of BASE, sequence length)
CASES: dict[str, tuple[dict[str, Any], int]] = {
    "qwen1_plain": ({}, 20),
    "qwen1_ntk_logn": ({"seq_length": 8}, 36),
    "qwen1_logn": ({"seq_length": 8, "use_dynamic_ntk": False}, 20),
    "qwen1_ntk": ({"seq_length": 8, "use_logn_attn": False}, 20),
    "qwen1_odd_heads": ({"hidden_size": 40, "num_attention_heads": 5, "vocab_size": 101}, 16),
}


def modelscope_model(config: Mapping[str, Any]) -> torch.nn.Module:
    """modelscope's class, under its own names for what the published configuration says."""
    return QWenForTextGeneration(
        QWenConfig(
            vocab_size=config["vocab_size"],
            padded_vocab_size=config["vocab_size"],
            n_embd=config["hidden_size"],
            n_layer=config["num_hidden_layers"],
            n_head=config["num_attention_heads"],
            n_positions=config["max_position_embeddings"],
            embd_pdrop=config["emb_dropout_prob"],
            attn_pdrop=config["attn_dropout_prob"],
            ffn_hidden_size=config["intermediate_size"],
            layer_norm_epsilon=config["layer_norm_epsilon"],
            kv_channels=config["kv_channels"],
            rotary_pct=config["rotary_pct"],
            rotary_emb_base=config["rotary_emb_base"],
            seq_length=config["seq_length"],
            use_dynamic_ntk=config["use_dynamic_ntk"],
            use_logn_attn=config["use_logn_attn"],
            no_bias=config["no_bias"],
            tie_word_embeddings=config["tie_word_embeddings"],
            params_dtype=torch.get_default_dtype(),
            pos_emb="rotary",
            use_flash_attn=False,
            bf16=False,
            fp16=False,
        )
    )


def described(config: Mapping[str, Any], weights: Mapping[str, np.ndarray], ids: np.ndarray) -> np.ndarray:
    """Logits from the published description of Qwen v1, in float64 numpy: the second opinion on modelscope's."""
    w = {name: value.astype(np.float64) for name, value in weights.items()}
    heads, head_dim, length = config["num_attention_heads"], config["kv_channels"], ids.shape[1]

    def norm(x: np.ndarray, name: str) -> np.ndarray:
        return x / np.sqrt((x**2).mean(-1, keepdims=True) + config["layer_norm_epsilon"]) * w[name]

    base = float(config["rotary_emb_base"])
    if config["use_dynamic_ntk"]:
        alpha = max(2 ** math.ceil(math.log2(length / config["seq_length"]) + 1) - 1, 1)
        base *= alpha ** (head_dim / (head_dim - 2))
    angles = np.arange(length)[:, None] / base ** (np.arange(0, head_dim, 2) / head_dim)
    cos, sin = np.cos(angles)[None, :, None], np.sin(angles)[None, :, None]

    def rotate(x: np.ndarray) -> np.ndarray:
        first, second = np.split(x, 2, axis=-1)
        return np.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)

    positions = np.arange(1, length + 1)
    logn = np.maximum(np.log(positions) / np.log(config["seq_length"]), 1.0)
    query_scale = logn if config["use_logn_attn"] else np.ones(length)
    hidden = w["transformer.wte.weight"][ids]
    for number in range(config["num_hidden_layers"]):
        block = f"transformer.h.{number}."
        x = norm(hidden, block + "ln_1.weight")
        fused = x @ w[block + "attn.c_attn.weight"].T + w[block + "attn.c_attn.bias"]
        q, k, v = (part.reshape(*ids.shape, heads, head_dim) for part in np.split(fused, 3, axis=-1))
        q, k = rotate(q) * query_scale[None, :, None, None], rotate(k)
        scores = np.einsum("bqhd,bkhd->bhqk", q, k) / math.sqrt(head_dim)
        scores = np.where(np.tril(np.ones((length, length), bool)), scores, -np.inf)
        scores = np.exp(scores - scores.max(-1, keepdims=True))
        attended = np.einsum("bhqk,bkhd->bqhd", scores / scores.sum(-1, keepdims=True), v)
        hidden = hidden + attended.reshape(*ids.shape, -1) @ w[block + "attn.c_proj.weight"].T
        x = norm(hidden, block + "ln_2.weight")
        gate = x @ w[block + "mlp.w2.weight"].T
        up = x @ w[block + "mlp.w1.weight"].T
        hidden = hidden + (up * gate / (1.0 + np.exp(-gate))) @ w[block + "mlp.c_proj.weight"].T
    return norm(hidden, "transformer.ln_f.weight") @ w["lm_head.weight"].T


def make(name: str, seed: int) -> None:
    changes, length = CASES[name]
    config, folder = {**BASE, **changes}, HERE / name
    shapes = {parameter: value.shape for parameter, value in modelscope_model(config).named_parameters()}
    weights = golden.random_weights(shapes, seed)
    golden.write_model_folder(folder, config, weights)
    ids = golden.random_ids(config["vocab_size"], 2, length, seed)

    def loaded() -> torch.nn.Module:
        model = modelscope_model(config)
        model.load_state_dict({key: torch.from_numpy(value) for key, value in weights.items()})
        return model.eval()

    def forward(model: torch.nn.Module) -> torch.Tensor:
        return model(input_ids=torch.from_numpy(ids), use_cache=False).logits

    single = golden.reference(loaded(), forward, ids, list(shapes))
    with golden.double_precision():
        exact = golden.reference(loaded(), forward, ids, list(shapes))
        training = forward(loaded().train()).detach().numpy()
    disagreement = np.abs(described(config, weights, ids) - exact.logits).max()
    plain = described({**config, "use_dynamic_ntk": False, "use_logn_attn": False}, weights, ids)
    if max(disagreement, np.abs(plain - training).max()) > 1e-12:
        raise SystemExit(f"{name}: modelscope and the description differ by {disagreement:.1e}")
    if length > config["seq_length"]:
        for switch in ("use_dynamic_ntk", "use_logn_attn"):
            without = described({**config, switch: False}, weights, ids)
            if config[switch] and np.abs(without - exact.logits).max() < 1e-2:
                raise SystemExit(f"{name}: {switch} changes nothing, so the case proves nothing")
    golden.write_case(folder, exact, single, {"input_ids": ids, "logits_train": training.astype(np.float32)})
    print(f"{'':24s} float64 numpy against float64 modelscope: {disagreement:.1e}")


if __name__ == "__main__":
    for number, case in enumerate(CASES):
        if not sys.argv[1:] or case in sys.argv[1:]:
            make(case, 3000 + number)
