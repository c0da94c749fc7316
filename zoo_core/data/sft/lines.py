"""The lines of files that need not fit in memory: where each begins is kept, not what it says."""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from zoo_core.errors import DataError

__all__ = ["LONGEST", "BadLine", "Lines"]

LONGEST = 8 << 20
"""Bytes of the longest line that is read; a longer one is a file without line breaks, or no conversation."""


class BadLine(DataError):
    """A line that cannot be trained on; `what` names file and line."""


class Lines:
    """The lines of several files, one after the other, blank ones left out.

    Args:
        files: in their order.

    Raises:
        DataError: a file cannot be read, or all of them hold nothing.
    """

    def __init__(self, files: Sequence[Path]) -> None:
        self.files = tuple(files)
        begins, numbers, sizes, counts = array("q"), array("q"), array("q"), []
        digest = hashlib.blake2b(digest_size=16)
        for file in self.files:
            offset, before = 0, len(begins)
            try:
                with file.open("rb") as stream:
                    for number, line in enumerate(stream, start=1):
                        digest.update(line)
                        if line.strip():
                            begins.append(offset)
                            numbers.append(number)
                            sizes.append(len(line))
                        offset += len(line)
            except OSError as error:
                why = error.strerror or str(error)
                raise DataError(f"cannot read {file}", why, "check the file and its permissions") from error
            counts.append(len(begins) - before)
        if not len(begins):
            names = ", ".join(map(str, self.files))
            raise DataError(f"{names} is empty", "there is no line to learn from", "write one JSON object a line")
        self._begins, self._numbers, self._sizes = (np.frombuffer(a, np.int64) for a in (begins, numbers, sizes))
        self._bounds = np.cumsum(counts)
        self.digest = digest.hexdigest()

    def __len__(self) -> int:
        """Return the number of lines that are not blank."""
        return len(self._begins)

    def place(self, line: int) -> str:
        """Return `FILE:NUMBER` of a line, as editors take it."""
        return f"{self._file(line)}:{self._numbers[line]}"

    def _file(self, line: int) -> Path:
        return self.files[int(np.searchsorted(self._bounds, line, side="right"))]

    def read(self, line: int) -> bytes:
        """Return the bytes of a line.

        Raises:
            BadLine: it is longer than `LONGEST`.
            DataError: the file cannot be read any more.
        """
        size = int(self._sizes[line])
        if size > LONGEST:
            raise BadLine(
                f"{self.place(line)} is {size / 2**20:.1f} MB long",
                f"a line is one sample of at most {LONGEST >> 20} MB",
                "break the file into lines, one JSON object each",
            )
        file = self._file(line)
        try:
            with file.open("rb") as stream:
                stream.seek(int(self._begins[line]))
                return stream.read(size)
        except OSError as error:
            why = error.strerror or str(error)
            raise DataError(f"cannot read {file} any more", why, "leave the files alone while a run goes on") from error
