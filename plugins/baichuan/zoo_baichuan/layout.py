"""Baichuan's parameter table: the shape, the split and the Hugging Face name of every parameter."""

from __future__ import annotations

from zoo_baichuan.config import BaichuanConfig
from zoo_core.layout import Part, Rule, Vocab
from zoo_core.tables import column_rows, head_row, norm_row, packed_rows, row_rows

__all__ = ["rules"]


def rules(config: BaichuanConfig) -> tuple[Rule, ...]:
    """Return the table, in the order of the model; `*` stands for the layer number."""
    hidden, ffn, heads = config.hidden_size, config.intermediate_size, config.num_attention_heads
    block, embedding, vocab = "baichuan.layers.*.", "baichuan.embed_tokens.weight", (config.vocab_size, hidden)
    w_pack = tuple(Part(part, hidden, heads) for part in "qkv")
    gate_up = (Part(block + "mlp.gate_proj", ffn, ffn), Part(block + "mlp.up_proj", ffn, ffn))
    fused_gate_up = block + "mlp.gate_up_fused_proj" if config.fuse_attention_ffn else ""
    return (
        Vocab(embedding, vocab, _hf(embedding)),
        norm_row(block + "input_layernorm", hidden, _hf),
        *packed_rows(block + "self_attn.W_pack", w_pack, hidden, _hf, bias=False),
        *row_rows(block + "self_attn.o_proj", (hidden, hidden), heads, _hf, bias=False),
        norm_row(block + "post_attention_layernorm", hidden, _hf),
        *column_rows(gate_up, hidden, _hf, bias=False, fused=fused_gate_up),
        *row_rows(block + "mlp.down_proj", (ffn, hidden), ffn, _hf, bias=False),
        norm_row("baichuan.norm", hidden, _hf),
        head_row("lm_head.weight", vocab, _hf, embedding if config.tie_word_embeddings else ""),
    )


def _hf(name: str) -> str:
    return name.replace("baichuan.", "model.", 1)
