"""What a model keeps of the tokens so far, as plain data. No paddle.

Shape legend: B rows, W cached columns of a window, M kv heads, D head width.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Cached", "Note", "sizes_up_to"]


@dataclass(frozen=True)
class Note:
    """What a model keeps beside keys and values.

    Args:
        name: as the model calls it.
        layers: the blocks that keep it.
        by_token: whether its second dim is the column.
        shape: the dims after the row, and after the column where there is one.
        dtype: element type.
    """

    name: str
    layers: tuple[int, ...]
    by_token: bool
    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True)
class Cached:
    """Keys, values and notes of all blocks.

    Args:
        dtype: element type of weights, keys and values.
        entries: of each block, (M, D) of its keys and of its values.
        notes: what else is cached.
    """

    dtype: str
    entries: tuple[tuple[tuple[int, int], tuple[int, int]], ...]
    notes: tuple[Note, ...]

    def shapes(self, rows: int, columns: int) -> list[tuple[tuple[int, ...], str]]:
        """Shape and element type of all that is cached: each block's keys and values, then the notes."""
        found: list[tuple[tuple[int, ...], str]] = []
        for pair in self.entries:
            found += [((rows, columns, *entry), self.dtype) for entry in pair]
        for note in self.notes:
            front = (rows, columns) if note.by_token else (rows,)
            found.append(((*front, *note.shape), note.dtype))
        return found

    def has_columns(self, number: int) -> bool:
        """Whether the second dim of one of `shapes` is the column."""
        return number < 2 * len(self.entries) or self.notes[number - 2 * len(self.entries)].by_token


def sizes_up_to(most: int, least: int) -> tuple[int, ...]:
    """The powers of two from `least` on that lie below `most`, and `most`: a size that fits wastes less than half."""
    found = []
    while least < most:
        found.append(least)
        least *= 2
    return (*found, most)
