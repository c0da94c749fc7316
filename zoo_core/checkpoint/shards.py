"""The files of a checkpoint: which tensor lies in which file at which byte, and the safetensors headers.

The plan is a pure function of names, shapes and element types, so every rank knows it without being told.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zoo_core.checkpoint.dtypes import SAFETENSORS, item_size, known_dtype
from zoo_core.errors import CheckpointError

__all__ = ["DEFAULT_SHARD_SIZE", "Entry", "Located", "ShardFile", "index_json", "plan_files", "read_header"]

DEFAULT_SHARD_SIZE = 5 * 10**9
_MOST_HEADER = 100 * 10**6


@dataclass(frozen=True)
class Entry:
    """A tensor to be stored: the file group it belongs to, its name in the files, its shape and element type."""

    group: str
    key: str
    shape: tuple[int, ...]
    dtype: str

    @property
    def size(self) -> int:
        """Bytes of the tensor."""
        return math.prod(self.shape) * item_size(self.dtype)


@dataclass(frozen=True)
class Located:
    """A stored tensor and the byte of its file at which its elements begin."""

    key: str
    file: str
    offset: int
    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True)
class ShardFile:
    """One safetensors file: `header` (length prefix included), then the tensors end to end."""

    name: str
    header: bytes
    tensors: tuple[Located, ...]
    size: int


def plan_files(
    entries: Iterable[Entry],
    max_shard_size: int = DEFAULT_SHARD_SIZE,
    metadata: Mapping[str, str] | None = None,
    bare_single: bool = False,
) -> dict[str, tuple[ShardFile, ...]]:
    """Lay `entries` out in files, in order, a new file where `max_shard_size` bytes would be exceeded.

    Args:
        bare_single: a group that fits one file is called `model.safetensors`, as Hugging Face has it, instead of
            `model-00001-of-00001.safetensors`.

    Returns:
        Group -> its files.

    Raises:
        CheckpointError: two entries of a group have one name.
    """
    groups: dict[str, list[list[Entry]]] = {}
    filled: dict[str, int] = {}
    seen: set[tuple[str, str]] = set()
    for entry in entries:
        if (entry.group, entry.key) in seen:
            raise CheckpointError(f"two tensors are called {entry.key}", f"both in the {entry.group} files", "")
        seen.add((entry.group, entry.key))
        shards = groups.setdefault(entry.group, [])
        if not shards or filled[entry.group] + entry.size > max_shard_size:
            shards.append([])
            filled[entry.group] = 0
        shards[-1].append(entry)
        filled[entry.group] += entry.size
    planned = {}
    for group, shards in groups.items():
        names = [f"{group}-{k:05d}-of-{len(shards):05d}.safetensors" for k in range(1, len(shards) + 1)]
        if bare_single and len(shards) == 1:
            names = [f"{group}.safetensors"]
        planned[group] = tuple(_shard(name, held, metadata) for name, held in zip(names, shards, strict=True))
    return planned


def _shard(name: str, entries: list[Entry], metadata: Mapping[str, str] | None) -> ShardFile:
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    # Wide elements first keeps every tensor aligned to its own element size.
    ordered = sorted(entries, key=lambda entry: -item_size(entry.dtype))
    end = 0
    for entry in ordered:
        header[entry.key] = {
            "dtype": SAFETENSORS[entry.dtype],
            "shape": list(entry.shape),
            "data_offsets": [end, end + entry.size],
        }
        end += entry.size
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    head = len(text).to_bytes(8, "little") + text
    at, tensors = len(head), []
    for entry in ordered:
        tensors.append(Located(entry.key, name, at, entry.shape, entry.dtype))
        at += entry.size
    return ShardFile(name, head, tuple(tensors), at)


def index_json(files: Iterable[ShardFile]) -> bytes:
    """The `*.safetensors.index.json` of a group: which file holds which tensor, and the bytes of all tensors."""
    listed = list(files)
    total = sum(file.size - len(file.header) for file in listed)
    weight_map = {tensor.key: file.name for file in listed for tensor in file.tensors}
    index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
    return (json.dumps(index, indent=2) + "\n").encode()


def _foreign(path: Path, why: str) -> CheckpointError:
    return CheckpointError(f"{path} is not a whole safetensors file", why, "copy or download the file again")


def read_header(path: Path) -> tuple[dict[str, Located], dict[str, str]]:
    """Return the tensors of a safetensors file by name, and its metadata, without reading any tensor.

    Raises:
        CheckpointError: the file is missing, truncated, too long, or not safetensors; names it and the bytes.
    """
    try:
        with path.open("rb") as stream:
            size = os.fstat(stream.fileno()).st_size
            prefix = stream.read(8)
            length = int.from_bytes(prefix, "little")
            if len(prefix) < 8 or length > min(_MOST_HEADER, size - 8):
                raise _foreign(path, f"its {size} bytes cannot hold the header it announces, {length} bytes")
            text = stream.read(length)
    except OSError as error:
        raise CheckpointError(f"cannot read {path}", str(error.strerror), "") from error
    try:
        header = json.loads(text)
        metadata = {str(k): str(v) for k, v in header.pop("__metadata__", {}).items()}
        tensors = {key: _located(path, 8 + length, str(key), row) for key, row in header.items()}
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise _foreign(path, f"its header is not what safetensors writes: {error}") from error
    end = 8 + length
    for tensor in sorted(tensors.values(), key=lambda found: (found.offset, math.prod(found.shape))):
        if tensor.offset != end:
            raise _foreign(path, f"tensor {tensor.key} begins at byte {tensor.offset}, the one before ends at {end}")
        end += math.prod(tensor.shape) * item_size(tensor.dtype)
    if end != size:
        raise _foreign(path, f"its header describes {end} bytes, the file has {size}")
    return tensors, metadata


def _located(path: Path, base: int, key: str, row: Mapping[str, Any]) -> Located:
    dtype = known_dtype(row["dtype"])
    if not dtype:
        raise CheckpointError(
            f"{path}: tensor {key} has an element type zoo does not read, {row['dtype']}",
            "",
            "known: " + ", ".join(SAFETENSORS.values()),
        )
    shape = tuple(int(width) for width in row["shape"])
    start, stop = row["data_offsets"]
    if stop - start != math.prod(shape) * item_size(dtype) or min(shape, default=0) < 0:
        raise ValueError(f"{key} of shape {shape} in {dtype} does not have {stop - start} bytes")
    return Located(key, path.name, base + start, shape, dtype)
