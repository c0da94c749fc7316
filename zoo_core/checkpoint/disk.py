"""Every change that a save makes on disk goes through here, one step at a time, so that tests can fail any of them."""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from zoo_core.errors import CheckpointError

__all__ = ["Disk", "as_json", "checksum", "read_exactly", "read_json", "side_by_side"]

_BLOCK = 1 << 22
_AT_ONCE = min(4, os.cpu_count() or 1)

T = TypeVar("T")
R = TypeVar("R")


class Disk:
    """File operations that last: what is written is synced, what is replaced is replaced at once.

    Args:
        before: called with the name of each step and its path before it is done.
    """

    def __init__(self, before: Callable[[str, Path], None] | None = None) -> None:
        self._before = before or (lambda step, path: None)

    def folder(self, path: Path) -> None:
        """Make a folder and its parents."""
        self._before("folder", path)
        path.mkdir(parents=True, exist_ok=True)

    def create(self, path: Path, head: bytes, size: int) -> None:
        """Make a file of `size` bytes that begins with `head` and is zero after it."""
        self._before("create", path)
        with path.open("wb") as stream:
            stream.write(head)
            stream.truncate(size)

    def write(self, path: Path, content: bytes) -> None:
        """Write a whole small file and sync it."""
        self._before("write", path)
        with path.open("wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())

    def write_at(self, handle: int, path: Path, content: memoryview, offset: int) -> None:
        """Write bytes at `offset` of the open file `handle`, whose name is `path`."""
        self._before("write_at", path)
        while content:
            done = os.pwrite(handle, content, offset)
            content, offset = content[done:], offset + done

    def sync(self, handle: int, path: Path) -> None:
        """Bring an open file, or a folder, to the disk."""
        self._before("sync", path)
        os.fsync(handle)

    def sync_folder(self, path: Path) -> None:
        """Bring the names in a folder to the disk."""
        handle = os.open(path, os.O_RDONLY)
        try:
            self.sync(handle, path)
        finally:
            os.close(handle)

    def rename(self, old: Path, new: Path) -> None:
        """Rename a file over another, or a folder to a free name, at once."""
        self._before("rename", new)
        os.replace(old, new)

    def remove(self, path: Path) -> None:
        """Remove a folder and all in it, file by file."""
        for folder, _, files in os.walk(path, topdown=False):
            for name in files:
                self._before("remove", Path(folder, name))
                os.unlink(Path(folder, name))
            self._before("remove", Path(folder))
            os.rmdir(folder)


def checksum(path: Path) -> int:
    """CRC-32 of a file's bytes."""
    total = 0
    with path.open("rb") as stream:
        while block := stream.read(_BLOCK):
            total = zlib.crc32(block, total)
    return total


def side_by_side(work: Callable[[T], R], items: Iterable[T]) -> list[R]:
    """Do what mostly reads files or takes checksums, which free the interpreter, for several items at a time."""
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        return list(pool.map(work, items))


def read_exactly(handle: int, path: Path, target: memoryview, offset: int) -> None:
    """Fill `target` from byte `offset` of an open file.

    Raises:
        CheckpointError: the file ends before.
    """
    while target:
        done = os.preadv(handle, [target], offset)
        if done == 0:
            raise CheckpointError(f"{path} ends at byte {offset}", "it was longer when it was opened", "")
        target, offset = target[done:], offset + done


def as_json(values: Mapping[str, Any]) -> bytes:
    """A JSON file's bytes, readable and ending in a newline."""
    return (json.dumps(values, indent=2, ensure_ascii=False) + "\n").encode()


def read_json(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file.

    Raises:
        CheckpointError: the file is missing, or is not a JSON object.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise CheckpointError(f"cannot read {path}", str(error.strerror), "") from error
    except ValueError as error:
        raise CheckpointError(f"{path} is not JSON", str(error), "copy or download the file again") from error
    if not isinstance(found, dict):
        kind = type(found).__name__
        raise CheckpointError(f"{path} is not a JSON object", f"it holds a {kind}", "copy or download the file again")
    return found
