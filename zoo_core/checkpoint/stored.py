"""Tensors as they lie in files: contiguous or strided, in pieces over many files, turned, of another element type.

Each has `shape`, `dtype`, `key` and `file` (for messages), and `fill` reads runs of its elements, in C order, without
reading the rest. So a folder of another framework looks to the reader as one of zoo's own does.
"""

from __future__ import annotations

import codecs
import math
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from zoo_core.checkpoint.disk import read_exactly
from zoo_core.checkpoint.dtypes import Array, convert, item_size, storage
from zoo_core.checkpoint.shards import Located
from zoo_core.errors import CheckpointError

__all__ = [
    "Box",
    "Cast",
    "Encoded",
    "Files",
    "Made",
    "Pasted",
    "Reshaped",
    "Stored",
    "Strided",
    "Turned",
    "covered",
    "fill",
    "turn",
]

_WINDOW = 1 << 23
_SHORT = 1 << 9
"""Bytes of a run below which to read the gaps between runs too is quicker than a system call for each."""
_STRIP = 1 << 28
_TILE = 256


class Files:
    """The open files of a folder.

    Args:
        folder: names of files are relative to it.

    Attributes:
        whole_strips: of a matrix that is turned, read as much as fits memory and keep it for the next rows; for who
            reads all rows in order. Else only the columns asked for are read.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.whole_strips = False
        self._handles: dict[str, int] = {}
        self._spare: list[Array] = []
        self._strip: tuple[Stored, int, int, Array] | None = None

    def close(self) -> None:
        """Close them, and forget what was kept."""
        self._spare, self._strip = [], None
        while self._handles:
            os.close(self._handles.popitem()[1])

    @contextmanager
    def borrowed(self, shape: tuple[int, ...], dtype: str) -> Iterator[Array]:
        """Give memory that is used again and again: fresh pages cost as much as reading them full."""
        size = math.prod(shape) * item_size(dtype)
        buffer = self._spare.pop() if self._spare else np.empty(0, np.uint8)
        if buffer.size < size:
            buffer = np.empty(size, np.uint8)
        try:
            yield buffer[:size].view(storage(dtype)).reshape(shape)
        finally:
            self._spare.append(buffer)

    def strip(self, tensor: Stored, start: int, stop: int) -> Array:
        """Columns [start, stop) of a matrix; with `whole_strips` kept until another is asked for."""
        if self._strip is not None:
            held, first, last, block = self._strip
            if held is tensor and (first, last) == (start, stop):
                return block
        shape, size = (tensor.shape[0], stop - start), item_size(tensor.dtype)
        needed = math.prod(shape) * size
        memory = np.empty(0, np.uint8) if self._strip is None else self._strip[3].base
        self._strip = None
        if not isinstance(memory, np.ndarray) or memory.dtype != np.uint8 or memory.size < needed:
            memory = np.empty(needed, np.uint8)
        block = memory[:needed].view(storage(tensor.dtype)).reshape(shape)
        runs = _box_runs(shape, Box((0, 0), tensor, (0, start), shape))
        fill(self, tensor, runs[:, [1, 0, 2]], block)
        if self.whole_strips:
            self._strip = (tensor, start, stop, block)
        return block

    def read(self, file: str, view: memoryview, offset: int) -> None:
        """Fill `view` from byte `offset` of a file.

        Raises:
            CheckpointError: the file ends before.
        """
        if file not in self._handles:
            self._handles[file] = os.open(self.folder / file, os.O_RDONLY)
        read_exactly(self._handles[file], self.folder / file, view, offset)


@dataclass(frozen=True)
class Strided:
    """Elements at regular distances in a file: a transposed view that torch saved, an array in Fortran order.

    Args:
        offset: byte of the first element.
        strides: distance of neighbours along each dim, in elements.
    """

    key: str
    file: str
    offset: int
    shape: tuple[int, ...]
    dtype: str
    strides: tuple[int, ...]


@dataclass(frozen=True)
class Encoded:
    """A contiguous array whose bytes a pickle of protocol 2 holds as text: latin-1 characters in UTF-8.

    Args:
        length: of the text, in bytes.
    """

    key: str
    file: str
    offset: int
    length: int
    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True)
class Box:
    """`shape` elements from `start` of `source` lie from `at` on in the tensor that the box is part of."""

    at: tuple[int, ...]
    source: Stored
    start: tuple[int, ...]
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Pasted:
    """A tensor in boxes out of others, all of its element type; what no box covers is zero."""

    key: str
    shape: tuple[int, ...]
    dtype: str
    boxes: tuple[Box, ...]

    @property
    def file(self) -> str:
        """The first file it lies in."""
        return self.boxes[0].source.file if self.boxes else ""


@dataclass(frozen=True)
class _View:
    """Another tensor seen otherwise."""

    source: Stored

    @property
    def key(self) -> str:
        return self.source.key

    @property
    def file(self) -> str:
        return self.source.file


@dataclass(frozen=True)
class Reshaped(_View):
    """The same elements in the same order under another shape."""

    shape: tuple[int, ...]

    @property
    def dtype(self) -> str:
        return self.source.dtype


@dataclass(frozen=True)
class Turned(_View):
    """The transpose of a matrix."""

    @property
    def dtype(self) -> str:
        return self.source.dtype

    @property
    def shape(self) -> tuple[int, ...]:
        return self.source.shape[::-1]


@dataclass(frozen=True)
class Cast(_View):
    """The values of a tensor in another element type."""

    dtype: str

    @property
    def shape(self) -> tuple[int, ...]:
        return self.source.shape


@dataclass(frozen=True)
class Made:
    """A tensor that is computed from the files at once (block-quantised weights).

    Args:
        make: returns the whole array.
    """

    key: str
    file: str
    shape: tuple[int, ...]
    dtype: str
    make: Callable[[], Array]


Stored = Located | Strided | Encoded | Pasted | Reshaped | Turned | Cast | Made


def covered(tensor: Pasted) -> bool:
    """Whether the boxes, which do not overlap, cover the whole tensor."""
    return sum(math.prod(box.shape) for box in tensor.boxes) == math.prod(tensor.shape)


def fill(files: Files, tensor: Stored, table: Array, target: Array) -> None:
    """Read runs of a tensor.

    Args:
        table: int64 [R, 3]: offset in the tensor (C order), offset in `target`, length; in elements.
        target: contiguous, in the tensor's element type.

    Raises:
        CheckpointError: a file ends before.
    """
    flat = target.reshape(-1)
    if flat.size == 0 or len(table) == 0:
        return
    if isinstance(tensor, Located):
        _fill_located(files, tensor, table, flat)
    elif isinstance(tensor, Strided):
        _copy(_strided(files, tensor), table, flat)
    elif isinstance(tensor, Encoded):
        _fill_encoded(files, tensor, table, flat)
    elif isinstance(tensor, Pasted):
        for box in tensor.boxes:
            fill(files, box.source, _meet(table, _box_runs(tensor.shape, box)), flat)
    elif isinstance(tensor, Reshaped):
        fill(files, tensor.source, table, flat)
    elif isinstance(tensor, Turned):
        _fill_turned(files, tensor, table, flat)
    elif isinstance(tensor, Cast):
        with files.borrowed(flat.shape, tensor.source.dtype) as raw:
            fill(files, tensor.source, table, raw)
            for start, length in table[:, 1:].tolist():
                part = slice(start, start + length)
                convert(raw[part], tensor.source.dtype, flat[part], tensor.dtype)
    else:
        _copy(tensor.make(), table, flat)


def turn(source: Array, target: Array) -> None:
    """Fill a matrix with the transpose of another, tile by tile through memory whose rows do not collide in a cache."""
    tile = np.empty((_TILE, _TILE + 8), source.dtype)
    for row in range(0, target.shape[0], _TILE):
        for column in range(0, target.shape[1], _TILE):
            part = source[column : column + _TILE, row : row + _TILE]
            near = tile[: part.shape[0], : part.shape[1]]
            near[...] = part
            target[row : row + _TILE, column : column + _TILE] = near.T


def _copy(array: Array, table: Array, flat: Array) -> None:
    values = array.flat
    for stored, local, length in table.tolist():
        flat[local : local + length] = values[stored : stored + length]


def _fill_located(files: Files, tensor: Located, table: Array, flat: Array) -> None:
    size = item_size(tensor.dtype)
    if len(table) < 64 or int(table[:, 2].sum()) * size >= _SHORT * len(table):
        view = flat.view(np.uint8).data
        for stored, local, length in (table * size).tolist():
            files.read(tensor.file, view[local : local + length], tensor.offset + stored)
        return
    table = table[np.argsort(table[:, 0], kind="stable")]
    first = 0
    while first < len(table):
        begin = int(table[first, 0])
        last = int(np.searchsorted(table[:, 0], begin + _WINDOW // size))
        part = table[first : max(last, first + 1)]
        first += len(part)
        window = np.empty(int((part[:, 0] + part[:, 2]).max()) - begin, flat.dtype)
        files.read(tensor.file, window.view(np.uint8).data, tensor.offset + begin * size)
        stored, local = _elements(part)
        flat[local] = window[stored - begin]


def _elements(table: Array) -> tuple[Array, Array]:
    """The offsets of every single element of the runs, in the tensor and in the target."""
    lengths = table[:, 2]
    within = np.arange(int(lengths.sum())) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    return np.repeat(table[:, 0], lengths) + within, np.repeat(table[:, 1], lengths) + within


def _strided(files: Files, tensor: Strided) -> Array:
    span = 1 + sum((width - 1) * step for width, step in zip(tensor.shape, tensor.strides, strict=True))
    raw = np.empty(span, storage(tensor.dtype))
    files.read(tensor.file, raw.view(np.uint8).data, tensor.offset)
    steps = tuple(step * raw.itemsize for step in tensor.strides)
    return np.lib.stride_tricks.as_strided(raw, tensor.shape, steps, writeable=False)


def _fill_encoded(files: Files, tensor: Encoded, table: Array, flat: Array) -> None:
    decoder = codecs.getincrementaldecoder("utf-8")()
    size, done, rest = item_size(tensor.dtype), 0, b""
    for start in range(0, tensor.length, _WINDOW):
        raw = bytearray(min(_WINDOW, tensor.length - start))
        files.read(tensor.file, memoryview(raw), tensor.offset + start)
        rest += decoder.decode(bytes(raw)).encode("latin-1")
        whole = len(rest) // size
        part = np.frombuffer(rest, flat.dtype, whole)
        rest = rest[whole * size :]
        for stored, local, length in _meet(table, np.array([[done, 0, whole]], np.int64)).tolist():
            flat[local : local + length] = part[stored : stored + length]
        done += whole
    if done < math.prod(tensor.shape):
        raise CheckpointError(f"{files.folder / tensor.file} holds too few bytes of {tensor.key}", "", "")


def _fill_turned(files: Files, tensor: Turned, table: Array, flat: Array) -> None:
    rows, columns = tensor.shape
    size = item_size(tensor.dtype)
    first, last = int(table[:, 0].min()) // columns, -(-int((table[:, 0] + table[:, 2]).max()) // columns)
    step = max(1, _STRIP // (columns * size))
    for grid in range(first - first % step, last, step):
        start, stop = (
            (grid, min(grid + step, rows)) if files.whole_strips else (max(grid, first), min(grid + step, last))
        )
        block = files.strip(tensor.source, start, stop)
        begin, end = max(start, first), min(stop, last)
        height = end - begin
        held = _meet(table, np.array([[begin * columns, 0, height * columns]], np.int64))
        if len(held) == 1 and held[0, 2] == height * columns:
            at = int(held[0, 1])
            turn(block[:, begin - start : end - start], flat[at : at + height * columns].reshape(height, columns))
            continue
        turned = np.empty((height, columns), flat.dtype)
        turn(block[:, begin - start : end - start], turned)
        _copy(turned, held, flat)


def _box_runs(whole: tuple[int, ...], box: Box) -> Array:
    """The runs of a box: offset in the whole, offset in its source, length; ordered by the first."""
    return _geometry(whole, box.at, box.source.shape, box.start, box.shape)


@lru_cache(maxsize=1024)
def _geometry(
    whole: Sequence[int], at: Sequence[int], source: Sequence[int], start: Sequence[int], shape: Sequence[int]
) -> Array:
    swaps: list[Array] = []
    inner = len(shape)
    while inner > 0 and (inner == len(shape) or shape[inner] == whole[inner] == source[inner]):
        inner -= 1
    length = math.prod(shape[inner:])
    for wide, begin in ((whole, at), (source, start)):
        offsets = np.zeros(1, np.int64)
        for dim, width in enumerate(shape):
            steps = np.arange(width if dim < inner else 1, dtype=np.int64) + begin[dim]
            offsets = (offsets[:, None] * wide[dim] + steps).reshape(-1)
        swaps.append(offsets)
    runs = np.stack([*swaps, np.full(len(swaps[0]), length, np.int64)], axis=1)
    runs.setflags(write=False)
    return runs


def _meet(table: Array, held: Array) -> Array:
    """Of the wanted runs, what `held` has.

    Args:
        table: wanted: offset in the tensor, offset in the target, length.
        held: offset in the tensor, offset in its source, length; ordered by the first, none overlapping.

    Returns:
        Offset in the source, offset in the target, length.
    """
    begin, end = table[:, 0], table[:, 0] + table[:, 2]
    first = np.searchsorted(held[:, 0] + held[:, 2], begin, side="right")
    count = np.maximum(np.searchsorted(held[:, 0], end, side="left") - first, 0)
    wanted = np.repeat(np.arange(len(table)), count)
    found = np.arange(len(wanted)) - np.repeat(np.cumsum(count) - count, count) + np.repeat(first, count)
    start = np.maximum(begin[wanted], held[found, 0])
    stop = np.minimum(end[wanted], held[found, 0] + held[found, 2])
    moved = [start - held[found, 0] + held[found, 1], start - begin[wanted] + table[wanted, 1], stop - start]
    return np.stack(moved, axis=1)
