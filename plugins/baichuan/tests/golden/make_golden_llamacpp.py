"""Make the `llamacpp_*` folders beside this file: logits of full-depth Baichuans, evaluated by llama.cpp.

Python 3.11, llama-cpp-python==0.3.36 (`CMAKE_ARGS="-DLLAMA_CURL=OFF -DLLAVA_BUILD=OFF -DMTMD_BUILD=OFF"`),
gguf==0.19.0, torch==2.13.0 (CPU), transformers==5.23.0, safetensors==0.8.0, numpy==2.3.5.
Run it as `python make_golden_llamacpp.py`; it writes the same bytes every time.

llama.cpp takes a Baichuan of 32 layers for the 7B model (rope) and one of 40 for the 13B (ALiBi). It has no normalised
head: a Baichuan2 is given to it with the normalised weight in the file.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gguf
import llama_cpp
import numpy as np
import torch
from safetensors.numpy import save_file

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[3] / "tools"))

import golden  # noqa: E402
from plain_baichuan import plain, shapes  # noqa: E402

COMMON: dict[str, Any] = {
    "architectures": ["BaichuanForCausalLM"],
    "hidden_act": "silu",
    "intermediate_size": 12,
    "model_type": "baichuan",
    "rms_norm_eps": 1e-06,
    "tie_word_embeddings": False,
    "torch_dtype": "float16",
    "vocab_size": 67,
}
CASES: dict[str, dict[str, Any]] = {
    "llamacpp_7b": {
        "hidden_size": 12,
        "max_position_embeddings": 64,
        "num_attention_heads": 3,
        "num_hidden_layers": 32,
    },
    "llamacpp_13b": {
        "hidden_size": 10,
        "model_max_length": 64,
        "num_attention_heads": 5,
        "num_hidden_layers": 40,
    },
}
LENGTH = 24
# llama.cpp computes in float32, through 32 or 40 layers.
NEAR = 5e-6


def to_pairs(weight: np.ndarray, heads: int) -> np.ndarray:
    """Reorder the rows of a query or key weight: llama.cpp rotates neighbours, the published code halves of a head."""
    rows, width = weight.shape
    return weight.reshape(heads, 2, rows // heads // 2, width).swapaxes(1, 2).reshape(rows, width)


def write_gguf(file: Path, config: Mapping[str, Any], weights: Mapping[str, np.ndarray]) -> None:
    heads, width = config["num_attention_heads"], config["hidden_size"]
    writer = gguf.GGUFWriter(file, "baichuan")
    writer.add_context_length(256)
    writer.add_embedding_length(width)
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_rope_dimension_count(width // heads)
    writer.add_head_count(heads)
    writer.add_head_count_kv(heads)
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_vocab_size(config["vocab_size"])
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    writer.add_tokenizer_model("no_vocab")
    names = {
        "self_attn.o_proj": "attn_output",
        "mlp.gate_proj": "ffn_gate",
        "mlp.up_proj": "ffn_up",
        "mlp.down_proj": "ffn_down",
        "input_layernorm": "attn_norm",
        "post_attention_layernorm": "ffn_norm",
    }
    whole = {"model.embed_tokens.weight": "token_embd", "model.norm.weight": "output_norm", "lm_head.weight": "output"}
    for name, weight in weights.items():
        if name in whole:
            writer.add_tensor(whole[name] + ".weight", weight)
            continue
        _, _, layer, rest = name.removesuffix(".weight").split(".", 3)
        if rest == "self_attn.W_pack":
            q, k, v = np.split(weight, 3)
            for part, piece in (("q", to_pairs(q, heads)), ("k", to_pairs(k, heads)), ("v", v)):
                writer.add_tensor(f"blk.{layer}.attn_{part}.weight", np.ascontiguousarray(piece))
        else:
            writer.add_tensor(f"blk.{layer}.{names[rest]}.weight", weight)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def by_llamacpp(config: Mapping[str, Any], weights: Mapping[str, np.ndarray], ids: np.ndarray) -> np.ndarray:
    """Logits float32 [B, S, V], each sequence by itself."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model.gguf"
        write_gguf(file, config, weights)
        options: dict[str, Any] = {"n_ctx": 256, "logits_all": True, "type_k": 0, "type_v": 0, "n_threads": 1}
        model = llama_cpp.Llama(str(file), verbose=False, n_threads_batch=1, **options)
        logits = []
        for row in ids:
            model.reset()
            model.eval(row.tolist())
            logits.append(np.array(model.scores[: len(row)], np.float32))
        model.close()
    return np.stack(logits)


def make(name: str, seed: int) -> None:
    config, folder = {**COMMON, **CASES[name]}, HERE / name
    weights = golden.random_weights(shapes(config), seed)
    for key in weights:
        # Kept in float16, as published, to keep the folder small; a deep stack of layers stays lively at this scale.
        weights[key] = (weights[key] * np.float32(1.6 if "W_pack" in key else 1.0)).astype(np.float16)
    golden.write_model_folder(folder, config, weights)
    exact = {key: value.astype(np.float32) for key, value in weights.items()}
    ids = golden.random_ids(config["vocab_size"], 2, LENGTH, seed)
    tensors = {key: torch.from_numpy(value).double() for key, value in exact.items()}
    unit = torch.nn.functional.normalize(tensors["lm_head.weight"], dim=-1).float().numpy()
    alibi = "model_max_length" in config
    found = {"input_ids": ids}
    for kind, normalised in (("logits", False), ("logits_normalised_head", True)):
        given = {**exact, "lm_head.weight": unit} if normalised else exact
        found[kind] = by_llamacpp(config, given, ids)
        run = torch.from_numpy(ids)
        wanted = plain(config, tensors, run, normalised, alibi=alibi).numpy()
        other = plain(config, tensors, run, normalised, alibi=not alibi).numpy()
        far = np.abs(found[kind] - wanted).max()
        print(
            f"{name} {kind}: llama.cpp against the plain reference in float64 {far:.1e}, max|logit|"
            f" {np.abs(wanted).max():.2f}, with the other positions {np.abs(found[kind] - other).max():.2f}"
        )
        if far > NEAR or np.abs(found[kind] - other).max() < 1e-2:
            raise SystemExit(f"{name}: llama.cpp and the plain reference differ by {far:.1e}")
    save_file(found, folder / "llamacpp.safetensors", metadata={"format": "pt"})
    print(f"{name}: {sum(file.stat().st_size for file in folder.iterdir()) / 1024:.0f} KB")


if __name__ == "__main__":
    for number, case in enumerate(CASES):
        make(case, 6100 + number)
