"""From the arguments of a run to what it trains, as predictions take it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial

from zoo_core._counting import many
from zoo_core.arguments import Arguments
from zoo_core.config import ModelConfig
from zoo_core.layout import Rule
from zoo_core.peft import (
    LoraSpec,
    PrefixSpec,
    adapter_rows,
    prefix_from_arguments,
    prefix_rows,
    spec_from_arguments,
)
from zoo_core.peft.prefix import SHARED
from zoo_core.pipeline import PipeLayer
from zoo_core.plan.tuned import EVERYTHING, Tuned

__all__ = ["tuned_of", "tuned_text"]


def tuned_of(arguments: Arguments, config: ModelConfig) -> Tuned:
    """Return what the arguments train.

    Raises:
        ConfigError: adapters and a prefix at once.
    """
    lora, prefix = spec_from_arguments(arguments), prefix_from_arguments(arguments, config)
    tuned = EVERYTHING
    if lora is not None:
        tuned = Tuned(partial(_adapters, lora), dropout=lora.dropout > 0)
    elif prefix is not None:
        rows = partial(_prefix, config, prefix)
        tuned = Tuned(rows, virtual_tokens=prefix.tokens, projected=prefix.hidden)
    if arguments.task != "dpo":
        return tuned
    if arguments.finetune.reference_free:
        return replace(tuned, rows=2)
    return replace(tuned, rows=2, reference="same" if lora is not None else "copy")


def _adapters(spec: LoraSpec, table: Mapping[str, Rule], layers: Sequence[PipeLayer]) -> Mapping[str, Rule]:
    return adapter_rows(table, spec)


def _prefix(
    config: ModelConfig, spec: PrefixSpec, table: Mapping[str, Rule], layers: Sequence[PipeLayer]
) -> Mapping[str, Rule]:
    rows = prefix_rows(layers, config, spec)
    # what all blocks share is made by the first, after its own
    return dict(sorted(rows.items(), key=lambda row: row[0].rpartition(".")[2] in SHARED))


def tuned_text(tuned: Tuned, added: int) -> str:
    """What is trained, in words; empty where it is all of the model on plain samples."""
    said = []
    if tuned.frozen:
        what = f"a prefix of {many(tuned.virtual_tokens, 'token')}" if tuned.virtual_tokens else "adapters"
        said.append(f"{what}, {added:,} parameters; the model's own are frozen")
    if tuned.rows > 1:
        said.append("pairs of answers, both of which count as tokens")
    if tuned.reference != "none":
        copy = "a frozen copy of all weights" if tuned.reference == "copy" else "the model without adapters"
        said.append(f"the reference is {copy}, run forwards once more")
    return "; ".join(said)
