"""Turn one folder of weights into another, block by block: no tensor larger than a buffer is ever whole in memory."""

from __future__ import annotations

import logging
import math
import os
import queue
import shutil
import struct
import threading
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from zoo_core._atomic import temporary_name
from zoo_core.checkpoint.disk import Disk, as_json
from zoo_core.checkpoint.dtypes import Array, item_size, storage
from zoo_core.checkpoint.folders import identity
from zoo_core.checkpoint.foreign import is_head
from zoo_core.checkpoint.hf import published_places
from zoo_core.checkpoint.manifest import sealed
from zoo_core.checkpoint.names import FORMAT, MANIFEST, STATE
from zoo_core.checkpoint.places import Place, stored_shape, whole_place
from zoo_core.checkpoint.reader import Reader
from zoo_core.checkpoint.shards import DEFAULT_SHARD_SIZE, Entry, ShardFile, index_json, plan_files
from zoo_core.checkpoint.stored import Box, Cast, Pasted, Stored, Turned, covered
from zoo_core.checkpoint.writer import Extras, Sums, measured, what_to_do
from zoo_core.config import ModelConfig
from zoo_core.errors import CheckpointError
from zoo_core.layout import Rule

__all__ = ["Converted", "To", "convert_folder", "fitting_size"]

_log = logging.getLogger("zoo")

To = Literal["hf", "zoo", "pdparams"]

_BUFFER = 1 << 22
_WRITE = 1 << 18
"""Bytes of a system call: what fits a processor's cache is written several times quicker than megabytes at once."""
Piece = bytes | Array

_WIDTH = {"float16": 2, "bfloat16": 2, "float32": 3, "float64": 4}


@dataclass(frozen=True)
class Converted:
    """What a conversion wrote.

    Args:
        what: the kind of the source, in words.
        tensors: how many.
        size: bytes of their elements.
        files: names of the weight files.
        left: tensors of the source that are not part of the model.
    """

    what: str
    tensors: int
    size: int
    files: tuple[str, ...]
    left: tuple[str, ...]


def _boxes(reader: Reader, rule: Rule, place: Place) -> Iterator[Box]:
    """What of a parameter lies in a tensor to be written, in the orientation of its file."""
    dim, ndim = rule.dim or 0, len(rule.shape)
    for held, tensor in reader.stored(rule.name):
        first, last = max(held.start, place.start), min(held.stop, place.stop)
        if first >= last:
            continue
        at, start, extent = [0] * ndim, [0] * ndim, list(rule.shape)
        if ndim:
            at[dim], start[dim] = first - place.start + place.offset, first - held.start + held.offset
            extent[dim] = last - first
        step = -1 if place.transposed else 1
        source = Turned(tensor) if held.transposed != place.transposed else tensor
        yield Box(tuple(at[::step]), source, tuple(start[::step]), tuple(extent[::step]))


def _places(table: Mapping[str, Rule], to: To) -> Iterator[tuple[Rule, Place]]:
    """Where every parameter is to lie."""
    if to == "hf":
        yield from published_places(table)
        return
    for name, rule in table.items():
        if rule.single == name:
            yield rule, whole_place(rule, name, transposed=to == "pdparams" and is_head(rule))


def _targets(reader: Reader, table: Mapping[str, Rule], to: To, dtype: str | None) -> dict[str, Stored]:
    """Every tensor to be written, as a view of the source."""
    boxes: dict[str, list[Box]] = {}
    shapes: dict[str, tuple[int, ...]] = {}
    kept: set[str] = set()
    for rule, place in _places(table, to):
        boxes.setdefault(place.key, []).extend(_boxes(reader, rule, place))
        shapes[place.key] = stored_shape(place)
        if rule.buffer:
            kept.add(place.key)
    return {key: _target(key, shapes[key], held, None if key in kept else dtype) for key, held in boxes.items()}


def _target(key: str, shape: tuple[int, ...], boxes: list[Box], dtype: str | None) -> Stored:
    kinds = {box.source.dtype for box in boxes}
    kind = dtype or max(kinds, key=lambda found: (_WIDTH.get(found, 0), found))
    if dtype is None and kinds == {"float16", "bfloat16"}:
        kind = "float32"
    if dtype and not all(found in _WIDTH for found in kinds):
        kind = max(kinds)
    boxes = [Box(b.at, b.source if b.source.dtype == kind else Cast(b.source, kind), b.start, b.shape) for b in boxes]
    whole = Pasted(key, shape, kind, tuple(boxes))
    if not covered(whole):
        raise CheckpointError(f"tensor {key} {list(shape)} cannot be put together", "parts of it are not in the table")
    return boxes[0].source if len(boxes) == 1 and boxes[0].source.shape == shape else whole


