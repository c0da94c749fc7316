"""Rows of parameter tables that decoder families have in common; a plugin is free to write its rows out instead."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from zoo_core.layout import Column, FusedColumn, Part, Replicate, Row, Rule, Vocab

__all__ = [
    "column_rows",
    "head_row",
    "layer_norm_rows",
    "linear_layers",
    "norm_row",
    "packed_rows",
    "row_rows",
    "weight_row",
    "whole_linear",
    "whole_row",
]

Rename = Callable[[str], str]
"""Single-card name to Hugging Face name."""


def norm_row(name: str, width: int, hf: Rename) -> Rule:
    """The weight of a norm over `width` features, between the parallel regions."""
    return whole_row(f"{name}.weight", (width,), hf)


def layer_norm_rows(name: str, width: int, hf: Rename) -> tuple[Rule, ...]:
    """The weight and the bias of a LayerNorm over `width` features, between the parallel regions."""
    return norm_row(name, width, hf), whole_row(f"{name}.bias", (width,), hf)


def whole_row(name: str, shape: tuple[int, ...], hf: Rename) -> Rule:
    """A parameter between the parallel regions (learned positions, say): every rank holds the whole."""
    return Replicate(name, shape, hf(name), sequence_parallel_grad=True)


def whole_linear(name: str, shape: tuple[int, int], hf: Rename) -> Rule:
    """The weight of a Linear layer [in, out] between the parallel regions, which every rank holds whole."""
    return replace(whole_row(f"{name}.weight", shape, hf), transpose=True)


def head_row(name: str, shape: tuple[int, int], hf: Rename, tied_to: str = "") -> Rule:
    """An output head; tied, it has no tensor of its own in the published files."""
    return Vocab(name, shape, "" if tied_to else hf(name), tied_to=tied_to)


def column_rows(parts: Sequence[Part], width_in: int, hf: Rename, *, bias: bool, fused: str = "") -> tuple[Rule, ...]:
    """The Linear layers that share one input of `width_in` features, weights and, if they have them, biases.

    Args:
        parts: the layers, by name without `.weight`, with their widths and units.
        fused: name of the one layer that holds them all, side by side; empty when each is its own.
    """
    found: list[Rule] = []
    for kind, shape in [("weight", (width_in,)), ("bias", ())][: 2 if bias else 1]:
        named = [replace(part, name=f"{part.name}.{kind}", hf=hf(f"{part.name}.{kind}")) for part in parts]
        if fused:
            width = sum(part.width for part in parts)
            found.append(FusedColumn(f"{fused}.{kind}", (*shape, width), parts=tuple(named)))
        else:
            found += [
                Column(part.name, (*shape, part.width), part.hf, units=part.units, on_indivisible=part.on_indivisible)
                for part in named
            ]
    return tuple(found)


def packed_rows(name: str, parts: Sequence[Part], width_in: int, hf: Rename, *, bias: bool) -> tuple[Rule, ...]:
    """A Linear layer of several parts side by side, which the published files hold as one tensor too.

    Args:
        parts: by a short name ("q"), with their widths and units.
    """
    found: list[Rule] = []
    for kind, shape in [("weight", (width_in,)), ("bias", ())][: 2 if bias else 1]:
        full = f"{name}.{kind}"
        named = tuple(replace(part, name=f"{full}[{part.name}]") for part in parts)
        found.append(FusedColumn(full, (*shape, sum(part.width for part in parts)), hf(full), parts=named))
    return tuple(found)


def row_rows(name: str, shape: tuple[int, int], units: int, hf: Rename, *, bias: bool) -> tuple[Rule, ...]:
    """A Linear layer that splits by input, in `units` that stay whole; its bias, if it has one, is not split."""
    found: list[Rule] = [Row(f"{name}.weight", shape, hf(f"{name}.weight"), units=units)]
    if bias:
        found.append(whole_row(f"{name}.bias", shape[1:], hf))
    return tuple(found)


_WEIGHT, _INTEGERS = ".weight", ".quant_weight"


def linear_layers(table: Mapping[str, Rule]) -> dict[str, Rule]:
    """The linear layers of a model: the row of the weight by the layer's single-card name, in table order.

    Columns and rows are, and matrices that every rank holds whole if the table says how they lie in published files
    (`whole_linear`). Embeddings, heads and routers are not. Of a quantised layer, the row that its weight would have.
    """
    found: dict[str, Rule] = {}
    for name, rule in table.items():
        if rule.weight is not None:
            found[name.removesuffix(_INTEGERS)] = rule.weight
        elif name.endswith(_WEIGHT) and len(rule.shape) == 2:
            if isinstance(rule, Column | FusedColumn | Row) or (
                isinstance(rule, Replicate) and rule.transpose is not None
            ):
                found[name.removesuffix(_WEIGHT)] = rule
    return found


def weight_row(table: Mapping[str, Rule], module: str) -> Rule:
    """The row of the weight of a layer, by the layer's single-card name; the one it would have if it is quantised."""
    quantised = table.get(module + _INTEGERS)
    return table[module + _WEIGHT] if quantised is None or quantised.weight is None else quantised.weight
