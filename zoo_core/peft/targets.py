"""Which layers of a model have adapters, and the rows of the table that these are.

An adapter is two more rows: `X.lora_A` [in, rank] and `X.lora_B` [rank, out] beside `X.weight`. Splitting, pipeline
stages, experts, checkpoints and loading under another plan follow from the rows, as they do for the weights.
"""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from zoo_core.errors import ConfigError, nearest
from zoo_core.layout import FusedColumn, Init, Part, Replicate, Row, Rule
from zoo_core.peft.spec import LoraSpec
from zoo_core.tables import linear_layers, weight_row

__all__ = ["PEFT_PREFIX", "adapter_rows", "chosen", "with_adapters"]

_log = logging.getLogger("zoo")

PEFT_PREFIX = "base_model.model."
"""What the names in PEFT's files begin with, before the published name of the layer."""

_ALL = ("all-linear", "all", ".*")
_WEIGHT = ".weight"


def _names(module: str, rule: Rule) -> set[str]:
    """The names by which a pattern may mean a layer: ours and the published one."""
    return {module, rule.hf.removesuffix(_WEIGHT)} - {""}


def _part_names(rule: Rule) -> list[set[str]]:
    """The same of each projection in a fused layer."""
    parts = rule.parts if isinstance(rule, FusedColumn) else ()
    return [{part.name.removesuffix(_WEIGHT), part.hf.removesuffix(_WEIGHT)} - {""} for part in parts]


def _means(pattern: str, names: Iterable[str]) -> bool:
    if any(name == pattern or name.endswith("." + pattern) for name in names):
        return True
    try:
        found = re.compile(pattern)
    except re.error as error:
        raise ConfigError(
            f"lora_target_modules: {pattern!r} is no pattern",
            str(error),
            "give ends of layer names (q_proj) or regular expressions (.*q_proj)",
        ) from error
    return any(found.fullmatch(name) for name in names)


def chosen(table: Mapping[str, Rule], patterns: Sequence[str] = ()) -> tuple[str, ...]:
    """Return the single-card names of the layers that patterns mean, in table order.

    A pattern is the end of a layer's name (`q_proj`, `self_attn.q_proj`), as PEFT's lists have it, or a regular
    expression of the whole name, as PaddleNLP's have it; our names and the published ones both count. Without patterns,
    or with `all-linear`, every linear layer is meant.

    Raises:
        ConfigError: nothing has such a name; suggests some. Or a fused layer is meant in part.
    """
    layers = linear_layers(table)
    if not patterns or any(pattern in _ALL for pattern in patterns):
        return tuple(layers)
    found, used = [], set()
    for module, rule in layers.items():
        hits = {pattern for pattern in patterns if _means(pattern, _names(module, rule))}
        parts = [{pattern for pattern in patterns if _means(pattern, names)} for names in _part_names(rule)]
        if not hits and any(parts):
            if not all(parts):
                raise ConfigError(
                    f"lora_target_modules means a part of {module} only",
                    "its projections are fused in one layer, which has one adapter",
                    "name all of them, or turn fuse_attention_qkv and fuse_attention_ffn off",
                )
            hits = set().union(*parts)
        if hits:
            found.append(module)
            used |= hits
    if not found:
        ends = list(dict.fromkeys(module.rpartition(".")[2] for module in layers))
        near = [close for pattern in patterns if (close := nearest(pattern, ends))]
        raise ConfigError(
            "lora_target_modules means no layer: " + ", ".join(patterns),
            "the linear layers are " + ", ".join(ends),
            f"did you mean {near[0]}?" if near else "name some of them, or none for all",
        )
    for pattern in patterns:
        if pattern not in used:
            _log.warning("lora_target_modules: %s means no layer of this model", pattern)
    return tuple(found)


def _check_dropout(table: Mapping[str, Rule], modules: Iterable[str]) -> None:
    """Refuse dropout in blocks of experts, which see rows without knowing which token each is.

    Raises:
        ConfigError: an adapter is there.
    """
    blocks = {
        name.rsplit(f".{rule.expert}.", 1)[0].rpartition(".")[0] + "."
        for name, rule in table.items()
        if rule.expert is not None
    }
    inside = [module for module in modules if any(module.startswith(block) for block in blocks)]
    if inside:
        raise ConfigError(
            f"lora_dropout and an adapter of {inside[0]} do not combine",
            "experts get their tokens in an order that depends on the plan, and masks must not",
            "set lora_dropout to 0, or leave the experts out with lora_target_modules",
        )


def adapter_rows(table: Mapping[str, Rule], spec: LoraSpec) -> dict[str, Rule]:
    """Return the rows of the adapters, by single-card name.

    Raises:
        ConfigError: as `chosen`; or dropout was asked for where it cannot be.
    """
    modules = tuple(spec.modules) or chosen(table, spec.targets)
    if spec.dropout:
        _check_dropout(table, modules)
    found: dict[str, Rule] = {}
    for module in modules:
        for row in _pair(module, weight_row(table, module), spec.of(module).rank):
            found[row.name] = row
    return found


def with_adapters(table: Mapping[str, Rule], spec: LoraSpec) -> dict[str, Rule]:
    """Return the table with the adapters' rows after it. Raises as `adapter_rows`."""
    return {**table, **adapter_rows(table, spec)}


def _pair(module: str, rule: Rule, rank: int) -> tuple[Rule, Rule]:
    """The rows of A and B of a layer whose weight has the row `rule`.

    What is whole beside a split matrix sees this rank's share of the features only, so its gradients are summed.
    """
    width_in, width_out = rule.shape
    # kaiming_uniform with a = sqrt(5), as PEFT and PaddleNLP start it: uniform within 1 / sqrt(in)
    start, zeros = Init("uniform", 1 / math.sqrt(3 * width_in)), Init("zeros")
    name_A, name_B, hf_A, hf_B = f"{module}.lora_A", f"{module}.lora_B", _published(rule, "A"), _published(rule, "B")
    whole = Replicate("", (), transpose=True, layers=rule.layers, experts=rule.experts, expert=rule.expert)
    A: Rule
    B: Rule
    if isinstance(rule, Row):
        A = replace(rule, name=name_A, shape=(width_in, rank), hf=hf_A, transpose=True, init=start, hf_run=None)
        B = replace(whole, name=name_B, shape=(rank, width_out), hf=hf_B, init=zeros, partial_grad=True)
        return A, B
    if isinstance(rule, Replicate):
        whole = replace(whole, sequence_parallel_grad=rule.sequence_parallel_grad, partial_grad=rule.partial_grad)
        return (
            replace(whole, name=name_A, shape=(width_in, rank), hf=hf_A, init=start),
            replace(whole, name=name_B, shape=(rank, width_out), hf=hf_B, init=zeros),
        )
    A = replace(whole, name=name_A, shape=(width_in, rank), hf=hf_A, init=start, partial_grad=True)
    B = replace(rule, name=name_B, shape=(rank, width_out), hf=hf_B, transpose=True, init=zeros)
    if isinstance(B, FusedColumn):
        B = replace(B, parts=tuple(_part(part) for part in B.parts))
    return A, B


def _part(part: Part) -> Part:
    """The columns of B that belong to one projection of a fused layer."""
    name = part.name.replace(_WEIGHT, ".lora_B")
    return replace(part, name=name, hf=f"{PEFT_PREFIX}{part.hf.removesuffix(_WEIGHT)}.lora_B.weight" if part.hf else "")


def _published(rule: Rule, which: str) -> str:
    return f"{PEFT_PREFIX}{rule.hf.removesuffix(_WEIGHT)}.lora_{which}.weight" if rule.hf else ""
