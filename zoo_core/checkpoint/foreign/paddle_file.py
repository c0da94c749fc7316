"""Files that `paddle.save` wrote, and folders of `paddle.distributed.save_state_dict`. No paddle."""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from zoo_core.checkpoint.dtypes import SAFETENSORS, item_size
from zoo_core.checkpoint.foreign.arrays import place_array
from zoo_core.checkpoint.foreign.pickled import RawArray, Record, refused, walk
from zoo_core.checkpoint.shards import read_header
from zoo_core.checkpoint.stored import Box, Cast, Pasted, Reshaped, Stored, Turned, covered
from zoo_core.errors import CheckpointError

__all__ = ["distributed_tensors", "metadata_file", "paddle_tensors"]

_log = logging.getLogger("zoo")
_TABLE, _SPLIT = "StructuredToParameterName@@", "UnpackBigParamInfor@@"
_MODULES = ("paddle.distributed.flex_checkpoint.dcp.metadata", "paddle.distributed.checkpoint.metadata")
_RECORDS = {
    f"{module}.{kind}": kind for module in _MODULES for kind in ("Metadata", "LocalTensorMetadata", "LocalTensorIndex")
}


def _load(path: Path, records: Mapping[str, str] | None = None) -> Any:
    try:
        with path.open("rb") as stream:
            return walk(stream, path, records=records)
    except OSError as error:
        raise CheckpointError(f"cannot read {path}", str(error.strerror), "") from error


def _entries(held: Mapping[Any, Any], prefix: str = "") -> Iterator[tuple[str, RawArray]]:
    """Name and array of each entry, also of dicts within: plain, or as Paddle's (name, array)."""
    for key, value in held.items():
        if key in (_TABLE, _SPLIT):
            continue
        if isinstance(value, tuple) and len(value) == 2 and isinstance(value[1], RawArray):
            value = value[1]
        if isinstance(value, RawArray):
            yield f"{prefix}{key}", value
        elif isinstance(value, dict):
            yield from _entries(value, f"{prefix}{key}.")


def paddle_tensors(folder: Path, file: str) -> dict[str, Stored]:
    """Return the tensors of a `.pdparams` file, without reading their elements.

    Raises:
        CheckpointError: it holds anything but arrays, numbers and their containers, or it is truncated.
    """
    held = _load(folder / file)
    if not isinstance(held, dict):
        raise refused(folder / file, f"a {type(held).__name__}")
    tensors = {key: place_array(key, file, folder, array) for key, array in _entries(held)}
    # before protocol 4, arrays of more than a gigabyte are saved in flat pieces
    for key, split in (held.get(_SPLIT) or {}).items():
        pieces = [tensors.pop(name, None) for name in split["slices"]]
        if None in pieces:
            lost = split["slices"][pieces.index(None)]
            raise CheckpointError(f"{folder / file} lacks {lost}, a piece of {key}", "", "copy the file again")
        tensors[key] = _joined(key, tuple(split["OriginShape"]), [piece for piece in pieces if piece is not None])
    return tensors


def _joined(key: str, shape: tuple[int, ...], pieces: list[Stored]) -> Stored:
    boxes, at = [], 0
    for piece in pieces:
        length = math.prod(piece.shape)
        boxes.append(Box((at,), Reshaped(piece, (length,)), (0,), (length,)))
        at += length
    if at != math.prod(shape):
        raise CheckpointError(f"the pieces of {key} have {at} elements, {list(shape)} has {math.prod(shape)}", "", "")
    return Reshaped(Pasted(key, (at,), pieces[0].dtype, tuple(boxes)), shape)


def metadata_file(folder: Path) -> Path | None:
    """The newest description of a distributed checkpoint in a folder; `None` where there is none."""
    numbered = [path for path in folder.glob("*.metadata") if re.fullmatch(r"\d+", path.stem)]
    return max(numbered, key=lambda path: int(path.stem), default=None)


