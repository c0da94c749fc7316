"""Llama's parameter table: the shape, the split and the Hugging Face name of every parameter."""

from __future__ import annotations

from zoo_core.layout import Part, Rule, Vocab
from zoo_core.tables import column_rows, head_row, norm_row, row_rows
from zoo_llama.config import LlamaConfig

__all__ = ["rules"]


def rules(config: LlamaConfig) -> tuple[Rule, ...]:
    """Return the table, in the order of the model; `*` stands for the layer number."""
    hidden, ffn = config.hidden_size, config.intermediate_size
    heads, kv_heads, head = config.num_attention_heads, config.kv_heads, config.head_size
    block, embedding, vocab = "llama.layers.*.", "llama.embed_tokens.weight", (config.vocab_size, hidden)
    qkv = (
        Part(block + "self_attn.q_proj", heads * head, heads),
        # Fewer key/value heads than ranks: several ranks hold the same one.
        Part(block + "self_attn.k_proj", kv_heads * head, kv_heads, on_indivisible="replicate"),
        Part(block + "self_attn.v_proj", kv_heads * head, kv_heads, on_indivisible="replicate"),
    )
    gate_up = (Part(block + "mlp.gate_proj", ffn, ffn), Part(block + "mlp.up_proj", ffn, ffn))
    fused_qkv = block + "self_attn.qkv_proj" if config.fuse_attention_qkv else ""
    fused_gate_up = block + "mlp.gate_up_fused_proj" if config.fuse_attention_ffn else ""
    return (
        Vocab(embedding, vocab, _hf(embedding)),
        norm_row(block + "input_layernorm", hidden, _hf),
        *column_rows(qkv, hidden, _hf, bias=config.attention_bias, fused=fused_qkv),
        *row_rows(block + "self_attn.o_proj", (heads * head, hidden), heads, _hf, bias=config.attention_bias),
        norm_row(block + "post_attention_layernorm", hidden, _hf),
        *column_rows(gate_up, hidden, _hf, bias=config.mlp_bias, fused=fused_gate_up),
        *row_rows(block + "mlp.down_proj", (ffn, hidden), ffn, _hf, bias=config.mlp_bias),
        norm_row("llama.norm", hidden, _hf),
        head_row("lm_head.weight", vocab, _hf, embedding if config.tie_word_embeddings else ""),
    )


def _hf(name: str) -> str:
    return name.replace("llama.", "model.", 1)
