"""Bloom's parameter table: the shape, the split and the Hugging Face name of every parameter."""

from __future__ import annotations

from zoo_bloom.config import BloomConfig
from zoo_core.layout import Part, Rule, Vocab
from zoo_core.tables import column_rows, head_row, layer_norm_rows, row_rows

__all__ = ["rules"]


def rules(config: BloomConfig) -> tuple[Rule, ...]:
    """Return the table, in the order of the model; `*` stands for the layer number.

    The output of `query_key_value` is [head, q k v, width of a head], so a run of whole heads is a share of all three.
    """
    hidden, ffn, heads = config.hidden_size, config.intermediate_size, config.num_attention_heads
    block, embedding, vocab = "bloom.h.*.", "bloom.word_embeddings.weight", (config.vocab_size, hidden)
    qkv = (Part(block + "self_attention.query_key_value", 3 * hidden, heads),)
    up = (Part(block + "mlp.dense_h_to_4h", ffn, ffn),)
    return (
        Vocab(embedding, vocab, _hf(embedding)),
        *layer_norm_rows("bloom.word_embeddings_layernorm", hidden, _hf),
        *layer_norm_rows(block + "input_layernorm", hidden, _hf),
        *column_rows(qkv, hidden, _hf, bias=True),
        *row_rows(block + "self_attention.dense", (hidden, hidden), heads, _hf, bias=True),
        *layer_norm_rows(block + "post_attention_layernorm", hidden, _hf),
        *column_rows(up, hidden, _hf, bias=True),
        *row_rows(block + "mlp.dense_4h_to_h", (ffn, hidden), ffn, _hf, bias=True),
        *layer_norm_rows("bloom.ln_f", hidden, _hf),
        head_row("lm_head.weight", vocab, _hf, embedding if config.tie_word_embeddings else ""),
    )


def _hf(name: str) -> str:
    return name.replace("bloom.", "transformer.", 1)