def fitting_size(sizes: Iterable[int], files: int) -> int:
    """Return the smallest shard size at which tensors of these sizes, in order, fit `files` files."""
    listed = list(sizes)

    def needed(limit: int) -> int:
        count, filled = 0, limit + 1
        for size in listed:
            if filled + size > limit:
                count, filled = count + 1, 0
            filled += size
        return count

    low, high = max([*listed, 1]), max(sum(listed), 1)
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if needed(middle) <= files else (middle + 1, high)
    return low


def convert_folder(
    reader: Reader,
    folder: str | Path,
    to: To,
    *,
    table: Mapping[str, Rule],
    config: ModelConfig | None,
    dtype: str | None = None,
    max_shard_size: int | None = None,
    split_num: int | None = None,
    drop_extra: bool = False,
    files: Extras | None = None,
    disk: Disk | None = None,
    progress: Callable[[int], None] | None = None,
) -> Converted:
    """Write the weights of a folder in another form; the new folder appears whole or not at all.

    Args:
        reader: over the source.
        folder: must not exist, or be empty.
        to: Hugging Face's safetensors, a zoo checkpoint of weights alone, or Paddle's `.pdparams`.
        table: every parameter of the model; empty to take the tensors as they are.
        config: written as `config.json`; `None` only with an empty table.
        dtype: element type of the weights to write (buffers keep theirs); by default each tensor's own.
        max_shard_size: bytes of a file; by default 5 GB.
        split_num: number of files, instead of their size; then there is an index even of one file.
        drop_extra: leave out tensors that are not part of the model, which are refused otherwise.
        files: small files to add: the tokenizer's.
        progress: called with the bytes of each block written.

    Raises:
        CheckpointError: the folder is in use, the disk is full, tensors are missing or left over; nothing is left.
    """
    folder, disk = Path(folder).absolute(), disk or Disk()
    check_free(folder)
    left = reader.check() if table else ()
    if left and not drop_extra:
        shown = ", ".join(left[:8]) + (f", and {len(left) - 8} more" if len(left) > 8 else "")
        raise CheckpointError(
            f"{len(left)} tensors of {reader.folder} are not part of this model",
            shown,
            "give the model they belong to, or leave them out with --drop_extra",
        )
    targets = _targets(reader, table, to, dtype) if table else _as_they_are(reader, dtype)
    entries = [Entry("model", key, tensor.shape, tensor.dtype) for key, tensor in targets.items()]
    limit = fitting_size([e.size for e in entries], split_num) if split_num else max_shard_size or DEFAULT_SHARD_SIZE
    metadata = {"format": ("pt" if table else "np") if to == "hf" else "zoo"}
    plan = list(plan_files(entries, limit, metadata, bare_single=to != "zoo")["model"])
    size = sum(entry.size for entry in entries)
    beside = temporary_name(folder)
    try:
        disk.folder(folder.parent)
        free = shutil.disk_usage(folder.parent).free
        if free < size:
            why = f"it takes {size / 1e6:,.1f} MB, {folder.parent} has {free / 1e6:,.1f} MB free"
            raise CheckpointError("the disk is too full", why, "free space or choose another folder")
        disk.folder(beside)
        names = [file.name for file in plan]
        if to == "pdparams":
            names = [name.replace("model", "model_state", 1).replace(".safetensors", ".pdparams") for name in names]
        sums = _write_all(beside, dict(zip(names, plan, strict=True)), to, targets, reader, disk, progress)
        indexed = len(plan) > 1 or split_num is not None
        small = _small_files(to, plan, names, sums, config, _kind(targets), size, indexed, files or {})
        for name, content in small.items():
            disk.write(beside / name, content)
        disk.sync_folder(beside)
        check_free(folder)
        disk.rename(beside, folder)
        disk.sync_folder(folder.parent)
    except OSError as error:
        where = f" ({error.filename})" if error.filename else ""
        why = f"{error.strerror or error}{where}"
        raise CheckpointError(f"could not write {folder}", why, what_to_do(error)) from error
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    return Converted(reader.what, len(targets), size, tuple(names), tuple(left))


