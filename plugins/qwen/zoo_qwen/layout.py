"""Qwen's parameter tables: the shape, the split and the Hugging Face name of every parameter."""

from __future__ import annotations

from zoo_core.layout import Part, Replicate, Rule, Vocab
from zoo_core.tables import column_rows, head_row, norm_row, packed_rows, row_rows
from zoo_qwen.config import QwenConfig

__all__ = ["rules"]


def rules(config: QwenConfig) -> tuple[Rule, ...]:
    """Return the table, in the order of the model; `*` stands for the layer number."""
    return _v1(config) if config.is_v1 else _v2(config)


def _v1(config: QwenConfig) -> tuple[Rule, ...]:
    hidden, vocab, ffn, heads = config.hidden_size, config.vocab_size, config.mlp_width, config.num_attention_heads
    block, embedding, bias = "qwen.h.*.", "qwen.wte.weight", config.other_bias
    c_attn = tuple(Part(part, hidden, heads) for part in "qkv")
    # w2 is the gate. Where they are fused it comes first, as every gate does.
    gate_up = (Part(block + "mlp.w2", ffn, ffn), Part(block + "mlp.w1", ffn, ffn))
    fused_gate_up = block + "mlp.gate_up_fused_proj" if config.fuse_attention_ffn else ""
    return (
        Vocab(embedding, (vocab, hidden), _hf(embedding)),
        norm_row(block + "ln_1", hidden, _hf),
        *packed_rows(block + "attn.c_attn", c_attn, hidden, _hf, bias=True),
        *row_rows(block + "attn.c_proj", (hidden, hidden), heads, _hf, bias=bias),
        norm_row(block + "ln_2", hidden, _hf),
        *column_rows(gate_up, hidden, _hf, bias=bias, fused=fused_gate_up),
        *row_rows(block + "mlp.c_proj", (ffn, hidden), ffn, _hf, bias=bias),
        norm_row("qwen.ln_f", hidden, _hf),
        _head(config, embedding),
    )


def _v2(config: QwenConfig) -> tuple[Rule, ...]:
    hidden, ffn, base = config.hidden_size, config.mlp_width, config.model_type
    heads, kv_heads, head = config.num_attention_heads, config.kv_heads, config.head_size
    block, embedding = base + ".layers.*.", base + ".embed_tokens.weight"
    qkv = (
        Part(block + "self_attn.q_proj", heads * head, heads),
        # Fewer key/value heads than ranks: several ranks hold the same one.
        Part(block + "self_attn.k_proj", kv_heads * head, kv_heads, on_indivisible="replicate"),
        Part(block + "self_attn.v_proj", kv_heads * head, kv_heads, on_indivisible="replicate"),
    )
    gate_up = (Part(block + "mlp.gate_proj", ffn, ffn), Part(block + "mlp.up_proj", ffn, ffn))
    fused_qkv = block + "self_attn.qkv_proj" if config.fuse_attention_qkv else ""
    fused_gate_up = block + "mlp.gate_up_fused_proj" if config.fuse_attention_ffn else ""
    head_norms = [block + f"self_attn.{part}_norm.weight" for part in "qk"] if base == "qwen3" else []
    return (
        Vocab(embedding, (config.vocab_size, hidden), _hf(embedding)),
        norm_row(block + "input_layernorm", hidden, _hf),
        *column_rows(qkv, hidden, _hf, bias=config.qkv_bias, fused=fused_qkv),
        *(Replicate(name, (head,), _hf(name), partial_grad=True) for name in head_norms),
        *row_rows(block + "self_attn.o_proj", (heads * head, hidden), heads, _hf, bias=config.other_bias),
        norm_row(block + "post_attention_layernorm", hidden, _hf),
        *column_rows(gate_up, hidden, _hf, bias=False, fused=fused_gate_up),
        *row_rows(block + "mlp.down_proj", (ffn, hidden), ffn, _hf, bias=False),
        norm_row(base + ".norm", hidden, _hf),
        _head(config, embedding),
    )


def _hf(name: str) -> str:
    base, rest = name.split(".", 1)
    return f"transformer.{rest}" if base == "qwen" else f"model.{rest}"


def _head(config: QwenConfig, embedding: str) -> Rule:
    shape = (config.vocab_size, config.hidden_size)
    return head_row("lm_head.weight", shape, str, embedding if config.tie_word_embeddings else "")
