"""Baichuan's parameter table: the shape, the split and the Hugging Face name of every parameter."""

from __future__ import annotations

from zoo_baichuan.config import BaichuanConfig
from zoo_core.layout import FusedColumn, Part, Rule, Vocab
from zoo_core.tables import column_rows, norm_row, row_rows

__all__ = ["rules"]


def rules(config: BaichuanConfig) -> tuple[Rule, ...]:
    """Return the table, in the order of the model; `*` stands for the layer number."""
    hidden, ffn, vocab, heads = (
        config.hidden_size,
        config.intermediate_size,
        config.vocab_size,
        config.num_attention_heads,
    )
    block, embedding, tied = "baichuan.layers.*.", "baichuan.embed_tokens.weight", config.tie_word_embeddings
    w_pack = block + "self_attn.W_pack.weight"
    gate_up = (Part(block + "mlp.gate_proj", ffn, ffn), Part(block + "mlp.up_proj", ffn, ffn))
    fused_gate_up = block + "mlp.gate_up_fused_proj" if config.fuse_attention_ffn else ""
    return (
        Vocab(embedding, (vocab, hidden), _hf(embedding)),
        norm_row(block + "input_layernorm", hidden, _hf),
        FusedColumn(
            w_pack,
            (hidden, 3 * hidden),
            _hf(w_pack),
            parts=tuple(Part(f"{w_pack}[{part}]", hidden, heads) for part in "qkv"),
        ),
        *row_rows(block + "self_attn.o_proj", (hidden, hidden), heads, _hf, bias=False),
        norm_row(block + "post_attention_layernorm", hidden, _hf),
        *column_rows(gate_up, hidden, _hf, bias=False, fused=fused_gate_up),
        *row_rows(block + "mlp.down_proj", (ffn, hidden), ffn, _hf, bias=False),
        norm_row("baichuan.norm", hidden, _hf),
        Vocab("lm_head.weight", (vocab, hidden), "" if tied else "lm_head.weight", tied_to=embedding if tied else ""),
    )


def _hf(name: str) -> str:
    return name.replace("baichuan.", "model.", 1)
