"""GLM's parameter tables: the shape, the split and the Hugging Face name of every parameter."""

from __future__ import annotations

import math
from dataclasses import replace

from zoo_core.layout import Init, Part, Row, Rule, Vocab
from zoo_core.tables import column_rows, head_row, layer_norm_rows, packed_rows, row_rows, whole_row
from zoo_glm.config import GLMConfig

__all__ = ["rules"]

_BLOCK = "glm.transformer.layers.*."


def rules(config: GLMConfig) -> tuple[Rule, ...]:
    """Return the table, in the order of the model; `*` stands for the layer number."""
    hidden, ffn, heads = config.hidden_size, config.intermediate_size, config.num_attention_heads
    embedding, large = "glm.word_embeddings.weight", config.is_130b
    # GLM-130B's files are those of its training framework, which keeps the embedding inside the transformer.
    embedding_hf = "transformer.word_embeddings.weight" if large else _hf(embedding)
    qkv_name, mlp_name = _BLOCK + "attention.query_key_value", _BLOCK + "mlp.dense_h_to_4h"
    if large:
        # Head after head, each its query, key and value; and of GeGLU, what is gated before its gate.
        qkv = column_rows((Part(qkv_name, 3 * hidden, heads),), hidden, _hf, bias=True)
        mlp = packed_rows(mlp_name, [Part(part, ffn, ffn) for part in ("up", "gate")], hidden, _hf, bias=True)
    else:
        # All queries, then all keys, then all values.
        qkv = packed_rows(qkv_name, [Part(part, hidden, heads) for part in "qkv"], hidden, _hf, bias=True)
        mlp = column_rows((Part(mlp_name, ffn, ffn),), hidden, _hf, bias=True)
    return (
        Vocab(embedding, (config.vocab_size, hidden), embedding_hf),
        *(() if large else _positions(config)),
        *layer_norm_rows(_BLOCK + "input_layernorm", hidden, _hf),
        *qkv,
        *_output(_BLOCK + "attention.dense", (hidden, hidden), heads, config),
        *layer_norm_rows(_BLOCK + "post_attention_layernorm", hidden, _hf),
        *mlp,
        *_output(_BLOCK + "mlp.dense_4h_to_h", (ffn, hidden), ffn, config),
        *layer_norm_rows("glm.transformer.final_layernorm", hidden, _hf),
        head_row("lm_head.weight", (config.vocab_size, hidden), _hf, embedding),
    )


def _hf(name: str) -> str:
    return name.removeprefix("glm.")


def _positions(config: GLMConfig) -> tuple[Rule, ...]:
    shape = (config.max_position_embeddings + 1, config.hidden_size)
    names = [f"glm.transformer.{kind}_embeddings.weight" for kind in ("position", "block_position")]
    return tuple(whole_row(name, shape, _hf) for name in names)


def _output(name: str, shape: tuple[int, int], units: int, config: GLMConfig) -> tuple[Rule, ...]:
    """A layer that writes to the residual."""
    rows = row_rows(name, shape, units, _hf, bias=True)
    if not config.use_scaled_init_for_output_weights:
        return rows
    smaller = Init("normal", config.initializer_range / math.sqrt(2 * config.num_hidden_layers))
    return tuple(replace(row, init=smaller) if isinstance(row, Row) else row for row in rows)
