"""Text files cut into documents, and documents into chunks of work that know which line they came from."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from zoo_core.errors import DataError

__all__ = ["DOCUMENTS", "Chunk", "Record", "chunks", "input_files"]

DOCUMENTS = ("blank-line", "line", "file")
"""What a document of a .txt file is: a block between blank lines, a line, or the file."""

_JSON_LINES = (".jsonl", ".json")
_TEXT = (".txt", ".text", ".md")
_CHUNK_BYTES = 1 << 18

Record = tuple[int, bytes]
"""The number, from 1, of the line at which a document begins, and its bytes."""


@dataclass(frozen=True)
class Chunk:
    """Documents of one file, enough to be worth sending to another process."""

    file: Path
    is_json: bool
    records: tuple[Record, ...]
    source_bytes: int


def input_files(inputs: Sequence[Path]) -> list[Path]:
    """Return the files meant by `inputs`: files as given, folders searched through, sorted by path.

    Raises:
        DataError: one does not exist or is of an unknown kind, or a folder has no text.
    """
    files: list[Path] = []
    for path in map(Path, inputs):
        if path.is_dir():
            found = sorted(file for file in path.rglob("*") if file.suffix in _JSON_LINES + _TEXT and file.is_file())
            if not found:
                raise DataError(f"no text in {path}", f"no file there ends in {_known()}", "name the files")
            files += found
        elif not path.is_file():
            raise DataError(f"no input {path}", "no such file or folder", "name an existing text file or folder")
        elif path.suffix not in _JSON_LINES + _TEXT:
            raise DataError(f"cannot tell what {path} is", f"known endings: {_known()}", "unpack or rename it")
        else:
            files.append(path)
    return files


def _known() -> str:
    return " ".join(_JSON_LINES + _TEXT)


def chunks(files: Iterable[Path], documents: str = DOCUMENTS[0]) -> Iterator[Chunk]:
    """Yield the documents of all files in order, about a quarter of a megabyte at a time.

    Args:
        documents: what a document of a text file is, one of `DOCUMENTS`; of JSON lines it is always the line.

    Raises:
        DataError: a file cannot be read.
    """
    for file in files:
        is_json = file.suffix in _JSON_LINES
        kind = "line" if is_json else documents
        pending: list[Record] = []
        size = 0
        try:
            for record, consumed in _records(file, kind):
                if record is not None:
                    pending.append(record)
                size += consumed
                if size >= _CHUNK_BYTES:
                    yield Chunk(file, is_json, tuple(pending), size)
                    pending, size = [], 0
        except OSError as error:
            raise DataError(f"cannot read {file}", str(error), "check the file and its disk") from error
        if size:
            yield Chunk(file, is_json, tuple(pending), size)


def _records(file: Path, kind: str) -> Iterator[tuple[Record | None, int]]:
    """Yield each document with the bytes read for it; None ends the file, with what was read after the last."""
    with file.open("rb") as stream:
        if kind == "file":
            content = stream.read()
            yield ((1, content.strip()) if content.strip() else None), len(content)
            return
        begin, consumed = 1, 0
        block: list[bytes] = []
        for number, line in enumerate(stream, start=1):
            consumed += len(line)
            if line.strip() and not block:
                begin = number
            if line.strip():
                block.append(line.rstrip(b"\r\n"))
            if block and (kind == "line" or not line.strip()):
                yield (begin, b"\n".join(block)), consumed
                block, consumed = [], 0
        yield ((begin, b"\n".join(block)) if block else None), consumed
