"""Files that `paddle.save` wrote. No paddle."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from zoo_core.checkpoint.foreign.arrays import place_array
from zoo_core.checkpoint.foreign.parts import joined
from zoo_core.checkpoint.foreign.pickled import RawArray, refused, walk
from zoo_core.checkpoint.stored import Stored
from zoo_core.errors import CheckpointError

__all__ = ["load_pickle", "paddle_tensors"]

_TABLE, _SPLIT = "StructuredToParameterName@@", "UnpackBigParamInfor@@"


def load_pickle(path: Path, records: Mapping[str, str] | None = None) -> Any:
    """Return what a pickled file stands for.

    Args:
        records: as `walk` takes them.

    Raises:
        CheckpointError: it cannot be read, or holds anything but tensors, numbers and their containers.
    """
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
    held = load_pickle(folder / file)
    if not isinstance(held, dict):
        raise refused(folder / file, f"a {type(held).__name__}")
    tensors = {key: place_array(key, file, folder, array) for key, array in _entries(held)}
    # before protocol 4, arrays of more than a gigabyte are saved in flat pieces
    for key, split in (held.get(_SPLIT) or {}).items():
        pieces = [tensors.pop(name, None) for name in split["slices"]]
        if None in pieces:
            lost = split["slices"][pieces.index(None)]
            raise CheckpointError(f"{folder / file} lacks {lost}, a piece of {key}", "", "copy the file again")
        tensors[key] = joined(key, tuple(split["OriginShape"]), [piece for piece in pieces if piece is not None])
    return tensors
