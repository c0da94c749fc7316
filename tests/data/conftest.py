"""Corpora small enough to look through."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from zoo_core.data.indexed import bin_path, idx_path, index_bytes


def write_corpus(prefix: Path, lengths, dtype="<i4", marks=None) -> np.ndarray:
    """Write PREFIX.bin/.idx with the tokens 0, 1, 2, ... and return them."""
    lengths = np.asarray(lengths, dtype=np.int64)
    tokens = np.arange(lengths.sum()).astype(dtype)
    marks = np.arange(len(lengths) + 1) if marks is None else np.asarray(marks)
    prefix.parent.mkdir(parents=True, exist_ok=True)
    bin_path(prefix).write_bytes(tokens.tobytes())
    idx_path(prefix).write_bytes(index_bytes(lengths, marks, dtype))
    return tokens


@pytest.fixture
def make_corpus():
    return write_corpus


@pytest.fixture
def lengths():
    """Lengths of 200 sequences, some of them empty."""
    random = np.random.RandomState(7)
    return random.randint(0, 40, size=200) * (random.rand(200) > 0.1)
