"""Megatron's indexed corpus: a pair PREFIX.bin (token ids) and PREFIX.idx (MMIDIDX, where each sequence lies).

Layout of the .idx, little-endian: magic 9 bytes, version u64 = 1, dtype code u8, N sequences u64, M document marks u64,
then N int32 lengths, N int64 byte offsets into the .bin, M int64 document marks (sequence numbers, 0 first, N last).
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from zoo_core.data.corpora import Corpus, IntArray
from zoo_core.errors import DataError

__all__ = ["DTYPES", "HEADER_BYTES", "MAGIC", "bin_path", "idx_path", "index_bytes", "open_indexed"]

MAGIC = b"MMIDIDX\x00\x00"
HEADER_BYTES = 34
_LEGACY_MAGIC = b"TNTIDX\x00\x00"
_VERSION_AT, _DTYPE_AT, _SEQUENCES_AT, _MARKS_AT = 9, 17, 18, 26

DTYPES: dict[int, np.dtype[Any]] = {
    1: np.dtype("u1"),
    2: np.dtype("i1"),
    3: np.dtype("<i2"),
    4: np.dtype("<i4"),
    5: np.dtype("<i8"),
    6: np.dtype("<f8"),
    7: np.dtype("<f4"),
    8: np.dtype("<u2"),
    9: np.dtype("<u4"),
    10: np.dtype("<u8"),
}
"""Code in the .idx -> dtype of the .bin; 9 and 10 are PaddleNLP's additions to Megatron's eight."""


def bin_path(prefix: Path) -> Path:
    """Return PREFIX.bin; a dot in the prefix stays."""
    return Path(f"{prefix}.bin")


def idx_path(prefix: Path) -> Path:
    """Return PREFIX.idx; a dot in the prefix stays."""
    return Path(f"{prefix}.idx")


def index_bytes(lengths: IntArray, marks: IntArray, dtype: npt.DTypeLike) -> bytes:
    """Return the content of the .idx of `lengths` [N] and `marks` [M], sequences lying one after another.

    Raises:
        DataError: the dtype has no code, or a length does not fit int32.
    """
    wanted = np.dtype(dtype)
    codes = [code for code, known in DTYPES.items() if known == wanted]
    if not codes:
        raise DataError(f"no .bin can hold {wanted}", "the format has no code for it", "use uint16 or int32")
    if len(lengths) and int(lengths.max()) > np.iinfo(np.int32).max:
        raise DataError(
            f"sequence {int(lengths.argmax())} has {int(lengths.max())} tokens",
            "a length is an int32",
            "cut the document",
        )
    offsets = np.zeros(len(lengths), dtype=np.int64)
    np.cumsum(lengths[:-1], dtype=np.int64, out=offsets[1:])
    offsets *= wanted.itemsize
    header = MAGIC + struct.pack("<QBQQ", 1, codes[0], len(lengths), len(marks))
    arrays = (lengths.astype("<i4"), offsets.astype("<i8"), marks.astype("<i8"))
    return header + b"".join(array.tobytes() for array in arrays)


def open_indexed(prefix: Path) -> Corpus:
    """Open PREFIX.bin and PREFIX.idx, memory-mapped, after checking that they are whole and belong together.

    Raises:
        DataError: a file is missing, truncated, corrupt or of another format; file and byte offset are named.
    """
    idx, binary = idx_path(prefix), bin_path(prefix)
    for path in (idx, binary):
        if not path.is_file():
            raise DataError(f"no {path}", "a corpus is the pair PREFIX.bin and PREFIX.idx", "give the prefix of both")
    header = _header(idx)
    sequences, marks_count = _counts(idx, header)
    dtype = _dtype(idx, header)
    content = np.asarray(np.memmap(idx, dtype=np.uint8, mode="r"))
    lengths_end = HEADER_BYTES + 4 * sequences
    offsets_end = lengths_end + 8 * sequences
    lengths = np.array(content[HEADER_BYTES:lengths_end].view("<i4"))  # aligned, and used by every index
    offsets = content[lengths_end:offsets_end].view("<i8")
    marks = content[offsets_end : offsets_end + 8 * marks_count].view("<i8")
    _check_lengths(idx, lengths, offsets, dtype.itemsize)
    _check_marks(idx, marks, sequences, offsets_end)
    tokens = int(lengths.sum(dtype=np.int64))
    size = binary.stat().st_size
    if size != tokens * dtype.itemsize:
        raise DataError(
            f"{binary} {'is truncated' if size < tokens * dtype.itemsize else 'does not belong to its .idx'}",
            f"it ends at byte {size}, the .idx wants {tokens} tokens of {dtype}, so {tokens * dtype.itemsize} bytes",
            "copy both files again, or build them anew with `zoo data build`",
        )
    # as a plain array: slicing np.memmap itself costs ten times as much
    flat = np.asarray(np.memmap(binary, dtype=dtype, mode="r")) if tokens else np.empty(0, dtype=dtype)
    return Corpus(Path(prefix), flat, lengths, marks, (binary, idx))


def _header(idx: Path) -> bytes:
    with idx.open("rb") as stream:
        header = stream.read(HEADER_BYTES)
    if header[: len(_LEGACY_MAGIC)] == _LEGACY_MAGIC:
        raise DataError(
            f"{idx} is of the legacy 'lazy' format",
            "it begins with TNTIDX at byte 0, not MMIDIDX",
            "build the corpus anew with `zoo data build`, or with data_impl=mmap where it was made",
        )
    if header[: len(MAGIC)] != MAGIC[: len(header)]:
        raise DataError(
            f"{idx} is no Megatron index",
            f"bytes 0 to 8 are {header[:9]!r}, expected {MAGIC!r}",
            "give a prefix of .bin/.idx",
        )
    if len(header) < HEADER_BYTES:
        raise DataError(
            f"{idx} is truncated",
            f"it ends at byte {len(header)}, the header has {HEADER_BYTES}",
            "copy the file again",
        )
    return header


def _counts(idx: Path, header: bytes) -> tuple[int, int]:
    (version,) = struct.unpack_from("<Q", header, _VERSION_AT)
    if version != 1:
        raise DataError(
            f"{idx} has version {version}", f"at byte {_VERSION_AT}; only 1 is known", "build the corpus anew"
        )
    (sequences,) = struct.unpack_from("<Q", header, _SEQUENCES_AT)
    (marks,) = struct.unpack_from("<Q", header, _MARKS_AT)
    size = idx.stat().st_size
    expected = HEADER_BYTES + 12 * sequences + 8 * marks
    if size == expected + sequences and sequences:
        raise DataError(
            f"{idx} is of a multimodal corpus", f"{sequences} modes follow at byte {expected}", "give a corpus of text"
        )
    if size != expected:
        raise DataError(
            f"{idx} is {'truncated' if size < expected else 'corrupt'}",
            f"it ends at byte {size}, but its counts at bytes {_SEQUENCES_AT} and {_MARKS_AT} "
            f"({sequences} sequences, {marks} document marks) make {expected}",
            "copy the file again, or build it anew with `zoo data build`",
        )
    return sequences, marks


def _dtype(idx: Path, header: bytes) -> np.dtype[Any]:
    code = header[_DTYPE_AT]
    if code not in DTYPES:
        known = ", ".join(f"{number} {dtype}" for number, dtype in DTYPES.items())
        raise DataError(
            f"{idx} has the unknown dtype code {code}", f"at byte {_DTYPE_AT}; known: {known}", "build it anew"
        )
    return DTYPES[code]


def _first(wrong: npt.NDArray[np.bool_]) -> int:
    """Return the position of the first True, or -1."""
    at = int(wrong.argmax()) if len(wrong) else 0
    return at if len(wrong) and wrong[at] else -1


def _check_lengths(idx: Path, lengths: IntArray, offsets: IntArray, itemsize: int) -> None:
    at = _first(lengths < 0)
    if at >= 0:
        raise DataError(
            f"{idx} is corrupt", f"length {at} at byte {HEADER_BYTES + 4 * at} is {lengths[at]}", "copy the file again"
        )
    if not len(lengths):
        return
    ends = np.cumsum(lengths, dtype=np.int64)
    ends *= itemsize
    at = 0 if offsets[0] != 0 else _first(offsets[1:] != ends[:-1]) + 1
    if at or offsets[0] != 0:
        where = HEADER_BYTES + 4 * len(lengths) + 8 * at
        expected = int(ends[at - 1]) if at else 0
        raise DataError(
            f"{idx} is corrupt",
            f"offset {at} at byte {where} is {offsets[at]}, the lengths before it make {expected}",
            "copy the file again, or build it anew with `zoo data build`",
        )


def _check_marks(idx: Path, marks: IntArray, sequences: int, begin: int) -> None:
    if not len(marks):
        raise DataError(f"{idx} has no document marks", "its count at byte 26 is 0, at least 1 is due", "build it anew")
    falling = _first(marks[1:] < marks[:-1])
    wrong: Sequence[tuple[bool, int, str]] = (
        (int(marks[0]) != 0, 0, "the first must be 0"),
        (falling >= 0, falling + 1, "marks must not fall"),
        (int(marks[-1]) != sequences, len(marks) - 1, f"the last must be the number of sequences, {sequences}"),
    )
    for is_wrong, at, rule in wrong:
        if is_wrong:
            raise DataError(
                f"{idx} is corrupt",
                f"document mark {at} at byte {begin + 8 * at} is {marks[at]}; {rule}",
                "build it anew",
            )
