"""A tensor put together from the parts that ranks saved: boxes of it, or flat ranges of boxes."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from zoo_core.checkpoint.stored import Box, Pasted, Reshaped, Stored
from zoo_core.errors import CheckpointError

__all__ = ["Part", "assembled", "joined"]


@dataclass(frozen=True)
class Part:
    """Where a saved part lies in its tensor.

    Args:
        file: that holds it.
        at: of the box, in the tensor.
        shape: of the box.
        span: the part is this range of the box's elements in C order, flat; `None`: it is the box.
    """

    file: str
    at: tuple[int, ...]
    shape: tuple[int, ...]
    span: tuple[int, ...] | None = None


def joined(key: str, shape: tuple[int, ...], pieces: Iterable[Stored]) -> Stored:
    """A tensor whose elements lie in flat pieces, one after the other.

    Raises:
        CheckpointError: they have more or fewer elements.
    """
    boxes, at, dtype = [], 0, ""
    for piece in pieces:
        length, dtype = math.prod(piece.shape), piece.dtype
        boxes.append(Box((at,), Reshaped(piece, (length,)), (0,), (length,)))
        at += length
    if at != math.prod(shape):
        raise CheckpointError(f"the pieces of {key} have {at} elements, {list(shape)} has {math.prod(shape)}", "", "")
    return Reshaped(Pasted(key, (at,), dtype, tuple(boxes)), shape)


def assembled(path: Path, key: str, shape: tuple[int, ...], dtype: str, parts: Iterable[tuple[Part, Stored]]) -> Stored:
    """One tensor out of its parts; what several ranks saved counts once.

    Args:
        path: of the description, for messages.

    Raises:
        CheckpointError: parts are missing, lie across each other, or differ from the description.
    """
    boxes: dict[tuple[tuple[int, ...], tuple[int, ...]], Stored] = {}
    flat: dict[tuple[tuple[int, ...], tuple[int, ...]], dict[tuple[int, int], Stored]] = {}
    for part, source in parts:
        fits = len(part.at) == len(part.shape) == len(shape) and all(
            start + width <= whole for start, width, whole in zip(part.at, part.shape, shape, strict=True)
        )
        expected = part.shape
        if part.span is not None:
            fits = fits and len(part.span) == 2 and part.span[0] <= part.span[1] <= math.prod(part.shape)
            expected = (part.span[-1] - part.span[0],) if fits else expected
        if not fits:
            raise CheckpointError(
                f"{path} is damaged",
                f"a part of tensor {key} {list(shape)} is said to be {list(part.shape)} at {list(part.at)}"
                + (f", elements {list(part.span)} of it" if part.span is not None else ""),
                "copy the folder again",
            )
        if source.shape != expected or source.dtype != dtype:
            raise CheckpointError(
                f"tensor {key} in {path.parent / part.file} has shape {list(source.shape)} of {source.dtype}",
                f"{path} says {list(expected)} of {dtype}",
                "the files are of different versions: copy the folder again",
            )
        if part.span is None:
            boxes.setdefault((part.at, part.shape), source)
        elif part.span[0] < part.span[1]:
            flat.setdefault((part.at, part.shape), {}).setdefault((part.span[0], part.span[1]), source)
    for place, ranges in flat.items():
        if place not in boxes:
            boxes[place] = _ranged(path, key, place[1], ranges)
    kept = _apart(path, key, [Box(at, source, (0,) * len(at), extent) for (at, extent), source in boxes.items()])
    held, total = sum(math.prod(box.shape) for box in kept), math.prod(shape)
    if held != total:
        raise CheckpointError(
            f"parts of tensor {key} {list(shape)} are missing in {path.parent}",
            f"{path} has {held} of {total} elements",
            "copy the files of all ranks",
        )
    if len(kept) == 1 and kept[0].shape == shape:
        return kept[0].source
    return Pasted(key, shape, dtype, tuple(kept))


def _ranged(path: Path, key: str, shape: tuple[int, ...], ranges: dict[tuple[int, int], Stored]) -> Stored:
    """A box out of its flat ranges."""
    at = 0
    for start, stop in [*sorted(ranges), (math.prod(shape), 0)]:
        if start != at:
            raise CheckpointError(
                f"parts of tensor {key} are {'missing' if start > at else 'there twice'} in {path.parent}",
                f"of a box {list(shape)}, {path} has elements up to {at}, and then from {start}",
                "copy the files of all ranks",
            )
        at = stop
    return joined(key, shape, [ranges[span] for span in sorted(ranges)])


def _apart(path: Path, key: str, boxes: list[Box]) -> list[Box]:
    """Boxes of which none lies in another: a tensor may be there whole and in pieces, too.

    Raises:
        CheckpointError: two lie across each other.
    """
    if _is_grid(boxes):
        return boxes
    kept: list[Box] = []
    for box in sorted(boxes, key=lambda box: -math.prod(box.shape)):
        shared = [_shared(box, other) for other in kept]
        if math.prod(box.shape) in shared:
            continue
        if any(shared):
            raise CheckpointError(
                f"{path} is damaged", f"parts of tensor {key} lie across each other", "copy the folder again"
            )
        kept.append(box)
    return kept


def _is_grid(boxes: list[Box]) -> bool:
    """Whether the boxes are those of a grid, which is how ranks cut tensors; quicker than to compare each with each."""
    edges: list[dict[int, int]] = [{} for _ in (boxes[0].at if boxes else ())]
    for box in boxes:
        for edge, start, width in zip(edges, box.at, box.shape, strict=True):
            if edge.setdefault(start, width) != width:
                return False
    for edge in edges:
        starts = sorted(edge)
        if any(start + edge[start] > after for start, after in zip(starts, starts[1:], strict=False)):
            return False
    return True


def _shared(box: Box, other: Box) -> int:
    """How many elements two boxes have in common."""
    count = 1
    for a, n, b, m in zip(box.at, box.shape, other.at, other.shape, strict=True):
        count *= max(0, min(a + n, b + m) - max(a, b))
    return count
