"""The rows of the table that a quantised weight is, in the place of the weight's own.

`X.weight` [in, out] becomes `X.quant_weight` (int8, or packed uint8), `X.quant_scale`, and what else the `QuantSpec`
asks for. They split as the weight does, so that splitting, experts, stages, checkpoints and loading under another plan
follow from the rows. What has no output features (`smooth`, `g_idx`) splits with the input features, or not at all.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import replace

from zoo_core.errors import ConfigError, nearest
from zoo_core.layout import FusedColumn, Part, Replicate, Row, Rule, objection
from zoo_core.quantization import PER_CHANNEL, QuantSpec
from zoo_core.quantized.bits import BLOCK, packed_rows
from zoo_core.tables import linear_layers

__all__ = ["ROWS", "quantised_layers", "split_objection", "with_quantised"]

_WEIGHT = ".weight"
ROWS = ("quant_weight", "quant_scale", "quant_zero", "g_idx", "smooth", "act_scale")
"""Last words of the names of the rows that a quantised weight may be."""
_NUMBER = re.compile(r"\.\d+\.")
"""What the names of layers in blocks have."""


def _means(pattern: str, module: str) -> bool:
    return module == pattern or module.endswith("." + pattern) or re.fullmatch(pattern, module) is not None


def _meant(patterns: tuple[str, ...], what: str, layers: Mapping[str, Rule]) -> set[str]:
    """The layers that patterns mean, each of which means at least one.

    Raises:
        ConfigError: a pattern is none, or means nothing; suggests a name.
    """
    found: set[str] = set()
    for pattern in patterns:
        try:
            hits = {module for module in layers if _means(pattern, module)}
        except re.error as error:
            todo = "give ends of layer names (q_proj) or regular expressions (.*q_proj)"
            raise ConfigError(f"{what}: {pattern!r} is no pattern", str(error), todo) from error
        if not hits:
            ends = list(dict.fromkeys(module.rpartition(".")[2] for module in layers))
            near = nearest(pattern, ends)
            raise ConfigError(
                f"{what}: {pattern} means no layer of this model",
                "the linear layers are " + ", ".join(ends),
                f"did you mean {near}?" if near else "name some of them",
            )
        found |= hits
    return found


def quantised_layers(table: Mapping[str, Rule], spec: QuantSpec) -> dict[str, Rule]:
    """The layers that a spec means: the row of the weight by the layer's single-card name, in table order.

    A pattern is the end of a layer's name (`q_proj`) or a regular expression of the whole name.

    Raises:
        ConfigError: a pattern means nothing, or nothing is left.
    """
    layers = linear_layers(table)
    chosen = {module for module in layers if _NUMBER.search(module)}
    if spec.targets:
        chosen = _meant(spec.targets, "targets", layers)
    chosen -= _meant(spec.skip, "modules_to_not_convert", layers)
    if not chosen:
        raise ConfigError("no layer is left to quantise", "all that are meant are skipped too", "skip fewer")
    return {module: rule for module, rule in layers.items() if module in chosen}


def with_quantised(table: Mapping[str, Rule], spec: QuantSpec) -> dict[str, Rule]:
    """Return the table with the rows of quantised weights in the places of the weights' own.

    Raises:
        ConfigError: as `quantised_layers`.
    """
    chosen = quantised_layers(table, spec)
    found: dict[str, Rule] = {}
    for name, rule in table.items():
        module = name.removesuffix(_WEIGHT)
        if name.endswith(_WEIGHT) and module in chosen:
            found |= {row.name: row for row in _rows(module, rule, spec)}
        else:
            found[name] = rule
    return found


def _rows(module: str, rule: Rule, spec: QuantSpec) -> list[Rule]:
    width_in, width_out = rule.shape
    groups = spec.groups(width_in)
    integers, kind = packed_rows(width_in, spec.bits), "int8" if spec.bits == 8 else "uint8"
    units = _units(rule, spec)
    rows = [
        replace(_like(rule, module, "quant_weight", (integers, width_out), kind, units), weight=rule),
        _of_groups(rule, module, "quant_scale", (groups, width_out), "float32", units, spec),
    ]
    if not spec.symmetric:
        rows.append(_of_groups(rule, module, "quant_zero", (groups, width_out), "int8", units, spec))
    if spec.ordered:
        rows.append(_of_inputs(rule, module, "g_idx", width_in, "int32", units))
    if spec.smooth:
        rows.append(_of_inputs(rule, module, "smooth", width_in, "float32", units))
    if spec.method == "w8a8" and spec.activations == "static":
        rows.append(_whole(rule, module, "act_scale", (1,), "float32"))
    return rows


def _units(rule: Rule, spec: QuantSpec) -> int:
    """Runs of input features that stay whole on a rank: of heads, of packed blocks, and of groups."""
    if not isinstance(rule, Row):
        return 1
    features, block = rule.shape[0], BLOCK[spec.bits][0]
    units = math.gcd(rule.units or features, features // block if features % block == 0 else 1)
    if spec.group_size == PER_CHANNEL or spec.ordered:
        return units
    return math.gcd(units, features // spec.group_size if features % spec.group_size == 0 else 1)


def _like(rule: Rule, module: str, own: str, shape: tuple[int, ...], dtype: str, units: int) -> Rule:
    """A row that splits as the weight's does."""
    row = replace(
        rule, name=f"{module}.{own}", shape=shape, hf="", hf_run=None, transpose=False, init=None, buffer=True,
        dtype=dtype,
    )  # fmt: skip
    if isinstance(row, FusedColumn):
        return replace(row, parts=tuple(_part(part, own) for part in row.parts))
    return replace(row, units=units) if isinstance(row, Row) else row


