"""What perplexity is measured on: documents of a tokenised corpus, of text, or of JSON lines. No paddle."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from zoo_core.data import open_corpus
from zoo_core.data.sources import Chunk, chunks, input_files
from zoo_core.errors import DataError
from zoo_core.tokenizers import Tokenizer

__all__ = ["Document", "check_data", "is_corpus", "read_documents"]


@dataclass(frozen=True, eq=False)
class Document:
    """A text.

    Args:
        ids: int64 [T], its tokens, without anything before them.
        bytes: of the text in UTF-8.
        words: runs of it without white space.
    """

    ids: npt.NDArray[np.int64]
    bytes: int
    words: int


def is_corpus(data: Path) -> bool:
    """Whether `data` names tokens rather than text: a prefix, or one of its files."""
    if data.name.endswith((".bin", ".idx", "_idx.npz", "_ids.npy")):
        return True
    return any(Path(f"{data}{ending}").is_file() for ending in (".bin", ".idx", "_idx.npz", "_ids.npy"))


def check_data(data: Path) -> None:
    """Look whether there is such data, before a model is loaded for it.

    Raises:
        DataError: there is none.
    """
    if is_corpus(data):
        open_corpus(data)
    else:
        input_files([data])


def read_documents(
    data: Path, tokenizer: Tokenizer, documents: str = "file", json_key: str = "text"
) -> Iterator[Document]:
    """Yield the documents that are not empty, in order.

    Args:
        data: the prefix of a corpus that `zoo data build` made (or Megatron, or PaddleNLP), a text file, a file of
            JSON lines, or a folder of them.
        documents: what a document of a text file is: "file", "line" or "blank-line".
        json_key: of the text, in JSON lines.

    Raises:
        DataError: the data is missing, or a line cannot be used; names file and line.
    """
    if is_corpus(data):
        corpus = open_corpus(data)
        for first, last in zip(corpus.marks[:-1], corpus.marks[1:], strict=True):
            ids = np.asarray(corpus.tokens[corpus.starts[first] : corpus.starts[last]], np.int64)
            if len(ids):
                yield _document(ids, tokenizer.decode(ids.tolist(), skip_special_tokens=True))
        return
    for chunk in chunks(input_files([data]), documents):
        for line, content in chunk.records:
            text = _text(chunk, line, content, json_key)
            ids = np.asarray(tokenizer.encode(text, parse_special=False), np.int64)
            if len(ids):
                yield _document(ids, text)


def _document(ids: npt.NDArray[np.int64], text: str) -> Document:
    return Document(ids, len(text.encode("utf-8", "replace")), len(text.split()))


def _text(chunk: Chunk, line: int, content: bytes, key: str) -> str:
    place = f"{chunk.file}, line {line}"
    try:
        text = content.decode("utf-8")
        record: Any = json.loads(text) if chunk.is_json else {key: text}
    except ValueError as error:
        raise DataError(f"{place} cannot be read", str(error), "correct or remove the line") from error
    if not isinstance(record, dict) or not isinstance(record.get(key), str):
        found = f"it has {', '.join(map(repr, record))}" if isinstance(record, dict) else "it is no object"
        raise DataError(f"{place} has no text {key!r}", found, "name the key of the text with --json_key")
    return str(record[key])
