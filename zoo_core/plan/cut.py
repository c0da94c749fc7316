"""Cutting the list of layers into chunks."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["cut", "even"]


def even(blocks: int, chunks: int) -> tuple[int, ...]:
    """Return how many blocks each chunk gets.

    Where they do not divide, the extra ones go to the later inner chunks: the first also has the embedding and, under
    1F1B, the most activations alive; the last also has the head and the loss.
    """
    sizes = [blocks // chunks] * chunks
    order = [*range(chunks - 2, 0, -1), 0, chunks - 1] if chunks > 1 else [0]
    for chunk in order[: blocks % chunks]:
        sizes[chunk] += 1
    return tuple(sizes)


def cut(is_block: Sequence[bool], chunks: int, cuts: Sequence[int] = ()) -> tuple[int, ...]:
    """Return the cut points into the list of layers: `chunks + 1` numbers from 0 to its length.

    What stands before the first block stays in the first chunk; what follows a block stays with it, so that the final
    norm and the head are in the last chunk.

    Args:
        is_block: for each layer, whether it is a decoder block.
        chunks: number of contiguous runs.
        cuts: block numbers at which the second and later chunks begin; empty means evenly.
    """
    numbers = [index for index, block in enumerate(is_block) if block]
    starts = list(cuts)
    if not starts:
        taken = 0
        for size in even(len(numbers), chunks)[:-1]:
            taken += size
            starts.append(taken)
    return (0, *(numbers[start] for start in starts), len(is_block))
