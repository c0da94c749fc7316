"""Mynah's parameter table: the shape, the split and the Hugging Face name of every parameter."""

from __future__ import annotations

from zoo_core.layout import Column, Replicate, Row, Rule, Vocab

from zoo_mynah.config import MynahConfig

__all__ = ["rules"]


def rules(config: MynahConfig) -> tuple[Rule, ...]:
    """Return the table, in the order of the model; `*` stands for the layer number."""
    hidden, ffn, vocab = config.hidden_size, config.intermediate_size, config.vocab_size
    heads, kv_heads, head = config.num_attention_heads, config.kv_heads, config.head_size
    tied = config.tie_word_embeddings

    def norm(name: str) -> Rule:
        # Norms read each rank's part of the sequence, so their gradients are summed.
        return Replicate(
            f"mynah.{name}.weight",
            (hidden,),
            f"model.{name}.weight",
            sequence_parallel_grad=True,
        )

    def column(name: str, width: int, units: int) -> Rule:
        # Fewer key/value heads than ranks: several ranks hold the same one.
        name = f"layers.*.{name}.weight"
        return Column(
            f"mynah.{name}",
            (hidden, width),
            f"model.{name}",
            units=units,
            on_indivisible="replicate",
        )

    def row(name: str, width: int, units: int) -> Rule:
        name = f"layers.*.{name}.weight"
        return Row(f"mynah.{name}", (width, hidden), f"model.{name}", units=units)

    return (
        Vocab("mynah.embed_tokens.weight", (vocab, hidden), "model.embed_tokens.weight"),
        norm("layers.*.attention_norm"),
        column("attention.q_proj", heads * head, heads),
        column("attention.k_proj", kv_heads * head, kv_heads),
        column("attention.v_proj", kv_heads * head, kv_heads),
        row("attention.o_proj", heads * head, heads),
        norm("layers.*.mlp_norm"),
        column("mlp.gate_proj", ffn, ffn),
        column("mlp.up_proj", ffn, ffn),
        row("mlp.down_proj", ffn, ffn),
        norm("norm"),
        Vocab(
            "lm_head.weight",
            (vocab, hidden),
            "" if tied else "lm_head.weight",
            tied_to="mynah.embed_tokens.weight" if tied else "",
        ),
    )