def _part(part: Part, own: str) -> Part:
    return replace(part, name=part.name.replace(_WEIGHT, f".{own}"), hf="")


def _of_groups(
    rule: Rule, module: str, own: str, shape: tuple[int, int], dtype: str, units: int, spec: QuantSpec
) -> Rule:
    """A row of numbers of each group and output feature: of one group, or of any order, every rank has all groups."""
    if isinstance(rule, Row) and (shape[0] == 1 or spec.ordered):
        return _whole(rule, module, own, shape, dtype)
    return _like(rule, module, own, shape, dtype, units)


def _of_inputs(rule: Rule, module: str, own: str, width: int, dtype: str, units: int) -> Rule:
    """A row of a number for each input feature."""
    if isinstance(rule, Row):
        return _like(rule, module, own, (width,), dtype, units)
    return _whole(rule, module, own, (width,), dtype)


def _whole(rule: Rule, module: str, own: str, shape: tuple[int, ...], dtype: str) -> Rule:
    """A row that every rank holds whole."""
    return Replicate(
        f"{module}.{own}", shape, layers=rule.layers, experts=rule.experts, expert=rule.expert, buffer=True, dtype=dtype
    )


def split_objection(table: Mapping[str, Rule], spec: QuantSpec, degree: int) -> str:
    """Why quantised weights do not split over `degree` ranks where the weights themselves would; empty if they do."""
    for name, rule in table.items():
        if rule.weight is None or not objection(rule, degree) or objection(rule.weight, degree):
            continue
        features, module = rule.weight.shape[0], name.rpartition(".")[0]
        block = BLOCK[spec.bits][0]
        if spec.group_size != PER_CHANNEL and not spec.ordered and (features // degree) % spec.group_size:
            groups = spec.groups(features)
            many = f"{groups} group{'s' * (groups > 1)} of {spec.group_size} input features"
            return f"{module} has {many}, which {degree} ranks would cut"
        return f"{module}: {spec.bits} bits are packed by {block} input features, which {degree} ranks would cut"
    return ""
