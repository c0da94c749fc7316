"""Documents to token ids, in this process or in several, in the order of the input either way."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain, islice
from pathlib import Path

import numpy as np
import numpy.typing as npt

from zoo_core.data.sources import Chunk
from zoo_core.errors import DataError
from zoo_core.registry import registry
from zoo_core.tokenizers import BatchTokenizer, Tokenizer, load_tokenizer

__all__ = ["Encoded", "EncodeSettings", "TokenizerSource", "encoded"]

_AHEAD = 4
"""Chunks in work for each process, so that a large corpus is never held in memory."""


@dataclass(frozen=True)
class TokenizerSource:
    """Where a tokenizer comes from; each process loads its own.

    Args:
        path: a tokenizer's file or folder.
        model: a model name, whose plugin reads `path`; None looks at the files alone.
    """

    path: Path | None
    model: str | None = None

    def load(self) -> Tokenizer:
        """Return the tokenizer.

        Raises:
            TokenizerError: its files are missing or foreign.
            UnknownModelError: no plugin has the model.
        """
        return _loaded(self)


@lru_cache(maxsize=1)
def _loaded(source: TokenizerSource) -> Tokenizer:
    if source.model is None:
        return load_tokenizer(source.path or Path())
    found = registry().find(source.model)
    return found.architecture.tokenizer(found.config, source.path or found.path)


@dataclass(frozen=True)
class EncodeSettings:
    """What a process must know to encode a chunk."""

    source: TokenizerSource
    json_key: str
    end_with: int | None
    dtype: str


@dataclass(frozen=True, eq=False)
class Encoded:
    """A chunk's documents as ids: `ids` [tokens of all], `lengths` int64 [documents].

    `bad` are the lines that could not be used, with the reason; `empty` counts documents without text.
    """

    chunk_file: Path
    ids: npt.NDArray[np.integer]
    lengths: npt.NDArray[np.int64]
    bad: tuple[tuple[int, str], ...]
    empty: int
    source_bytes: int


def _text(content: bytes, is_json: bool, key: str) -> str:
    """Return a document's text; ValueError says why it has none."""
    text = content.decode("utf-8")
    if not is_json:
        return text
    record = json.loads(text)
    if not isinstance(record, dict) or key not in record:
        raise ValueError(f"no key {key!r}; it has {sorted(record) if isinstance(record, dict) else 'no keys at all'}")
    if not isinstance(record[key], str):
        raise ValueError(f"{key!r} is {type(record[key]).__name__}, not text")
    record[key].encode("utf-8")  # refuses the lone surrogates that JSON can spell and no tokenizer takes
    return str(record[key])


def _encode(chunk: Chunk, settings: EncodeSettings) -> Encoded:
    tokenizer = settings.source.load()
    texts: list[str] = []
    every: list[list[int]] = []
    bad: list[tuple[int, str]] = []
    for line, content in chunk.records:
        try:
            text = _text(content, chunk.is_json, settings.json_key)
            if isinstance(tokenizer, BatchTokenizer):
                texts.append(text)
            else:
                every.append(tokenizer.encode(text, parse_special=False))
        except ValueError as error:  # of UTF-8, of JSON, of the record, of a regex that gives up
            bad.append((line, str(error)))
    if isinstance(tokenizer, BatchTokenizer):
        every = tokenizer.encode_batch(texts, parse_special=False)
    parts = [ids for ids in every if ids]
    if settings.end_with is not None:
        for ids in parts:
            ids.append(settings.end_with)
    lengths = np.fromiter(map(len, parts), dtype=np.int64, count=len(parts))
    flat = np.fromiter(chain.from_iterable(parts), dtype=settings.dtype, count=int(lengths.sum()))
    return Encoded(chunk.file, flat, lengths, tuple(bad), len(every) - len(parts), chunk.source_bytes)


def _start_worker() -> None:
    """Leave Ctrl-C to the parent, which ends the workers quietly, and the other cores to the other workers."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"


def encoded(chunks: Iterable[Chunk], settings: EncodeSettings, workers: int) -> Iterator[Encoded]:
    """Encode chunks with `workers` processes (1 is this one) and yield them in order.

    Raises:
        DataError: a worker process died.
        TokenizerError: the tokenizer cannot be loaded.
    """
    if workers == 1:
        for chunk in chunks:
            yield _encode(chunk, settings)
        return
    source = iter(chunks)
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_start_worker) as pool:
        try:
            waiting: deque[Future[Encoded]] = deque(
                pool.submit(_encode, chunk, settings) for chunk in islice(source, workers * _AHEAD)
            )
            while waiting:
                done = waiting.popleft().result()
                waiting.extend(pool.submit(_encode, chunk, settings) for chunk in islice(source, 1))
                yield done
        except BrokenProcessPool as error:
            raise DataError(
                "a worker process died", "out of memory is the usual reason", "use fewer --workers"
            ) from error
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
