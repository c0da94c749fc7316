"""A tokenised corpus in memory-mapped files, whatever pair of files it came from."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from zoo_core.errors import DataError

__all__ = ["Corpus", "IntArray", "TokenArray"]

IntArray = npt.NDArray[np.signedinteger[Any]]
TokenArray = npt.NDArray[Any]


@dataclass(frozen=True, eq=False)
class Corpus:
    """Sequences of token ids, grouped into documents. A corpus of `zoo data build` has one sequence a document.

    Attributes:
        prefix: path without the endings.
        tokens: [T] all token ids, memory-mapped.
        lengths: [N] tokens of each sequence, int32 or int64.
        marks: [D + 1] the sequence at which each document begins, and N.
        files: the files on disk.
    """

    prefix: Path
    tokens: TokenArray = field(repr=False)
    lengths: IntArray = field(repr=False)
    marks: IntArray = field(repr=False)
    files: tuple[Path, ...]

    def __len__(self) -> int:
        """Return N, the number of sequences."""
        return len(self.lengths)

    @property
    def dtype(self) -> np.dtype[Any]:
        """The dtype of the token ids."""
        return self.tokens.dtype

    @property
    def num_tokens(self) -> int:
        """T, the number of tokens."""
        return len(self.tokens)

    @property
    def num_documents(self) -> int:
        """D, the number of documents."""
        return len(self.marks) - 1

    @cached_property
    def starts(self) -> npt.NDArray[np.int64]:
        """[N + 1] the token at which each sequence begins, and T."""
        starts = np.zeros(len(self.lengths) + 1, dtype=np.int64)
        np.cumsum(self.lengths, dtype=np.int64, out=starts[1:])
        return starts

    @cached_property
    def digest(self) -> str:
        """A digest of the lengths, the document marks and the dtype: all that an index of samples depends on."""
        content = hashlib.blake2b(str(self.dtype).encode(), digest_size=16)
        for array in (self.lengths, self.marks):
            content.update(np.ascontiguousarray(array, dtype=np.int64).data)
        return content.hexdigest()

    def sequence(self, number: int) -> TokenArray:
        """Return sequence `number` as a read-only view [its length].

        Raises:
            DataError: there is no such sequence.
        """
        if not 0 <= number < len(self):
            raise DataError(
                f"{self.prefix} has no sequence {number}",
                f"it has {len(self)}, counted from 0",
                "give a smaller number",
            )
        return self.tokens[self.starts[number] : self.starts[number + 1]]
