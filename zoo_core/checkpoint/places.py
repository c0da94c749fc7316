"""Where the elements of a local parameter lie in the tensors of a file: the one primitive of writing and reading.

A parameter is stored whole, as on one card. A rank's part of it is a set of contiguous runs, found from the
parameter's row of the table alone (`zoo_core.layout.pieces`), for any tensor-parallel degree, for a flat range of the
local parameter (what sharding stages give a rank), for a fused parameter stored in separate tensors and the reverse.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from zoo_core.checkpoint.dtypes import Array
from zoo_core.layout import Rule, local_shape, pieces

__all__ = ["Cut", "Place", "cuts", "published_place", "runs", "stored_shape", "whole_place"]


@dataclass(frozen=True)
class Place:
    """Columns [start, stop) of a parameter, along its split dim, lie in tensor `key` from `offset` on.

    Args:
        key: name of the tensor in the files.
        shape: shape of that tensor, dims in Paddle's order even if `transposed`.
        transposed: the file holds the transpose (Hugging Face Linear weights).
    """

    key: str
    shape: tuple[int, ...]
    start: int
    stop: int
    offset: int = 0
    transposed: bool = False


@dataclass(frozen=True)
class Cut:
    """`length` columns at `stored` of a file's tensor are the columns at `local` of a local parameter."""

    stored: int
    local: int
    length: int


def whole_place(rule: Rule, key: str, transposed: bool = False) -> Place:
    """The parameter lies alone and whole in tensor `key`."""
    return Place(key, rule.shape, 0, rule.shape[rule.dim or 0] if rule.shape else 1, 0, transposed)


def published_place(rule: Rule, key: str) -> Place:
    """The parameter lies in Hugging Face's tensor `key`, alone or as the run of it that `rule.hf_run` says."""
    if rule.hf_run is None:
        return whole_place(rule, key, rule.hf_transposed)
    dim, (offset, width) = rule.dim or 0, rule.hf_run
    shape = (*rule.shape[:dim], width, *rule.shape[dim + 1 :])
    return Place(key, shape, 0, rule.shape[dim], offset, rule.hf_transposed)


def stored_shape(place: Place) -> tuple[int, ...]:
    """The shape of the tensor as the file's header states it."""
    return place.shape[::-1] if place.transposed else place.shape


def cuts(rule: Rule, place: Place, degree: int, rank: int, writing: bool = False) -> tuple[Cut, ...]:
    """Return the columns of the local parameter that `place` holds, along the split dim.

    Args:
        writing: of columns that several ranks hold, only the first rank of them has any.

    Raises:
        LayoutError: the parameter does not split over `degree` ranks.
    """
    if rule.dim is None:
        whole = rule.shape[0] if rule.shape else 1
        held = [(0, whole, 0)] if rank == 0 or not writing else []
    else:
        held = [
            (p.start, p.stop, p.offset)
            for p in pieces(rule, degree, rank)
            if p.start < p.stop and not (writing and rank % p.copies)
        ]
    found = []
    for start, stop, offset in held:
        first, last = max(start, place.start), min(stop, place.stop)
        if first < last:
            found.append(Cut(first - place.start + place.offset, offset + first - start, last - first))
    return tuple(found)


def runs(
    rule: Rule,
    degree: int,
    rank: int,
    place: Place | None = None,
    flat: tuple[int, int] | None = None,
    writing: bool = False,
) -> Array:
    """Return the contiguous runs in which a rank's elements lie in a stored tensor.

    Args:
        place: the stored tensor; by default the parameter alone and whole, as zoo stores it.
        flat: the rank holds elements [start, stop) of the flattened (C order) local parameter only; `stop` may go
            beyond its end, where a sharded buffer is padded.
        writing: of elements that several tensor-parallel ranks hold, only the first rank of them has any.

    Returns:
        int64 [R, 3]: offset in the stored tensor, offset in the local parameter (in its part `flat`; transposed like
        the file if the place is), length; in elements, ordered by local offset, no two adjoining.

    Raises:
        LayoutError: the parameter does not split over `degree` ranks.
        ValueError: `flat` of a transposed tensor, whose elements lie one by one.
    """
    at = place or whole_place(rule, rule.single)
    if flat is not None and at.transposed:
        raise ValueError(f"{rule.name}: a flat range of a transposed tensor has no runs")
    stored, local = stored_shape(at) or (1,), local_shape(rule, degree) or (1,)
    dim = rule.dim or 0
    if at.transposed:
        local, dim = local[::-1], len(local) - 1 - dim
    found = np.array(
        [(cut.stored, cut.local, cut.length) for cut in cuts(rule, at, degree, rank, writing)], np.int64
    ).reshape(-1, 3)
    found = found[np.argsort(found[:, 1])]
    outer, inner = math.prod(stored[:dim]), math.prod(stored[dim + 1 :])
    rows = np.arange(outer, dtype=np.int64)[:, None]
    out = np.empty((outer, len(found), 3), np.int64)
    out[:, :, 0] = (rows * stored[dim] + found[:, 0]) * inner
    out[:, :, 1] = (rows * local[dim] + found[:, 1]) * inner
    out[:, :, 2] = found[:, 2] * inner
    joined = _join(out.reshape(-1, 3))
    return joined if flat is None else _within(joined, flat)


def _join(table: Array) -> Array:
    """Merge runs that adjoin on both sides."""
    table = table[table[:, 2] > 0]
    if len(table) < 2:
        return table
    ends = table[:-1] + table[:-1, 2:]
    breaks = np.flatnonzero((ends[:, 0] != table[1:, 0]) | (ends[:, 1] != table[1:, 1])) + 1
    firsts = np.concatenate(([0], breaks))
    joined: Array = table[firsts].copy()
    joined[:, 2] = np.add.reduceat(table[:, 2], firsts)
    return joined


def _within(table: Array, flat: tuple[int, int]) -> Array:
    """Clip runs to local offsets [start, stop) and count them from `start`."""
    start = np.maximum(table[:, 1], flat[0])
    stop = np.minimum(table[:, 1] + table[:, 2], flat[1])
    kept = stop > start
    clipped = np.stack([table[:, 0] + start - table[:, 1], start - flat[0], stop - start], axis=1)
    return np.asarray(clipped[kept])
