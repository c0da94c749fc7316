"""PaddleNLP's older corpus: PREFIX_ids.npy (all token ids) and PREFIX_idx.npz (`lens`, `docs`, and in some `sents`)."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from zoo_core.data.corpora import Corpus, IntArray
from zoo_core.errors import DataError

__all__ = ["ids_npy_path", "idx_npz_path", "npy_header", "npz_bytes", "open_npy_pair"]


def ids_npy_path(prefix: Path) -> Path:
    """Return PREFIX_ids.npy."""
    return Path(f"{prefix}_ids.npy")


def idx_npz_path(prefix: Path) -> Path:
    """Return PREFIX_idx.npz."""
    return Path(f"{prefix}_idx.npz")


def npy_header(dtype: str, tokens: int) -> bytes:
    """Return the 128-byte header of a one-dimensional .npy; its size is fixed, so it can be rewritten."""
    description = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': ({tokens},), }}"
    return b"\x93NUMPY\x01\x00" + (118).to_bytes(2, "little") + description.encode().ljust(117) + b"\n"


def npz_bytes(lengths: IntArray, marks: IntArray) -> bytes:
    """Return the content of PREFIX_idx.npz: `lens` int32 [N], `sents` int64 [N + 1] sums, `docs` int64 [D + 1]."""
    sums = np.zeros(len(lengths) + 1, dtype=np.int64)
    np.cumsum(lengths, dtype=np.int64, out=sums[1:])
    stream = io.BytesIO()
    np.savez(stream, lens=lengths.astype(np.int32), sents=sums, docs=marks.astype(np.int64))
    return stream.getvalue()


def open_npy_pair(prefix: Path) -> Corpus:
    """Open the pair, the ids memory-mapped; without `docs`, as the first GPT corpora were, a length is a document.

    Raises:
        DataError: a file is missing, truncated, corrupt or lacks `lens`, or the two do not belong together.
    """
    ids_path, idx_path = ids_npy_path(prefix), idx_npz_path(prefix)
    for path in (ids_path, idx_path):
        if not path.is_file():
            raise DataError(f"no {path}", "a corpus is the pair PREFIX_ids.npy and PREFIX_idx.npz", "give their prefix")
    ids = _ids(ids_path)
    arrays = _arrays(idx_path)
    lengths = arrays["lens"]
    marks = arrays.get("docs", np.arange(len(lengths) + 1, dtype=np.int64))
    if len(lengths) and int(lengths.min()) < 0:
        raise DataError(
            f"{idx_path} is corrupt", f"lens[{int(lengths.argmin())}] is {int(lengths.min())}", "copy the file again"
        )
    total = int(lengths.sum(dtype=np.int64))
    if total != len(ids):
        raise DataError(
            f"{ids_path} and {idx_path} do not belong together",
            f"the ids are {len(ids)} tokens, the lens add up to {total}",
            "copy both files again, or build them anew with `zoo data build --format npy`",
        )
    if not len(marks) or marks[0] != 0 or marks[-1] != len(lengths) or bool((np.diff(marks) < 0).any()):
        raise DataError(
            f"{idx_path} is corrupt",
            f"docs must rise from 0 to the number of lens, {len(lengths)}",
            "copy the file again",
        )
    return Corpus(Path(prefix), ids, lengths, marks, (ids_path, idx_path))


def _ids(path: Path) -> npt.NDArray[Any]:
    try:
        ids = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        size = path.stat().st_size
        raise DataError(
            f"{path} is truncated or no .npy file", f"{error} (it ends at byte {size})", "copy the file again"
        ) from error
    if ids.ndim != 1 or ids.dtype.kind not in "iu":
        raise DataError(
            f"{path} holds no token ids",
            f"it is {ids.dtype}{list(ids.shape)}, expected integers [tokens]",
            "give _ids.npy",
        )
    return np.asarray(ids)


def _arrays(path: Path) -> dict[str, IntArray]:
    try:
        with np.load(path, allow_pickle=False) as content:
            arrays = {name: content[name] for name in ("lens", "docs") if name in content.files}
            names = content.files
    except (ValueError, EOFError, OSError, zipfile.BadZipFile, AttributeError) as error:
        size = path.stat().st_size
        raise DataError(
            f"{path} is truncated or no .npz file", f"{error} (it ends at byte {size})", "copy the file again"
        ) from error
    if "lens" not in arrays:
        raise DataError(
            f"{path} has no array 'lens'", f"it has {', '.join(names) or 'none'}", "give PaddleNLP's _idx.npz"
        )
    for name, array in arrays.items():
        if array.ndim != 1 or array.dtype.kind != "i":
            raise DataError(
                f"{path} is corrupt",
                f"{name} is {array.dtype}{list(array.shape)}, expected integers [N]",
                "copy it again",
            )
    return arrays
