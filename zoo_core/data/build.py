"""Text in, corpus out: the two files of a prefix, whole or not at all."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

from zoo_core._atomic import written_beside
from zoo_core.data.encode import Encoded, EncodeSettings, TokenizerSource, encoded
from zoo_core.data.indexed import bin_path, idx_path, index_bytes
from zoo_core.data.npy_pair import ids_npy_path, idx_npz_path, npy_header, npz_bytes
from zoo_core.data.sources import DOCUMENTS, chunks, input_files
from zoo_core.errors import DataError, TokenizerError

__all__ = ["FORMATS", "BuildReport", "build_corpus", "token_dtype"]

FORMATS = ("bin", "npy")
_WORTH_A_PROCESS = 4 << 20


@dataclass(frozen=True)
class BuildReport:
    """What was built."""

    prefix: Path
    files: tuple[Path, ...]
    inputs: int
    source_bytes: int
    documents: int
    tokens: int
    dtype: str
    bad: int
    empty: int
    workers: int


def token_dtype(vocab_size: int) -> str:
    """Return "<u2" where ids fit, as Megatron chooses (below 65,500), else "<i4"."""
    return "<u2" if vocab_size < 65500 else "<i4"


def build_corpus(
    inputs: Sequence[Path],
    prefix: Path,
    source: TokenizerSource,
    *,
    file_format: str = "bin",
    documents: str = DOCUMENTS[0],
    json_key: str = "text",
    append_eos: bool = True,
    shuffle_seed: int | None = None,
    workers: int | None = None,
    skip_bad_lines: bool = False,
    overwrite: bool = False,
    on_progress: Callable[[int, int], None] = lambda read, total: None,
    on_bad_line: Callable[[str], None] = lambda message: None,
) -> BuildReport:
    """Tokenise text files and JSON lines into PREFIX.bin/.idx or PREFIX_ids.npy/_idx.npz.

    The result depends on the inputs and their order only, not on `workers`. Special tokens spelt out in the text stay
    text. Processes are spawned: a script that calls this with more than one worker needs `if __name__ == "__main__"`.

    Args:
        inputs: files or folders; .jsonl and .json hold a JSON object a line, .txt, .text and .md are text.
        file_format: "bin" (Megatron) or "npy" (PaddleNLP's older pair).
        documents: what a document of a text file is, one of "blank-line", "line", "file".
        json_key: the key of the text in a JSON object.
        append_eos: end every document with the tokenizer's eos.
        shuffle_seed: put the documents in a random order, which costs a second pass over the ids; None keeps theirs.
        workers: processes; None takes the cores, but fewer for little text.
        skip_bad_lines: pass over lines that are no UTF-8, no JSON or have no text; otherwise the first one ends it.
        overwrite: replace an existing corpus.
        on_progress: called with the bytes read since the last call and the bytes of all inputs.
        on_bad_line: called with "FILE line N: reason" for each line passed over.

    Raises:
        DataError: no input, a bad line, an existing corpus, no document at all, or the disk is full.
        TokenizerError: the tokenizer is missing or has no eos.
    """
    files = input_files(inputs)
    total = sum(file.stat().st_size for file in files)
    ids_path, index_path = _paths(prefix, file_format)
    _refuse_existing(prefix, overwrite)
    tokenizer = source.load()
    if append_eos and tokenizer.eos_id is None:
        raise TokenizerError(
            "this tokenizer has no eos token", "every document is to end with one", "say --no-append-eos to do without"
        )
    dtype = token_dtype(tokenizer.vocab_size)
    settings = EncodeSettings(source, json_key, tokenizer.eos_id if append_eos else None, dtype)
    header = npy_header(dtype, 0) if file_format == "npy" else b""
    processes = workers or max(1, min(os.cpu_count() or 1, total // _WORTH_A_PROCESS))
    lengths: list[npt.NDArray[np.int64]] = []
    bad = empty = 0
    try:
        with written_beside(index_path) as index_stream:
            with written_beside(ids_path) as ids_stream:
                ids_stream.write(header)
                for part in encoded(chunks(files, documents), settings, processes):
                    _report_bad(part, skip_bad_lines, on_bad_line)
                    ids_stream.write(part.ids.tobytes())
                    lengths.append(part.lengths)
                    bad, empty = bad + len(part.bad), empty + part.empty
                    on_progress(part.source_bytes, total)
                sizes = np.concatenate([*lengths, np.zeros(0, dtype=np.int64)])
                if not len(sizes):
                    raise DataError(
                        "nothing to write", f"{len(files)} files have no document ({bad} bad lines)", "check the inputs"
                    )
                if shuffle_seed is not None:
                    sizes = _shuffle(ids_stream, sizes, dtype, len(header), shuffle_seed)
                if file_format == "npy":
                    ids_stream.seek(0)
                    ids_stream.write(npy_header(dtype, int(sizes.sum())))
                for path in _all_paths(prefix):  # no old index may ever stand beside the new ids
                    if path != ids_path:
                        path.unlink(missing_ok=True)
            marks = np.arange(len(sizes) + 1, dtype=np.int64)
            index_stream.write(
                npz_bytes(sizes, marks) if file_format == "npy" else index_bytes(sizes, marks, np.dtype(dtype))
            )
    except OSError as error:
        raise DataError(
            f"cannot write {error.filename or ids_path}", str(error), "free space or choose another --output"
        ) from error
    return BuildReport(
        prefix=Path(prefix),
        files=(ids_path, index_path),
        inputs=len(files),
        source_bytes=total,
        documents=len(sizes),
        tokens=int(sizes.sum()),
        dtype=dtype,
        bad=bad,
        empty=empty,
        workers=processes,
    )


def _shuffle(
    stream: BinaryIO, sizes: npt.NDArray[np.int64], dtype: str, begin: int, seed: int
) -> npt.NDArray[np.int64]:
    """Rewrite the documents after byte `begin` of `stream` in a random order; return their sizes in that order."""
    stream.flush()
    order = np.random.RandomState(seed).permutation(len(sizes))
    starts = np.cumsum(sizes) - sizes
    with tempfile.TemporaryFile(dir=Path(stream.name).parent) as copy:
        with open(stream.name, "rb") as written:
            shutil.copyfileobj(written, copy)
        ids = np.memmap(copy, dtype=dtype, mode="r", offset=begin)
        stream.seek(begin)
        for document in order:
            stream.write(ids[starts[document] : starts[document] + sizes[document]].tobytes())
    return sizes[order]


def _paths(prefix: Path, file_format: str) -> tuple[Path, Path]:
    if file_format not in FORMATS:
        raise DataError(f"unknown format {file_format!r}", f"known: {', '.join(FORMATS)}", "choose one of them")
    if file_format == "npy":
        return ids_npy_path(prefix), idx_npz_path(prefix)
    return bin_path(prefix), idx_path(prefix)


def _all_paths(prefix: Path) -> list[Path]:
    return [idx_path(prefix), idx_npz_path(prefix), bin_path(prefix), ids_npy_path(prefix)]


def _refuse_existing(prefix: Path, overwrite: bool) -> None:
    existing = [str(path) for path in _all_paths(prefix) if path.exists()]
    if existing and not overwrite:
        raise DataError(f"{' and '.join(existing)} exist", "a corpus is not overwritten unasked", "say --overwrite")


def _report_bad(part: Encoded, skip: bool, on_bad_line: Callable[[str], None]) -> None:
    for line, reason in part.bad:
        if not skip:
            raise DataError(
                f"{part.chunk_file} line {line} cannot be used", reason, "correct it, or say --skip-bad-lines"
            )
        on_bad_line(f"{part.chunk_file} line {line}: {reason}")
