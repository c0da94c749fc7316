"""Llama's parameter table: the shape, the split and the Hugging Face name of every parameter."""

from __future__ import annotations

from dataclasses import replace

from zoo_core.layout import Column, FusedColumn, Part, Replicate, Row, Rule, Vocab
from zoo_llama.config import LlamaConfig

__all__ = ["rules"]


def rules(config: LlamaConfig) -> tuple[Rule, ...]:
    """Return the table, in the order of the model; `*` stands for the layer number."""
    hidden, ffn, vocab = config.hidden_size, config.intermediate_size, config.vocab_size
    heads, kv_heads, head = config.num_attention_heads, config.kv_heads, config.head_size
    block, embedding, tied = "llama.layers.*.", "llama.embed_tokens.weight", config.tie_word_embeddings
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
        Vocab(embedding, (vocab, hidden), _hf(embedding)),
        _norm(block + "input_layernorm", hidden),
        *_columns(qkv, hidden, config.attention_bias, fused_qkv),
        *_rows(block + "self_attn.o_proj", (heads * head, hidden), heads, config.attention_bias),
        _norm(block + "post_attention_layernorm", hidden),
        *_columns(gate_up, hidden, config.mlp_bias, fused_gate_up),
        *_rows(block + "mlp.down_proj", (ffn, hidden), ffn, config.mlp_bias),
        _norm("llama.norm", hidden),
        Vocab("lm_head.weight", (vocab, hidden), "" if tied else "lm_head.weight", tied_to=embedding if tied else ""),
    )


def _hf(name: str) -> str:
    return name.replace("llama.", "model.", 1)


def _norm(name: str, width: int) -> Rule:
    name += ".weight"
    return Replicate(name, (width,), _hf(name), sequence_parallel_grad=True)


def _columns(parts: tuple[Part, ...], width_in: int, has_bias: bool, fused: str) -> tuple[Rule, ...]:
    """The projections of one input: a row each, or, given a `fused` name, one row that names them as its parts."""
    found: list[Rule] = []
    for kind, shape in (("weight", (width_in,)), ("bias", ())) if has_bias else (("weight", (width_in,)),):
        named = [replace(part, name=f"{part.name}.{kind}", hf=_hf(f"{part.name}.{kind}")) for part in parts]
        if fused:
            width = sum(part.width for part in parts)
            found.append(FusedColumn(f"{fused}.{kind}", (*shape, width), parts=tuple(named)))
        else:
            found += [
                Column(part.name, (*shape, part.width), part.hf, units=part.units, on_indivisible=part.on_indivisible)
                for part in named
            ]
    return tuple(found)


def _rows(name: str, shape: tuple[int, int], units: int, has_bias: bool) -> tuple[Rule, ...]:
    weight, bias = f"{name}.weight", f"{name}.bias"
    found: list[Rule] = [Row(weight, shape, _hf(weight), units=units)]
    if has_bias:
        found.append(Replicate(bias, shape[1:], _hf(bias), sequence_parallel_grad=True))
    return tuple(found)
