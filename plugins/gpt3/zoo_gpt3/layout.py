"""GPT's parameter table: the shape, the split and the Hugging Face name of every parameter."""

from __future__ import annotations

import math

from zoo_core.layout import Column, FusedColumn, Init, Part, Replicate, Row, Rule, Vocab
from zoo_gpt3.config import GPTConfig

__all__ = ["rules"]

_BLOCK, _HF_BLOCK = "gpt.decoder.layers.*.", "transformer.h.*."
_WORDS, _HF_WORDS = "gpt.embeddings.word_embeddings.weight", "transformer.wte.weight"
_POSITIONS, _HF_POSITIONS = "gpt.embeddings.position_embeddings.weight", "transformer.wpe.weight"


def rules(config: GPTConfig) -> tuple[Rule, ...]:
    """Return the table, in the order of the model; `*` stands for the layer number.

    Hugging Face's GPT-2 stores its projections as we do, [in, out] ("Conv1D"), and q, k and v in one: nothing is
    transposed, and where they are apart each is a run of the published tensor.
    """
    hidden, ffn, vocab = config.hidden_size, config.intermediate_size, config.vocab_size
    heads, tied = config.num_attention_heads, config.tie_word_embeddings
    # What is added to the residual starts smaller by the root of how often that happens (Radford et al. 2019).
    added = Init("normal", config.initializer_range / math.sqrt(2 * config.num_hidden_layers))
    return (
        Vocab(_WORDS, (vocab, hidden), _HF_WORDS),
        # A rank looks up the positions of its part of the sequence only.
        Replicate(_POSITIONS, (config.max_position_embeddings, hidden), _HF_POSITIONS, sequence_parallel_grad=True),
        *_norm(_BLOCK + "norm1", hidden, _HF_BLOCK + "ln_1"),
        *_qkv(config),
        *_row("self_attn.out_proj", (hidden, hidden), heads, "attn.c_proj", added),
        *_norm(_BLOCK + "norm2", hidden, _HF_BLOCK + "ln_2"),
        Column(_BLOCK + "linear1.weight", (hidden, ffn), _HF_BLOCK + "mlp.c_fc.weight", transpose=False),
        Column(_BLOCK + "linear1.bias", (ffn,), _HF_BLOCK + "mlp.c_fc.bias"),
        *_row("linear2", (ffn, hidden), ffn, "mlp.c_proj", added),
        *_norm("gpt.decoder.norm", hidden, "transformer.ln_f"),
        Vocab("lm_head.weight", (vocab, hidden), "" if tied else "lm_head.weight", tied_to=_WORDS if tied else ""),
    )


def _qkv(config: GPTConfig) -> tuple[Rule, ...]:
    hidden, heads = config.hidden_size, config.num_attention_heads
    found: list[Rule] = []
    for kind, shape in (("weight", (hidden,)), ("bias", ())):
        names = [f"{_BLOCK}self_attn.{part}_proj.{kind}" for part in "qkv"]
        hf = f"{_HF_BLOCK}attn.c_attn.{kind}"
        if config.fuse_attention_qkv:
            parts = tuple(Part(name, hidden, heads) for name in names)
            fused = f"{_BLOCK}self_attn.qkv_proj.{kind}"
            found.append(FusedColumn(fused, (*shape, 3 * hidden), hf, transpose=False, parts=parts))
            continue
        for number, name in enumerate(names):
            run = (number * hidden, 3 * hidden)
            found.append(Column(name, (*shape, hidden), hf, transpose=False, units=heads, hf_run=run))
    return tuple(found)


def _row(name: str, shape: tuple[int, int], units: int, hf: str, init: Init) -> tuple[Rule, ...]:
    name, hf = _BLOCK + name, _HF_BLOCK + hf
    return (
        Row(f"{name}.weight", shape, f"{hf}.weight", transpose=False, init=init, units=units),
        Replicate(f"{name}.bias", shape[1:], f"{hf}.bias", sequence_parallel_grad=True),
    )


def _norm(name: str, width: int, hf: str) -> tuple[Rule, ...]:
    kinds = ("weight", "bias")
    return tuple(Replicate(f"{name}.{kind}", (width,), f"{hf}.{kind}", sequence_parallel_grad=True) for kind in kinds)
