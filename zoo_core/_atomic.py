"""Files that are either whole or absent: write beside, fsync, rename."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

__all__ = ["replaced_folder", "temporary_name", "written_beside"]


def temporary_name(path: Path) -> Path:
    """Return an unused hidden name in the folder of `path`, so that a rename to `path` stays on one file system."""
    return path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}.tmp")


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def written_beside(path: Path) -> Iterator[BinaryIO]:
    """Open a binary file that becomes `path` when the block ends well, and vanishes when it does not.

    Raises:
        OSError: the folder cannot be made or written; nothing is left behind.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = temporary_name(path)
    try:
        with beside.open("wb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(beside, path)
        _sync_folder(path.parent)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise


@contextmanager
def replaced_folder(path: Path) -> Iterator[Path]:
    """Give an empty folder that becomes `path` when the block ends well, unless another process made `path` first.

    The loser of a race drops its folder: both made it from the same input. Files are synced before the rename.

    Raises:
        OSError: the parent cannot be made or written; nothing is left behind.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = temporary_name(path)
    beside.mkdir()
    try:
        yield beside
        for file in beside.iterdir():
            with file.open("rb") as stream:
                os.fsync(stream.fileno())
        try:
            os.rename(beside, path)
        except OSError:
            if not path.is_dir():
                raise
        _sync_folder(path.parent)
    finally:
        shutil.rmtree(beside, ignore_errors=True)
