"""Rows of parameter tables that decoder families have in common; a plugin is free to write its rows out instead."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from zoo_core.layout import Column, FusedColumn, Part, Replicate, Row, Rule

__all__ = ["column_rows", "norm_row", "row_rows"]

Rename = Callable[[str], str]
"""Single-card name to Hugging Face name."""


def norm_row(name: str, width: int, hf: Rename) -> Rule:
    """The weight of a norm over `width` features, between the parallel regions."""
    weight = f"{name}.weight"
    return Replicate(weight, (width,), hf(weight), sequence_parallel_grad=True)


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


def row_rows(name: str, shape: tuple[int, int], units: int, hf: Rename, *, bias: bool) -> tuple[Rule, ...]:
    """A Linear layer that splits by input, in `units` that stay whole; its bias, if it has one, is not split."""
    found: list[Rule] = [Row(f"{name}.weight", shape, hf(f"{name}.weight"), units=units)]
    if bias:
        found.append(Replicate(f"{name}.bias", shape[1:], hf(f"{name}.bias"), sequence_parallel_grad=True))
    return tuple(found)
