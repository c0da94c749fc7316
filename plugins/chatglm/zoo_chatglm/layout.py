"""ChatGLM's parameter tables: the shape, the split and the Hugging Face name of every parameter."""

from __future__ import annotations

from dataclasses import replace

from zoo_chatglm.config import ChatGLMConfig
from zoo_core.layout import FusedColumn, Part, Replicate, Rule, Vocab
from zoo_core.tables import column_rows, norm_row, row_rows

__all__ = ["rules"]


def rules(config: ChatGLMConfig) -> tuple[Rule, ...]:
    """Return the table, in the order of the model; `*` stands for the layer number."""
    return _v1(config) if config.is_v1 else _v2(config)


def _v1(config: ChatGLMConfig) -> tuple[Rule, ...]:
    hidden, ffn, heads = config.hidden_size, config.intermediate_size, config.num_attention_heads
    base, block = "chatglm.transformer.", "chatglm.transformer.layers.*."
    embedding = base + "word_embeddings.weight"
    # [query | key | value] of one head, then of the next: a rank holds whole heads.
    qkv = Part(block + "attention.query_key_value", 3 * hidden, heads)
    return (
        Vocab(embedding, (config.vocab_size, hidden), _hf(embedding)),
        *_layer_norm(block + "input_layernorm", hidden),
        *column_rows((qkv,), hidden, _hf, bias=True),
        *row_rows(block + "attention.dense", (hidden, hidden), heads, _hf, bias=True),
        *_layer_norm(block + "post_attention_layernorm", hidden),
        *column_rows((Part(block + "mlp.dense_h_to_4h", ffn, ffn),), hidden, _hf, bias=True),
        *row_rows(block + "mlp.dense_4h_to_h", (ffn, hidden), ffn, _hf, bias=True),
        *_layer_norm(base + "final_layernorm", hidden),
        _head(config, "lm_head.weight", embedding),
    )


def _v2(config: ChatGLMConfig) -> tuple[Rule, ...]:
    hidden, ffn, bias = config.hidden_size, config.intermediate_size, config.add_bias_linear
    heads, groups, head = config.num_attention_heads, config.kv_heads, config.head_size
    base, block = "chatglm_v2.", "chatglm_v2.encoder.layers.*."
    embedding = base + "embedding.word_embeddings.weight"
    attention, mlp = block + "self_attention.", block + "mlp."
    qkv = (
        Part("[q]", heads * head, heads),
        # Fewer groups than ranks: several ranks hold the same key and value.
        Part("[k]", groups * head, groups, on_indivisible="replicate"),
        Part("[v]", groups * head, groups, on_indivisible="replicate"),
    )
    gate_up = (Part("[gate]", ffn, ffn), Part("[up]", ffn, ffn))
    return (
        Vocab(embedding, (config.vocab_size, hidden), _hf(embedding)),
        norm_row(block + "input_layernorm", hidden, _hf),
        *_fused(attention + "query_key_value", hidden, qkv, bias or config.add_qkv_bias),
        *row_rows(attention + "dense", (heads * head, hidden), heads, _hf, bias=bias),
        norm_row(block + "post_attention_layernorm", hidden, _hf),
        *_fused(mlp + "dense_h_to_4h", hidden, gate_up, bias),
        *row_rows(mlp + "dense_4h_to_h", (ffn, hidden), ffn, _hf, bias=bias),
        norm_row(base + "encoder.final_layernorm", hidden, _hf),
        _head(config, base + "output_layer.weight", embedding),
    )


def _hf(name: str) -> str:
    if name.startswith("chatglm_v2."):
        return name.replace("chatglm_v2.", "transformer.", 1)
    return name.removeprefix("chatglm.")


def _layer_norm(name: str, width: int) -> tuple[Rule, ...]:
    bias = f"{name}.bias"
    return norm_row(name, width, _hf), Replicate(bias, (width,), _hf(bias), sequence_parallel_grad=True)


def _fused(name: str, width_in: int, parts: tuple[Part, ...], bias: bool) -> tuple[Rule, ...]:
    """A Linear layer of several parts side by side, which the published files hold as one tensor too."""
    found = []
    for kind, shape in [("weight", (width_in,)), ("bias", ())][: 2 if bias else 1]:
        full = f"{name}.{kind}"
        named = tuple(replace(part, name=full + part.name) for part in parts)
        found.append(FusedColumn(full, (*shape, sum(part.width for part in parts)), _hf(full), parts=named))
    return tuple(found)


def _head(config: ChatGLMConfig, name: str, embedding: str) -> Rule:
    shape, tied = (config.vocab_size, config.hidden_size), config.tie_word_embeddings
    return Vocab(name, shape, "" if tied else _hf(name), tied_to=embedding if tied else "")