def _write_all(
    beside: Path,
    files: Mapping[str, ShardFile],
    to: To,
    targets: Mapping[str, Stored],
    reader: Reader,
    disk: Disk,
    progress: Callable[[int], None] | None,
) -> dict[str, dict[str, int]]:
    """Write the files one after the other, each synced while the next is written; returns size and checksum of each."""
    buffers, outs = _Buffers(), {}
    reader.keep_strips()
    content = _pickle if to == "pdparams" else _safetensors
    try:
        for name, file in files.items():
            outs[name] = out = _Out(beside / name, disk, to == "zoo", buffers, progress)
            try:
                for piece in content(file, targets, reader, buffers):
                    out.add(piece)
            finally:
                out.end()
    finally:
        for out in outs.values():
            out.join()
    return {name: out.facts() for name, out in outs.items()}


def check_free(folder: Path) -> None:
    """Refuse a folder that holds something.

    Raises:
        CheckpointError: it does, or it is a file.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise CheckpointError(
            f"{folder} already exists", "nothing is overwritten", "choose another folder, or remove it"
        )


def _as_they_are(reader: Reader, dtype: str | None) -> dict[str, Stored]:
    tensors = reader.tensors
    return {key: _target(key, t.shape, [_itself(t)], dtype) for key, t in tensors.items()}


def _itself(tensor: Stored) -> Box:
    origin = (0,) * len(tensor.shape)
    return Box(origin, tensor, origin, tensor.shape)


def _kind(targets: Mapping[str, Stored]) -> str:
    """The element type of most elements."""
    counts: dict[str, int] = {}
    for tensor in targets.values():
        counts[tensor.dtype] = counts.get(tensor.dtype, 0) + math.prod(tensor.shape)
    return max(counts, key=lambda kind: counts[kind])


def _small_files(
    to: To,
    plan: list[ShardFile],
    names: list[str],
    sums: Mapping[str, Mapping[str, int]],
    config: ModelConfig | None,
    dtype: str,
    size: int,
    indexed: bool,
    files: Extras,
) -> dict[str, bytes]:
    """The files that are written last: configuration, index, tokenizer, and for zoo the state and the manifest."""
    small = {name: content.read_bytes() if isinstance(content, Path) else content for name, content in files.items()}
    if config is not None:
        small["config.json"] = as_json(config.replace(torch_dtype=dtype).to_hf())
    if to == "pdparams" and indexed:
        weight_map = {t.key: name for name, file in zip(names, plan, strict=True) for t in file.tensors}
        index = {"metadata": {"total_size": size}, "weight_map": dict(sorted(weight_map.items()))}
        small["model_state.pdparams.index.json"] = as_json(index)
    elif to == "zoo" or (indexed and to == "hf"):
        small["model.safetensors.index.json"] = index_json(plan)
    if to == "zoo" and config is not None:
        parameters = sum(math.prod(tensor.shape) for file in plan for tensor in file.tensors)
        state = {"format": FORMAT, "step": 0, "model": identity(config, parameters), "layout": {}, "remarks": {}}
        small[STATE] = as_json(state)
        listed: Sums = {name: dict(facts) for name, facts in sums.items()}
        listed |= {name: measured(content) for name, content in small.items()}
        small[MANIFEST] = sealed(0, time.time(), listed)
    return small


class _Buffers:
    """Three blocks of memory in turn: one is filled while one is written."""

    def __init__(self) -> None:
        self._free: queue.Queue[Array] = queue.Queue()
        for _ in range(3):
            self._free.put(np.empty(_BUFFER, np.uint8))

    def take(self, length: int, dtype: str) -> Array:
        """A block of elements, when one is free."""
        return self._free.get()[: length * item_size(dtype)].view(storage(dtype))

    def give_back(self, block: Array) -> None:
        """Let a block be used again."""
        whole = block
        while isinstance(whole.base, np.ndarray):
            whole = whole.base
        self._free.put(whole)


def _blocks(reader: Reader, tensor: Stored, buffers: _Buffers) -> Iterator[Array]:
    """The elements of a tensor in order, some whole rows at a time where rows are shorter than a block."""
    total, most = math.prod(tensor.shape), _BUFFER // item_size(tensor.dtype)
    row = max(1, math.prod(tensor.shape[1:]))
    step = most // row * row or most
    for start in range(0, total, step):
        block = buffers.take(min(step, total - start), tensor.dtype)
        reader.fill(tensor, np.array([[start, 0, len(block)]], np.int64), block)
        yield block


class _Out:
    """A file written at its end by a thread of its own, so that reading goes on meanwhile."""

    def __init__(
        self, path: Path, disk: Disk, sums: bool, buffers: _Buffers, progress: Callable[[int], None] | None
    ) -> None:
        self._path, self._disk, self._buffers, self._progress = path, disk, buffers, progress
        self._size, self._sum = 0, 0 if sums else None
        self._failure: BaseException | None = None
        self._queue: queue.Queue[bytes | Array | None] = queue.Queue()
        disk.create(path, b"", 0)
        self._handle = os.open(path, os.O_WRONLY)
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def _work(self) -> None:
        try:
            while (content := self._queue.get()) is not None:
                try:
                    if self._failure is None:
                        self._write(content)
                except BaseException as error:
                    self._failure = error
                finally:
                    if not isinstance(content, bytes):
                        self._buffers.give_back(content)
            if self._failure is None:
                self._disk.sync(self._handle, self._path)
        except BaseException as error:
            self._failure = error
        finally:
            os.close(self._handle)

    def _write(self, content: bytes | Array) -> None:
        view = memoryview(content) if isinstance(content, bytes) else content.view(np.uint8).data
        for start in range(0, len(view), _WRITE):
            part = view[start : start + _WRITE]
            self._disk.write_at(self._handle, self._path, part, self._size)
            self._size += len(part)
            if self._sum is not None:
                self._sum = zlib.crc32(part, self._sum)
        if self._progress is not None and not isinstance(content, bytes):
            self._progress(len(view))

    def add(self, content: bytes | Array) -> None:
        """Append bytes, or a block that is given back when it is written.

        Raises:
            OSError: an earlier write failed.
        """
        self._queue.put(content)
        if self._failure is not None:
            raise self._failure

    def join(self) -> None:
        """Wait until the file is on the disk, or failed."""
        self._thread.join()

    def end(self) -> None:
        """Nothing more is added; the thread syncs and closes the file."""
        self._queue.put(None)

    def facts(self) -> dict[str, int]:
        """Size and checksum of the file, which is on the disk.

        Raises:
            OSError: a write failed.
        """
        self.join()
        if self._failure is not None:
            raise self._failure
        return {"size": self._size, "crc32": self._sum or 0}


def _safetensors(file: ShardFile, targets: Mapping[str, Stored], reader: Reader, buffers: _Buffers) -> Iterator[Piece]:
    """The bytes of a safetensors file."""
    yield file.header
    for located in file.tensors:
        yield from _blocks(reader, targets[located.key], buffers)


_KINDS = {"float64": "f8", "float32": "f4", "float16": "f2", "bfloat16": "u2", "int64": "i8", "int32": "i4",
          "int16": "i2", "int8": "i1", "uint8": "u1", "bool": "b1"}  # fmt: skip


def _text(text: str) -> bytes:
    raw = text.encode()
    return b"X" + struct.pack("<I", len(raw)) + raw


def _array_head(key: str, shape: tuple[int, ...], dtype: str) -> bytes:
    """What precedes the elements of an entry of a pickled dict: its key, and an array up to its bytes (protocol 4).

    `numpy.core` is the name that every numpy knows; `numpy._core` came with numpy 2.
    """
    if dtype not in _KINDS:
        raise CheckpointError(f"tensor {key} is {dtype}, which .pdparams files do not have", "", "give --dtype float32")
    order = b"X\x01\0\0\0<" if _KINDS[dtype] not in ("i1", "u1", "b1") else b"X\x01\0\0\0|"
    sizes = b"(" + b"".join(b"\x8a\x08" + struct.pack("<q", width) for width in shape) + b"t"
    kind = (
        b"cnumpy\ndtype\n"
        + _text(_KINDS[dtype])
        + b"\x89\x88\x87R(K\x03"
        + order
        + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\0tb"
    )
    array = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\0\x85C\x01b\x87R"
    length = math.prod(shape) * item_size(dtype)
    return _text(key) + array + b"(K\x01" + sizes + kind + b"\x89\x8e" + struct.pack("<Q", length)


def _pickle(file: ShardFile, targets: Mapping[str, Stored], reader: Reader, buffers: _Buffers) -> Iterator[Piece]:
    """The bytes of a pickled dict of arrays, as `paddle.save` writes it and `paddle.load` reads it."""
    yield b"\x80\x04}"
    for located in file.tensors:
        tensor = targets[located.key]
        yield _array_head(located.key, tensor.shape, tensor.dtype)
        yield from _blocks(reader, tensor, buffers)
        yield b"tbs"
    yield b"."
