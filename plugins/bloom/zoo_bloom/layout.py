"""Bloom's parameter table: the shape, the split and the Hugging Face name of every parameter."""

from __future__ import annotations

from zoo_bloom.config import BloomConfig
from zoo_core.layout import Part, Replicate, Rule, Vocab
from zoo_core.tables import column_rows, norm_row, row_rows

__all__ = ["rules"]


def rules(config: BloomConfig) -> tuple[Rule, ...]:
    """Return the table, in the order of the model; `*` stands for the layer number.

    The output of `query_key_value` is [head, q k v, width of a head], so a run of whole heads is a share of all three.
    """
    hidden, ffn, heads = config.hidden_size, config.intermediate_size, config.num_attention_heads
    vocab, tied = (config.vocab_size, hidden), config.tie_word_embeddings
    block, embedding = "bloom.h.*.", "bloom.word_embeddings.weight"
    qkv = (Part(block + "self_attention.query_key_value", 3 * hidden, heads),)
    up = (Part(block + "mlp.dense_h_to_4h", ffn, ffn),)
    return (
        Vocab(embedding, vocab, _hf(embedding)),
        *_norm_rows("bloom.word_embeddings_layernorm", hidden),
        *_norm_rows(block + "input_layernorm", hidden),
        *column_rows(qkv, hidden, _hf, bias=True),
        *row_rows(block + "self_attention.dense", (hidden, hidden), heads, _hf, bias=True),
        *_norm_rows(block + "post_attention_layernorm", hidden),
        *column_rows(up, hidden, _hf, bias=True),
        *row_rows(block + "mlp.dense_4h_to_h", (ffn, hidden), ffn, _hf, bias=True),
        *_norm_rows("bloom.ln_f", hidden),
        Vocab("lm_head.weight", vocab, "" if tied else "lm_head.weight", tied_to=embedding if tied else ""),
    )


def _norm_rows(name: str, width: int) -> tuple[Rule, Rule]:
    bias = f"{name}.bias"
    return norm_row(name, width, _hf), Replicate(bias, (width,), _hf(bias), sequence_parallel_grad=True)


def _hf(name: str) -> str:
    return name.replace("bloom.", "transformer.", 1)
