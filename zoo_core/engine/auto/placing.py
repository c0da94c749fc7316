"""The parameter table as placements: which dim of a parameter lies over the tensor axis. No paddle.

A placement cuts one dim evenly, in order. A row that is cut otherwise (the columns of fused projections, part by part;
padded vocabularies; key/value heads that several ranks hold) is laid out anew here, under the same name: values of the
whole parameter are the same ones, so checkpoints know no difference.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any

from zoo_core.layout import Column, FusedColumn, Part, Replicate, Row, Rule, Vocab, split

__all__ = ["auto_table", "cut_source"]


def auto_table(table: Mapping[str, Rule], degree: int) -> dict[str, Rule]:
    """Return the rows as placements lay them out over a tensor axis of `degree`."""
    return {name: _placed(rule, degree) for name, rule in table.items()}


def _placed(rule: Rule, degree: int) -> Rule:
    if degree == 1 or rule.dim is None:
        return rule
    even = rule.shape[rule.dim] % degree == 0
    if isinstance(rule, Column | Row) and getattr(rule, "units", None):
        even = even and rule.units % degree == 0
    if not even:
        return _as(Replicate, rule)
    if isinstance(rule, FusedColumn):
        return _as(Column, rule)
    return rule


def _as(kind: type[Rule], rule: Rule) -> Rule:
    """The row as another kind, with what rows have in common."""
    if isinstance(rule, Vocab):
        return _WholeVocab(**{field.name: getattr(rule, field.name) for field in fields(Vocab)})
    common: dict[str, Any] = {field.name: getattr(rule, field.name) for field in fields(Rule)}
    return kind(**{**common, "transpose": rule.hf_transposed})


@dataclass(frozen=True)
class _WholeVocab(Vocab):
    """A vocabulary that the tensor axis does not divide; it may still be tied."""

    @property
    def dim(self) -> None:  # type: ignore[override]
        return None

    def segments(self) -> tuple[Part, ...]:
        return ()


def cut_source(
    whole: Callable[[Rule], Any], table: Mapping[str, Rule], degree: int, rank: int
) -> Callable[[Rule], Any]:
    """Values of this rank's part, cut from those of the whole parameter.

    Args:
        whole: gives the values of a whole parameter by its own row, in `table`.
    """
    return lambda rule: split(whole(table[rule.name]), rule, degree, rank)
