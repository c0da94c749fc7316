"""Make `llamacpp/logits.safetensors` beside this file: the logits of other folders' models, evaluated by llama.cpp.

Python 3.11, llama-cpp-python==0.3.36 (`CMAKE_ARGS="-DLLAMA_CURL=OFF -DLLAVA_BUILD=OFF -DMTMD_BUILD=OFF"`),
gguf==0.19.0, safetensors==0.8.0, numpy==2.3.5.
Run it as `python make_golden_llamacpp.py` after `make_golden.py`; it writes the same bytes every time.

llama.cpp looks GELU up in a table of float16, so it agrees with float64 to 1e-3 only. It computes the slopes by code of
its own, and holds queries, keys and values side by side instead of head by head.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gguf
import llama_cpp
import numpy as np
from safetensors.numpy import load_file, save_file

HERE = Path(__file__).resolve().parent
CASES = ("four_heads", "six_heads", "five_heads", "twelve_heads", "left_padded")
NEAR = 1e-3

WHOLE = {"word_embeddings": "token_embd", "word_embeddings_layernorm": "token_embd_norm", "ln_f": "output_norm"}
BLOCK = {
    "input_layernorm": "attn_norm",
    "self_attention.query_key_value": "attn_qkv",
    "self_attention.dense": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.dense_h_to_4h": "ffn_up",
    "mlp.dense_4h_to_h": "ffn_down",
}


def write_gguf(file: Path, config: Mapping[str, Any], weights: Mapping[str, np.ndarray]) -> None:
    heads = config.get("n_head") or config["num_attention_heads"]
    hidden = config.get("n_embed") or config["hidden_size"]
    writer = gguf.GGUFWriter(file, "bloom")
    writer.add_context_length(64)
    writer.add_embedding_length(hidden)
    writer.add_feed_forward_length(4 * hidden)
    writer.add_block_count(config["n_layer"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(heads)
    writer.add_layer_norm_eps(config["layer_norm_epsilon"])
    writer.add_vocab_size(config["vocab_size"])
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    writer.add_tokenizer_model("no_vocab")
    for name, weight in weights.items():
        module, kind = name.removeprefix("transformer.").rsplit(".", 1)
        if module in WHOLE:
            writer.add_tensor(f"{WHOLE[module]}.{kind}", weight)
            continue
        _, layer, module = module.split(".", 2)
        if module == "self_attention.query_key_value":
            by_head = weight.reshape(heads, 3, hidden // heads, *weight.shape[1:])
            weight = np.ascontiguousarray(by_head.swapaxes(0, 1)).reshape(weight.shape)
        writer.add_tensor(f"blk.{layer}.{BLOCK[module]}.{kind}", weight)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def evaluate(file: Path, rows: list[np.ndarray]) -> list[np.ndarray]:
    """Logits float32 [S, V] of each sequence, by itself."""
    options: dict[str, Any] = {"n_ctx": 64, "logits_all": True, "type_k": 0, "type_v": 0, "n_threads": 1}
    model = llama_cpp.Llama(str(file), verbose=False, n_threads_batch=1, **options)
    logits = []
    for row in rows:
        model.reset()
        model.eval(row.tolist())
        logits.append(np.array(model.scores[: len(row)], np.float32))
    model.close()
    return logits


def make(name: str) -> np.ndarray:
    """Logits [B, S, V] of a golden folder's input, zero where there is padding."""
    folder = HERE / name
    config = json.loads((folder / "config.json").read_text())
    golden, weights = load_file(folder / "golden.safetensors"), {}
    for file in sorted(folder.glob("model*.safetensors")):
        weights.update(load_file(file))
    ids = golden["input_ids"]
    real = golden.get("attention_mask", np.ones_like(ids)).astype(bool)
    with tempfile.TemporaryDirectory() as place:
        write_gguf(Path(place) / "model.gguf", config, weights)
        rows = evaluate(Path(place) / "model.gguf", [row[kept] for row, kept in zip(ids, real, strict=True)])
    logits = np.zeros_like(golden["logits"])
    for number, row in enumerate(rows):
        logits[number, real[number]] = row
    far = float(np.abs(logits - golden["logits"]).max())
    print(f"{name}: llama.cpp against transformers {far:.1e}")
    if far > NEAR:
        raise SystemExit(f"{name}: llama.cpp and transformers differ by {far:.1e}")
    return logits


if __name__ == "__main__":
    found = {name: make(name) for name in CASES}
    (HERE / "llamacpp").mkdir(exist_ok=True)
    save_file(found, HERE / "llamacpp" / "logits.safetensors")
