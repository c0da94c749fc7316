"""GLM's parameter tables: the shape, the split and the Hugging Face name of every parameter."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from zoo_core.layout import Column, FusedColumn, Init, Part, Replicate, Row, Rule, Vocab
from zoo_core.tables import row_rows
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
    # GLM-130B has head after head, each its query, key and value; GLM-10B all queries, then all keys, then all values.
    qkv = _column(qkv_name, hidden, 3 * hidden, heads) if large else _column(qkv_name, hidden, hidden, heads, "qkv")
    # GeGLU: what is gated first, its gate second.
    mlp = _column(mlp_name, hidden, ffn, ffn, ("up", "gate") if large else ())
    return (
        Vocab(embedding, (config.vocab_size, hidden), embedding_hf),
        *(() if large else _positions(config)),
        *_norm(_BLOCK + "input_layernorm", hidden),
        *qkv,
        *_output(_BLOCK + "attention.dense", (hidden, hidden), heads, config),
        *_norm(_BLOCK + "post_attention_layernorm", hidden),
        *mlp,
        *_output(_BLOCK + "mlp.dense_4h_to_h", (ffn, hidden), ffn, config),
        *_norm("glm.transformer.final_layernorm", hidden),
        Vocab("lm_head.weight", (config.vocab_size, hidden), tied_to=embedding),
    )


def _hf(name: str) -> str:
    return name.removeprefix("glm.")


def _positions(config: GLMConfig) -> tuple[Rule, ...]:
    shape = (config.max_position_embeddings + 1, config.hidden_size)
    names = [f"glm.transformer.{kind}_embeddings.weight" for kind in ("position", "block_position")]
    return tuple(Replicate(name, shape, _hf(name), sequence_parallel_grad=True) for name in names)


def _norm(name: str, width: int) -> tuple[Rule, ...]:
    names = (f"{name}.weight", f"{name}.bias")
    return tuple(Replicate(each, (width,), _hf(each), sequence_parallel_grad=True) for each in names)


def _column(name: str, width_in: int, width: int, units: int, parts: Sequence[str] = ()) -> tuple[Rule, ...]:
    """The weight and the bias of a layer; with `parts`, of as many layers of `width`, side by side."""
    found: list[Rule] = []
    for full, first in ((f"{name}.weight", (width_in,)), (f"{name}.bias", ())):
        if parts:
            split = tuple(Part(f"{full}[{part}]", width, units) for part in parts)
            found.append(FusedColumn(full, (*first, width * len(parts)), _hf(full), parts=split))
        else:
            found.append(Column(full, (*first, width), _hf(full), units=units))
    return tuple(found)


def _output(name: str, shape: tuple[int, int], units: int, config: GLMConfig) -> tuple[Rule, ...]:
    """A layer that writes to the residual."""
    rows = row_rows(name, shape, units, _hf, bias=True)
    if not config.use_scaled_init_for_output_weights:
        return rows
    smaller = Init("normal", config.initializer_range / math.sqrt(2 * config.num_hidden_layers))
    return tuple(replace(row, init=smaller) if isinstance(row, Row) else row for row in rows)
