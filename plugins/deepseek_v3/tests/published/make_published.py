"""Write `shapes.json` beside this file: what Hugging Face transformers declares for DeepSeek-V3.

Python 3.11, torch==2.13.0 (CPU), transformers==5.23.0; run it as `python make_published.py`.

The sizes are those of the published `config.json`, written down here and not taken from zoo. transformers joins the
experts of a layer in two tensors when it reads the files, and renames what belongs to multi-token prediction; the names
here are those of the files. It reads the two copies in the prediction's layer from the main model: their names are from
DeepSeek's own README_WEIGHTS and the published index.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from transformers import DeepseekV3Config, DeepseekV3ForCausalLM
from transformers.modeling_layers import MtpModel

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[3] / "tools"))

import published  # noqa: E402

SIZES = {
    "first_k_dense_replace": 3,
    "hidden_size": 7168,
    "intermediate_size": 18432,
    "kv_lora_rank": 512,
    "moe_intermediate_size": 2048,
    "n_group": 8,
    "n_routed_experts": 256,
    "n_shared_experts": 1,
    "num_attention_heads": 128,
    "num_experts_per_tok": 8,
    "num_hidden_layers": 61,
    "num_key_value_heads": 128,
    "q_lora_rank": 1536,
    "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64,
    "tie_word_embeddings": False,
    "topk_group": 4,
    "v_head_dim": 128,
    "vocab_size": 129280,
}
LAYERS, EXPERTS, WIDTH = SIZES["num_hidden_layers"], SIZES["n_routed_experts"], SIZES["moe_intermediate_size"]


def declared() -> dict[str, tuple[int, ...]]:
    """Shape by published name."""
    with torch.device("meta"):
        main = DeepseekV3ForCausalLM(DeepseekV3Config(**SIZES))
        ahead = MtpModel(main, 1)
    tensors = {**dict(main.named_parameters()), **dict(main.named_buffers())}
    for name, tensor in {**dict(ahead.named_parameters()), **dict(ahead.named_buffers())}.items():
        if name.startswith("layers.0."):
            renamed = name.replace("layers.0.", f"model.layers.{LAYERS}.").replace(".mtp_block.", ".")
            tensors[renamed.replace(".post_norm.", ".shared_head.norm.")] = tensor
    tensors[f"model.layers.{LAYERS}.embed_tokens.weight"] = main.model.embed_tokens.weight
    tensors[f"model.layers.{LAYERS}.shared_head.head.weight"] = main.lm_head.weight
    found: dict[str, tuple[int, ...]] = {}
    for name, tensor in tensors.items():
        shape = tuple(tensor.shape)
        if name.endswith("inv_freq"):
            continue
        if name.endswith("experts.gate_up_proj"):
            assert shape[:2] == (EXPERTS, 2 * WIDTH)
            for part in ("gate_proj", "up_proj"):
                for expert in range(EXPERTS):
                    found[name.replace("gate_up_proj", f"{expert}.{part}.weight")] = (WIDTH, shape[2])
        elif name.endswith("experts.down_proj"):
            assert shape[0] == EXPERTS
            for expert in range(EXPERTS):
                found[name.replace("down_proj", f"{expert}.down_proj.weight")] = shape[1:]
        else:
            found[name] = shape
    return found


if __name__ == "__main__":
    tensors = declared()
    models = {f"deepseek-ai/DeepSeek-V3{kind}": tensors for kind in ("", "-Base")}
    published.write(HERE / "shapes.json", models)
