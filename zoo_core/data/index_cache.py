"""Indexes on disk: each a folder of arrays, whole or absent, found again by a digest of what it was made from.

On a shared disk several processes may build the same index at once; the first rename wins and the others use it.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from zoo_core._atomic import replaced_folder, temporary_name
from zoo_core.errors import DataError

__all__ = ["Arrays", "build_or_load", "cache_folder", "key_of"]

Arrays = dict[str, npt.NDArray[Any]]
_FORMAT = 1
_POLL_SECONDS = 0.2
_DESCRIPTION = "description.json"


def cache_folder(prefix: Path, data_cache: Path | None) -> Path:
    """Return where the indexes of the corpus `prefix` go.

    That is `index-cache/` beside the corpus; `data_cache` is used only while that folder does not exist.
    """
    beside = Path(prefix).parent / "index-cache"
    return beside if data_cache is None or beside.is_dir() else Path(data_cache)


def key_of(parameters: Mapping[str, object]) -> str:
    """Return the digest, 32 hexadecimal digits, under which an index made from `parameters` is kept."""
    text = json.dumps({"format": _FORMAT, **parameters}, sort_keys=True, default=str)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def _load(folder: Path) -> Arrays | None:
    """Return the memory-mapped arrays of a whole index folder, None if it is absent or damaged."""
    try:
        description = json.loads((folder / _DESCRIPTION).read_text(encoding="utf-8"))
        arrays = {}
        for name, (dtype, shape) in description["arrays"].items():
            array = np.asarray(np.load(folder / f"{name}.npy", mmap_mode="r", allow_pickle=False))
            if array.dtype.str != dtype or list(array.shape) != shape:
                return None
            arrays[name] = array
        return arrays
    except (OSError, EOFError, ValueError, KeyError, TypeError):
        return None


def _store(folder: Path, arrays: Arrays, parameters: Mapping[str, object]) -> None:
    if _load(folder) is not None:  # another process was faster
        return
    if folder.exists():  # damaged: out of the way first, for a folder cannot be renamed onto another
        aside = temporary_name(folder)
        folder.rename(aside)
        shutil.rmtree(aside, ignore_errors=True)
    with replaced_folder(folder) as beside:
        for name, array in arrays.items():
            np.save(beside / f"{name}.npy", array, allow_pickle=False)
        shapes = {name: [array.dtype.str, list(array.shape)] for name, array in arrays.items()}
        text = json.dumps({"parameters": dict(parameters), "arrays": shapes}, indent=1, default=str)
        (beside / _DESCRIPTION).write_text(text + "\n", encoding="utf-8")


def build_or_load(
    folder: Path,
    parameters: Mapping[str, object],
    build: Callable[[], Arrays],
    is_builder: bool = True,
    wait_seconds: float = 0.0,
) -> Arrays:
    """Return the arrays made from `parameters`, memory-mapped from `folder`, building them first if need be.

    Args:
        folder: the cache, see `cache_folder`.
        parameters: all that the arrays depend on; JSON values.
        build: makes the arrays.
        is_builder: whether this process may build: global rank 0 where all nodes share the folder (`share_folder`),
            else each node's local rank 0. The others come after a barrier, or poll for `wait_seconds`, and only load.

    Raises:
        DataError: the folder cannot be written, or this process may not build and the index is not there.
    """
    target = Path(folder) / key_of(parameters)
    give_up = time.monotonic() + wait_seconds
    found = _load(target)
    while found is None and not is_builder and time.monotonic() < give_up:
        time.sleep(_POLL_SECONDS)
        found = _load(target)
    if found is not None:
        return found
    if not is_builder:
        raise DataError(
            f"no index at {target}",
            "another rank builds it and this one sees nothing: the folder is not shared, or it came too early",
            "set share_folder to false where each machine has a disk of its own, or give a shared data_cache",
        )
    arrays = build()
    try:
        _store(target, arrays, parameters)
    except OSError as error:
        raise DataError(
            f"cannot write the index {target}", str(error), "set data_cache to a folder that can be written"
        ) from error
    return _load(target) or arrays
