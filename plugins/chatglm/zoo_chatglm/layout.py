"""ChatGLM's parameter tables: the shape, the split and the Hugging Face name of every parameter."""

from __future__ import annotations

from zoo_chatglm.config import ChatGLMConfig
from zoo_core.layout import Part, Rule, Vocab
from zoo_core.tables import column_rows, head_row, layer_norm_rows, norm_row, packed_rows, row_rows

__all__ = ["rules"]


def rules(config: ChatGLMConfig) -> tuple[Rule, ...]:
    """Return the table, in the order of the model; `*` stands for the layer number."""
    return _v1(config) if config.is_v1 else _v2(config)


def _v1(config: ChatGLMConfig) -> tuple[Rule, ...]:
    hidden, ffn, heads = config.hidden_size, config.intermediate_size, config.num_attention_heads
    base, block = "chatglm.transformer.", "chatglm.transformer.layers.*."
    embedding, vocab = base + "word_embeddings.weight", (config.vocab_size, hidden)
    # [query | key | value] of one head, then of the next: a rank holds whole heads.
    qkv = Part(block + "attention.query_key_value", 3 * hidden, heads)
    return (
        Vocab(embedding, vocab, _hf(embedding)),
        *layer_norm_rows(block + "input_layernorm", hidden, _hf),
        *column_rows((qkv,), hidden, _hf, bias=True),
        *row_rows(block + "attention.dense", (hidden, hidden), heads, _hf, bias=True),
        *layer_norm_rows(block + "post_attention_layernorm", hidden, _hf),
        *column_rows((Part(block + "mlp.dense_h_to_4h", ffn, ffn),), hidden, _hf, bias=True),
        *row_rows(block + "mlp.dense_4h_to_h", (ffn, hidden), ffn, _hf, bias=True),
        *layer_norm_rows(base + "final_layernorm", hidden, _hf),
        # The published files hold a tied head too.
        Vocab("lm_head.weight", vocab, "lm_head.weight", tied_to=embedding if config.tie_word_embeddings else ""),
    )


def _v2(config: ChatGLMConfig) -> tuple[Rule, ...]:
    hidden, ffn, bias = config.hidden_size, config.intermediate_size, config.add_bias_linear
    heads, groups, head = config.num_attention_heads, config.kv_heads, config.head_size
    base, block = "chatglm_v2.", "chatglm_v2.encoder.layers.*."
    embedding, vocab = base + "embedding.word_embeddings.weight", (config.vocab_size, hidden)
    attention, mlp = block + "self_attention.", block + "mlp."
    qkv = (
        Part("q", heads * head, heads),
        # Fewer groups than ranks: several ranks hold the same key and value.
        Part("k", groups * head, groups, on_indivisible="replicate"),
        Part("v", groups * head, groups, on_indivisible="replicate"),
    )
    gate_up = (Part("gate", ffn, ffn), Part("up", ffn, ffn))
    return (
        Vocab(embedding, vocab, _hf(embedding)),
        norm_row(block + "input_layernorm", hidden, _hf),
        *packed_rows(attention + "query_key_value", qkv, hidden, _hf, bias=bias or config.add_qkv_bias),
        *row_rows(attention + "dense", (heads * head, hidden), heads, _hf, bias=bias),
        norm_row(block + "post_attention_layernorm", hidden, _hf),
        *packed_rows(mlp + "dense_h_to_4h", gate_up, hidden, _hf, bias=bias),
        *row_rows(mlp + "dense_4h_to_h", (ffn, hidden), ffn, _hf, bias=bias),
        norm_row(base + "encoder.final_layernorm", hidden, _hf),
        head_row(base + "output_layer.weight", vocab, _hf, embedding if config.tie_word_embeddings else ""),
    )


def _hf(name: str) -> str:
    if name.startswith("chatglm_v2."):
        return name.replace("chatglm_v2.", "transformer.", 1)
    return name.removeprefix("chatglm.")
