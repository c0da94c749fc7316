"""Several samples in one row: greedy first fit among a few rows at a time."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = ["Rows", "first_fit"]

_OPEN = 64
"""Rows that are filled at the same time: what a window of samples is spread over."""


@dataclass(frozen=True)
class Rows:
    """Which samples share a row.

    Args:
        members: the samples of all rows, row after row.
        bounds: where in `members` each row begins, and the end.
        lengths: tokens of each row.
    """

    members: npt.NDArray[np.int64]
    bounds: npt.NDArray[np.int64]
    lengths: npt.NDArray[np.int64]

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.lengths)

    def __getitem__(self, row: int) -> npt.NDArray[np.int64]:
        """Return the samples of a row, in their places."""
        return self.members[self.bounds[row] : self.bounds[row + 1]]


def first_fit(lengths: npt.NDArray[np.int64], room: int, order: npt.NDArray[np.int64]) -> Rows:
    """Return rows of at most `room` tokens with every sample of `order` in one of them.

    The samples come in `order`; each goes to the first of the open rows that has room, or begins a new one, for which
    the oldest is closed when there are too many. (First fit: Johnson 1974; here with bounded space.)

    Args:
        lengths: tokens of each sample; those in `order` have between 1 and `room`.
        room: tokens of a row.
        order: the samples to place.

    Raises:
        ValueError: a sample is longer than a row.
    """
    if len(order) and int(lengths[order].max()) > room:
        raise ValueError(f"a sample of {int(lengths[order].max())} tokens for rows of {room}")
    done: list[list[int]] = []
    rows: list[list[int]] = []
    free = np.zeros(0, np.int64)
    for sample in order.tolist():
        size = int(lengths[sample])
        fitting = np.flatnonzero(free >= size)
        if len(fitting):
            rows[fitting[0]].append(sample)
            free[fitting[0]] -= size
            continue
        if len(rows) == _OPEN:
            done.append(rows.pop(0))
            free = free[1:]
        rows.append([sample])
        free = np.append(free, room - size)
    done += rows
    bounds = np.cumsum([0, *map(len, done)], dtype=np.int64)
    members = np.fromiter((sample for row in done for sample in row), np.int64, int(bounds[-1]))
    return Rows(members, bounds, np.array([int(lengths[row].sum()) for row in done], np.int64))