def distributed_tensors(folder: Path, prefix: str = "model") -> dict[str, Stored]:
    """Return the model's tensors of a folder of `paddle.distributed.save_state_dict`, put together from all ranks.

    Args:
        prefix: where the state was nested, the entry that is the model; the others are left, and named in the log.

    Raises:
        CheckpointError: a file or a part of a tensor is missing, or a file holds anything but tensors.
    """
    path = metadata_file(folder)
    described = _load(path, _RECORDS) if path is not None else None
    if path is None or not isinstance(described, Record) or described.kind != "Metadata":
        raise CheckpointError(f"{path or folder} does not describe a distributed checkpoint", "", "")
    parts: dict[str, dict[Record, str]] = {}
    for index, file in described.fields["storage_metadata"].items():
        parts.setdefault(index.fields["tensor_key"], {})[index] = file
    mapping = described.fields.get("flat_mapping") or {}
    names = {key: tuple(mapping.get(key) or (key,)) for key in parts}
    nested = any(way[0] == prefix and len(way) > 1 for way in names.values())
    files: dict[str, dict[str, Stored]] = {}
    found: dict[str, Stored] = {}
    left = []
    for key, way in names.items():
        if nested and way[0] != prefix:
            left.append(key)
            continue
        name = ".".join(way[1:] if nested else way)
        found[name] = _assembled(folder, key, described.fields["state_dict_metadata"][key], parts[key], files)
    if left:
        _log.info("%s: %d entries beside %s are left (%s ...)", folder, len(left), prefix, left[0])
    return found


def _file_tensors(folder: Path, file: str) -> dict[str, Stored]:
    if not (folder / file).is_file():
        raise CheckpointError(
            f"{folder / file} is missing", f"{metadata_file(folder)} names it", "copy the files of all ranks"
        )
    if file.endswith(".safetensors"):
        return dict(read_header(folder / file)[0])
    return paddle_tensors(folder, file)


def _assembled(
    folder: Path, key: str, metadata: list[Record], parts: Mapping[Record, str], files: dict[str, dict[str, Stored]]
) -> Stored:
    """One tensor out of its ranks' parts: boxes, or flat ranges of boxes."""
    shapes = {tuple(row.fields["global_offset"]): row.fields for row in metadata}
    first = metadata[0].fields
    shape = tuple(first.get("global_shape") or ()) or _extent(metadata)
    dtype = str(first["dtype"]).rpartition(".")[2]
    boxes: dict[tuple[int, ...], Box] = {}
    flat: dict[tuple[int, ...], list[tuple[int, Stored]]] = {}
    for index, file in parts.items():
        if file not in files:
            files[file] = _file_tensors(folder, file)
        if key not in files[file]:
            raise CheckpointError(f"tensor {key} is not in {folder / file}", f"{metadata_file(folder)} says it is", "")
        source, at = _typed(files[file][key], dtype), tuple(index.fields["global_offset"])
        local = tuple(index.fields.get("local_shape") or shapes[at]["local_shape"])
        if index.fields.get("is_flattened"):
            flat.setdefault((*at, *local), []).append((index.fields["flattened_range"][0], source))
        elif source.shape != local:
            raise CheckpointError(
                f"tensor {key} in {folder / file} has shape {list(source.shape)}",
                f"{metadata_file(folder)} says {list(local)}",
                "the files are of different versions: copy the folder again",
            )
        else:
            boxes[at] = Box(at, source, (0,) * len(local), local)
    for place, ranges in flat.items():
        at, local = place[: len(shape)], place[len(shape) :]
        ordered = {start: piece for start, piece in sorted(ranges, key=lambda found: found[0])}
        boxes[at] = Box(at, _joined(key, local, list(ordered.values())), (0,) * len(local), local)
    whole = Pasted(key, shape, dtype, tuple(boxes.values()))
    if not covered(whole):
        raise CheckpointError(
            f"parts of tensor {key} {list(shape)} are missing in {folder}",
            f"there are {sum(math.prod(box.shape) for box in whole.boxes)} of {math.prod(shape)} elements",
            "copy the files of all ranks",
        )
    return boxes[next(iter(boxes))].source if len(boxes) == 1 else whole


def _extent(metadata: list[Record]) -> tuple[int, ...]:
    ends = [
        [start + width for start, width in zip(row.fields["global_offset"], row.fields["local_shape"], strict=True)]
        for row in metadata
    ]
    return tuple(max(column) for column in zip(*ends, strict=True))


def _typed(tensor: Stored, dtype: str) -> Stored:
    """The tensor under the element type that the description says, where the file only has its bits."""
    if dtype not in SAFETENSORS or tensor.dtype == dtype or item_size(dtype) != item_size(tensor.dtype):
        return tensor
    return tensor if isinstance(tensor, Reshaped | Turned | Cast) else replace(tensor, dtype=dtype)
