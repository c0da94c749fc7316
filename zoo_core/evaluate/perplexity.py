"""Perplexity of a model on documents, by windows.

Each document is scored by itself, its tokens given those before them. A pass sees at most `max_length` tokens; of a
longer document the window moves on by `stride` tokens, and scores what it sees for the first time. With
stride = max_length no token is seen twice, which is quick and gives the first tokens of a window little to go by; a
smaller stride gives every token at least `max_length - stride + 1` before it, and costs max_length / stride times as
much. This is the loop of Hugging Face's page on perplexity with one token more in its `max_length`, which counts the
last token, too, though nothing after it is asked for.

What is counted: perplexity = exp(-sum of log p / tokens scored), over all documents together. Bits per byte
(-sum of log2 p / bytes) and the perplexities of a byte and of a word divide by the text's own length, so models with
different vocabularies can be compared.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

from zoo_core.errors import ConfigError, DataError
from zoo_core.evaluate.documents import Document
from zoo_core.evaluate.encoding import opening
from zoo_core.generate.model import TextModel
from zoo_core.generate.scoring import score_rows

__all__ = ["DEFAULT_LENGTH", "PerplexityReport", "measure_perplexity"]

DEFAULT_LENGTH = 2048
"""Tokens of a window where the model's context is longer."""

_TOKENS = 1 << 18
"""Tokens that are scored in one go, so that a large corpus is never held in memory."""


@dataclass(frozen=True)
class PerplexityReport:
    """What was measured.

    Args:
        documents: how many.
        tokens: scored ones: all, or all but the first of each document where nothing stands before it.
        bytes: of the text, in UTF-8.
        words: of the text, between white space.
        nll: -sum of log p of the tokens, in nats.
        max_length: most tokens of a pass.
        stride: tokens by which windows moved on.
        opening: ids put before each document.
    """

    documents: int
    tokens: int
    bytes: int
    words: int
    nll: float
    max_length: int
    stride: int
    opening: tuple[int, ...]

    @property
    def perplexity(self) -> float:
        """Of a token."""
        return _exp(self.nll / self.tokens)

    @property
    def byte_perplexity(self) -> float:
        """Of a byte; infinite where the text has none (a corpus of special tokens)."""
        return _exp(self.nll / self.bytes) if self.bytes else math.inf

    @property
    def word_perplexity(self) -> float:
        """Of a word; infinite where it is beyond float64, as in text without spaces."""
        return _exp(self.nll / self.words) if self.words else math.inf

    @property
    def bits_per_byte(self) -> float:
        """Bits that a perfect coder would need for a byte."""
        return self.nll / self.bytes / math.log(2) if self.bytes else math.inf

    def as_json(self) -> dict[str, Any]:
        """Return all of it; what is infinite is `None`, for JSON has no such number."""
        rates = {
            name: getattr(self, name) for name in ("perplexity", "bits_per_byte", "byte_perplexity", "word_perplexity")
        }
        return {
            **{name: value if math.isfinite(value) else None for name, value in rates.items()},
            **asdict(self),
            "opening": list(self.opening),
        }


def _exp(value: float) -> float:
    try:
        return math.exp(value)
    except OverflowError:
        return math.inf


def measure_perplexity(
    model: TextModel,
    documents: Iterable[Document],
    *,
    max_length: int | None = None,
    stride: int | None = None,
    batch_size: int = 8,
    begin: bool = True,
    progress: Callable[[int], object] | None = None,
) -> PerplexityReport:
    """Measure the perplexity of documents.

    Args:
        max_length: most tokens that a pass sees; by default the model's context, at most 2048.
        stride: by default `max_length`.
        batch_size: windows of a pass.
        begin: put before each document what the family begins a text with, or bos, or eos. Otherwise the first token
            of each is only seen, not scored.
        progress: called with the number of tokens scored since the last call.

    Raises:
        ConfigError: `max_length` is beyond the model's context, or `stride` beyond `max_length`; ids are not in the
            model's vocabulary; or the sum is no number.
        DataError: there is nothing to score.
    """
    length = min(model.context, DEFAULT_LENGTH) if max_length is None else max_length
    step = length if stride is None else stride
    if not 1 <= length <= model.context:
        raise ConfigError(
            f"max_length is {length}", f"the model's context is {model.context}", "give a length from 1 to the context"
        )
    if not 1 <= step <= length:
        raise ConfigError(
            f"stride is {step}", f"max_length is {length}: tokens between would be left out", "shorten it"
        )
    before = opening(model.tokenizer) if begin else []
    count, tokens, size, words, total = 0, 0, 0, 0, 0.0
    for group in _groups(documents):
        rows, firsts = [], []
        for document in group:
            ids = document.ids.tolist()
            _check_ids(ids, model.config.vocab_size)
            own = [] if ids[: len(before)] == before else before
            rows.append([*own, *ids])
            firsts.append(max(1, len(before)))
            count, size, words = count + 1, size + document.bytes, words + document.words
        found = score_rows(
            model.engine, rows, firsts=firsts, window=length, stride=step, batch_size=batch_size, progress=progress
        )
        tokens += sum(len(row) - first for row, first in zip(rows, firsts, strict=True))
        total -= math.fsum(scores.total for scores in found)
        if not all(scores.tokens == len(row) - first for scores, row, first in zip(found, rows, firsts, strict=True)):
            total = math.nan
    if not tokens:
        raise DataError("there is nothing to score", f"{count} documents have no token after their first", "give text")
    if not math.isfinite(total):
        raise ConfigError("the model's logits are not numbers", "its weights hold NaN or infinity", "use another one")
    return PerplexityReport(count, tokens, size, words, total, length, step, tuple(before))


def _groups(documents: Iterable[Document]) -> Iterator[list[Document]]:
    group: list[Document] = []
    held = 0
    for document in documents:
        group.append(document)
        held += len(document.ids)
        if held >= _TOKENS:
            yield group
            group, held = [], 0
    if group:
        yield group


def _check_ids(ids: list[int], vocab_size: int) -> None:
    if max(ids) >= vocab_size or min(ids) < 0:
        raise ConfigError(
            "the data's tokens are not the model's",
            f"there is the id {max(ids)}; the model has a vocabulary of {vocab_size}",
            "name the tokenizer that the model was trained with, or build the corpus with it",
        )
