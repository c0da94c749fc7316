"""DeepSeek-V3's parameter table: the shape, the split and the Hugging Face name of every parameter."""

from __future__ import annotations

from dataclasses import replace

from zoo_core.layout import Init, Part, Replicate, Rule, Vocab
from zoo_core.tables import column_rows, head_row, norm_row, row_rows, whole_linear
from zoo_deepseek_v3.config import DeepseekV3Config

__all__ = ["rules"]

_EMBEDDING, _HEAD = "deepseek_v3.embed_tokens.weight", "lm_head.weight"


def rules(config: DeepseekV3Config) -> tuple[Rule, ...]:
    """Return the table, in the order of the model.

    `*` stands for the layer number, of which the last may be that of multi-token prediction, and then for the expert's.
    """
    hidden, total, block = config.hidden_size, config.total_layers, "deepseek_v3.layers.*."
    vocab = (config.vocab_size, hidden)
    found: list[Rule] = [Vocab(_EMBEDDING, vocab, _hf(_EMBEDDING))]
    every = (
        norm_row(block + "input_layernorm", hidden, _hf),
        *_attention(config, block + "self_attn."),
        norm_row(block + "post_attention_layernorm", hidden, _hf),
    )
    found += _at(range(total), every)
    dense = _mlp(block + "mlp.", hidden, config.intermediate_size)
    for numbers in _runs([layer for layer in range(total) if not config.has_experts(layer)]):
        found += _at(numbers, dense)
    for numbers in _runs([layer for layer in range(total) if config.has_experts(layer)]):
        found += _at(numbers, _experts(config, block + "mlp."))
    if config.num_nextn_predict_layers:
        found += _prediction(config, f"deepseek_v3.layers.{config.num_hidden_layers}.")
    found.append(norm_row("deepseek_v3.norm", hidden, _hf))
    found.append(head_row(_HEAD, vocab, _hf, _EMBEDDING if config.tie_word_embeddings else ""))
    return tuple(found)


def _attention(config: DeepseekV3Config, at: str) -> tuple[Rule, ...]:
    hidden, heads, latent = config.hidden_size, config.num_attention_heads, config.kv_lora_rank
    q_width, kv_width = heads * config.head_size, heads * (config.qk_nope_head_dim + config.v_head_dim)
    queries: tuple[Rule, ...]
    if config.q_lora_rank is None:
        queries = column_rows((Part(at + "q_proj", q_width, heads),), hidden, _hf, bias=False)
    else:
        queries = (
            whole_linear(at + "q_a_proj", (hidden, config.q_lora_rank), _hf),
            norm_row(at + "q_a_layernorm", config.q_lora_rank, _hf),
            *column_rows((Part(at + "q_b_proj", q_width, heads),), config.q_lora_rank, _hf, bias=False),
        )
    return (
        *queries,
        whole_linear(at + "kv_a_proj_with_mqa", (hidden, latent + config.qk_rope_head_dim), _hf),
        norm_row(at + "kv_a_layernorm", latent, _hf),
        *column_rows((Part(at + "kv_b_proj", kv_width, heads),), latent, _hf, bias=False),
        *row_rows(at + "o_proj", (heads * config.v_head_dim, hidden), heads, _hf, bias=False),
    )


def _mlp(at: str, hidden: int, ffn: int) -> tuple[Rule, ...]:
    gate_up = (Part(at + "gate_proj", ffn, ffn), Part(at + "up_proj", ffn, ffn))
    return (
        *column_rows(gate_up, hidden, _hf, bias=False),
        *row_rows(at + "down_proj", (ffn, hidden), ffn, _hf, bias=False),
    )


def _experts(config: DeepseekV3Config, at: str) -> tuple[Rule, ...]:
    hidden, width, experts = config.hidden_size, config.moe_intermediate_size, config.n_routed_experts or 0
    weight, bias = at + "gate.weight", at + "gate.e_score_correction_bias"
    found: list[Rule] = [
        Replicate(weight, (experts, hidden), _hf(weight), partial_grad=True),
        Replicate(bias, (experts,), _hf(bias), init=Init("zeros"), buffer=True),
    ]
    found += (replace(rule, experts=range(experts)) for rule in _mlp(at + "experts.*.", hidden, width))
    if config.n_shared_experts:
        found += _mlp(at + "shared_experts.", hidden, width * config.n_shared_experts)
    return tuple(found)


def _prediction(config: DeepseekV3Config, at: str) -> tuple[Rule, ...]:
    """What multi-token prediction has beside its block; the published files hold its embedding and head once more."""
    hidden, shape = config.hidden_size, (config.vocab_size, config.hidden_size)
    embedding, head = at + "embed_tokens.weight", at + "shared_head.head.weight"
    return (
        Vocab(embedding, shape, _hf(embedding), tied_to=_EMBEDDING),
        norm_row(at + "enorm", hidden, _hf),
        norm_row(at + "hnorm", hidden, _hf),
        whole_linear(at + "eh_proj", (2 * hidden, hidden), _hf),
        norm_row(at + "shared_head.norm", hidden, _hf),
        Vocab(head, shape, _hf(head), tied_to=_EMBEDDING if config.tie_word_embeddings else _HEAD),
    )


def _at(layers: range, block: tuple[Rule, ...]) -> tuple[Rule, ...]:
    return tuple(replace(rule, layers=layers) for rule in block)


def _runs(numbers: list[int]) -> list[range]:
    """The runs of neighbours in a rising list."""
    found: list[range] = []
    for number in numbers:
        if found and found[-1].stop == number:
            found[-1] = range(found[-1].start, number + 1)
        else:
            found.append(range(number, number + 1))
    return found


def _hf(name: str) -> str:
    return name.replace("deepseek_v3.", "model.", 1)
