"""OPT's parameter table: the shape, the split and the Hugging Face name of every parameter."""

from __future__ import annotations

from zoo_core.layout import Part, Rule, Vocab
from zoo_core.tables import column_rows, head_row, layer_norm_rows, row_rows, whole_linear, whole_row
from zoo_opt.config import POSITION_OFFSET, OptConfig

__all__ = ["rules"]


def rules(config: OptConfig) -> tuple[Rule, ...]:
    """Return the table, in the order of the model; `*` stands for the layer number."""
    hidden, ffn, heads = config.hidden_size, config.intermediate_size, config.num_attention_heads
    block, embedding = "opt.decoder.layers.*.", "opt.embeddings.word_embeddings.weight"
    words, bias = (config.vocab_size, config.embedding_size), config.enable_bias
    positions = config.max_position_embeddings + POSITION_OFFSET
    qkv = tuple(Part(f"{block}self_attn.{part}_proj", hidden, heads) for part in "qkv")
    fused_qkv = block + "self_attn.qkv_proj" if config.fuse_attention_qkv else ""
    return (
        Vocab(embedding, words, _hf(embedding)),
        *_projection("opt.embeddings.project_in", (config.embedding_size, hidden)),
        # Read, like the norms, where each rank has its part of the sequence.
        whole_row("opt.embeddings.position_embeddings.weight", (positions, hidden), _hf),
        *_norm(config, block + "norm1"),
        *column_rows(qkv, hidden, _hf, bias=bias, fused=fused_qkv),
        *row_rows(block + "self_attn.out_proj", (hidden, hidden), heads, _hf, bias=bias),
        *_norm(config, block + "norm2"),
        *column_rows((Part(block + "linear1", ffn, ffn),), hidden, _hf, bias=bias),
        *row_rows(block + "linear2", (ffn, hidden), ffn, _hf, bias=bias),
        *(_norm(config, "opt.decoder.final_layer_norm") if config.has_final_norm else ()),
        *_projection("opt.decoder.project_out", (hidden, config.embedding_size)),
        head_row("lm_head.weight", words, _hf, embedding if config.tie_word_embeddings else ""),
    )


def _norm(config: OptConfig, name: str) -> tuple[Rule, ...]:
    return layer_norm_rows(name, config.hidden_size, _hf) if config.layer_norm_elementwise_affine else ()


def _projection(name: str, shape: tuple[int, int]) -> tuple[Rule, ...]:
    """Between the embeddings' width and the hidden one, where they differ."""
    return (whole_linear(name, shape, _hf),) if shape[0] != shape[1] else ()


_PUBLISHED = (
    ("opt.embeddings.word_embeddings.", "opt.decoder.embed_tokens."),
    ("opt.embeddings.position_embeddings.", "opt.decoder.embed_positions."),
    ("opt.embeddings.project_in.", "opt.decoder.project_in."),
    (".norm1.", ".self_attn_layer_norm."),
    (".norm2.", ".final_layer_norm."),
    (".linear1.", ".fc1."),
    (".linear2.", ".fc2."),
    ("opt.decoder.", "model.decoder."),
)


def _hf(name: str) -> str:
    for ours, theirs in _PUBLISHED:
        name = name.replace(ours, theirs, 1)
    return name
