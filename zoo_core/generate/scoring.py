"""How probable given tokens are: the log-probability of each given those before it in its row.

Rows are filled up on the right, where nothing sees the filling. The head runs on a piece of the sequence at a time, so
the logits of a long text are never there at once. A text longer than the window is scored by sliding windows.

Shape legend: B rows, S tokens of a pass, P positions of a piece, H hidden, V vocabulary, T tokens of a row, N
likeliest, M ids asked for, F all that is found of a token.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import paddle

from zoo_core.engine.engine import Engine
from zoo_ops.loss import IGNORE, cross_entropy

__all__ = ["Scores", "Window", "score_rows", "windows"]

Array = np.ndarray[Any, Any]
Progress = Callable[[int], object]

_LOGITS = 1 << 24
"""Logits of a piece, 64 MiB of float32."""

_TOKENS = 4096
"""Most tokens of a pass, where it has more than one row."""


@dataclass(frozen=True)
class Scores:
    """What a model makes of the tokens of one row.

    Args:
        logprobs: float32 [T], in nats; NaN at tokens that were not asked for, at the first, and where logits are.
        greedy: bool [T], whether the token was the most probable; of equals the first is.
        top_ids: int64 [T, N], the likeliest tokens at each place, likeliest first; -1 where nothing was asked for.
        top_logprobs: float32 [T, N], theirs; NaN there.
        among: float32 [T, M], the log-probabilities of the ids asked for at each place; NaN there.
    """

    logprobs: Array
    greedy: Array
    top_ids: Array
    top_logprobs: Array
    among: Array

    @property
    def total(self) -> float:
        """Log-probability of all tokens that have one, together, summed in float64."""
        return float(np.nansum(self.logprobs, dtype=np.float64))

    @property
    def tokens(self) -> int:
        """How many tokens have one."""
        return int((~np.isnan(self.logprobs)).sum())


@dataclass(frozen=True)
class Window:
    """A part of a row that a pass sees.

    Args:
        begin: first token that is seen.
        first: first token that is scored, after `begin`.
        end: one after the last that is scored; the last itself is not seen, for nothing after it is asked for.
    """

    begin: int
    first: int
    end: int


def windows(tokens: int, first: int, length: int, stride: int) -> list[Window]:
    """Cut a row so that each token from `first` on is scored exactly once, and a pass sees at most `length` tokens.

    The window moves on by `stride` tokens: in the first, a token is given all before it; later, at least
    `length - stride + 1`, and at most `length`. With stride 1 each token is given the `length` before it.

    Args:
        tokens: of the row.
        first: at least 1.

    Raises:
        ValueError: `stride` is not from 1 to `length`, or `first` is not above 0.
    """
    if not 1 <= stride <= length or first < 1:
        raise ValueError(f"stride {stride} of windows of {length} tokens, from token {first}")
    found, begin = [], 0
    while first < tokens:
        end = min(begin + length + 1, tokens)
        if end > first:
            found.append(Window(begin, first, end))
            first = end
        begin += stride
    return found


def score_rows(
    engine: Engine,
    rows: Sequence[Sequence[int]],
    *,
    firsts: Sequence[int] | None = None,
    top: int = 0,
    among: Sequence[int] = (),
    window: int | None = None,
    stride: int | None = None,
    batch_size: int = 8,
    progress: Progress | None = None,
) -> list[Scores]:
    """Return the scores of each row, in their order.

    All ranks of the tensor and pipeline axes call it alike, and get the same.

    Args:
        engine: the model, with the adapter or the prefix in use.
        rows: ids, at least one each.
        firsts: the first token of each row to score, by default 1; those before it are only seen.
        top: also the likeliest tokens at each place, so many.
        among: also the log-probabilities of these ids at each place.
        window: most tokens that a pass sees of a row; by default the model's context.
        stride: tokens by which windows move on; by default `window`, so that no token is seen twice.
        batch_size: most rows of a pass.
        progress: called after each pass with the number of tokens that it scored.

    Raises:
        ValueError: a row is empty, or `stride` does not fit the window.
    """
    if not all(len(row) for row in rows):
        raise ValueError("a row to score has at least one token")
    length = window or engine.config.max_position_embeddings
    most = min(top, engine.config.vocab_size)
    found = [_nothing_yet(len(row), most, len(among)) for row in rows]
    parts = [
        (at, part)
        for at, row in enumerate(rows)
        for part in windows(len(row), max(1, firsts[at]) if firsts is not None else 1, length, stride or length)
    ]
    for batch in _batches(parts, batch_size):
        _score(engine, rows, batch, most, among, found)
        if progress is not None:
            progress(sum(part.end - part.first for _, part in batch))
    return found


def _nothing_yet(tokens: int, top: int, among: int) -> Scores:
    return Scores(
        np.full(tokens, np.nan, np.float32),
        np.zeros(tokens, bool),
        np.full((tokens, top), -1, np.int64),
        np.full((tokens, top), np.nan, np.float32),
        np.full((tokens, among), np.nan, np.float32),
    )


def _batches(parts: Sequence[tuple[int, Window]], batch_size: int) -> Iterator[list[tuple[int, Window]]]:
    """Put windows of like lengths together, the longest first: what does not fit into memory fails at once."""
    batch: list[tuple[int, Window]] = []
    for at, part in sorted(parts, key=lambda entry: entry[1].begin - entry[1].end):
        seen = batch[0][1].end - batch[0][1].begin if batch else 0
        if batch and (len(batch) >= batch_size or (len(batch) + 1) * seen > _TOKENS):
            yield batch
            batch = []
        batch.append((at, part))
    if batch:
        yield batch


def _score(
    engine: Engine,
    rows: Sequence[Sequence[int]],
    batch: Sequence[tuple[int, Window]],
    top: int,
    among: Sequence[int],
    found: Sequence[Scores],
) -> None:
    """Score a batch of windows into `found`."""
    longest = max(part.end - part.begin for _, part in batch) - 1
    ids_BS, labels_BS = np.zeros((len(batch), longest), np.int64), np.full((len(batch), longest), IGNORE, np.int64)
    for b, (at, part) in enumerate(batch):
        ids = np.asarray(rows[at][part.begin : part.end], np.int64)
        ids_BS[b] = ids[-2]  # the filling: a token that the row has, so it means nothing new to the family
        ids_BS[b, : len(ids) - 1] = ids[:-1]
        labels_BS[b, part.first - part.begin - 1 : len(ids) - 1] = ids[part.first - part.begin :]
    wanted_S = (labels_BS != IGNORE).any(axis=0)
    # one array, so that the stages of a pipeline hear of it at once; ids are exact in float64
    found_BSF = np.zeros((*labels_BS.shape, 2 + 2 * top + len(among)))

    def see(head: Callable[[Any], Any], x_BSH: Any) -> None:
        step = max(1, _LOGITS // (len(batch) * engine.config.vocab_size))
        for start in range(int(wanted_S.argmax()), longest, step):
            piece = slice(start, start + step)
            found_BSF[:, piece] = _piece(head(x_BSH[:, piece]), labels_BS[:, piece], top, among)

    engine.at_head({"input_ids": ids_BS}, see)
    found_BSF = engine.from_last_stage(found_BSF)
    for b, (at, part) in enumerate(batch):
        columns, places = slice(part.first - part.begin - 1, part.end - part.begin - 1), slice(part.first, part.end)
        for into, values in zip(_arrays(found[at]), _fields(found_BSF[b, columns], top), strict=True):
            into[places] = values


def _arrays(scores: Scores) -> tuple[Array, ...]:
    return scores.logprobs, scores.greedy, scores.top_ids, scores.top_logprobs, scores.among


def _fields(found_TF: Array, top: int) -> tuple[Array, ...]:
    """Take apart what `_piece` put together."""
    return found_TF[:, 0], found_TF[:, 1], *np.split(found_TF[:, 2:], [top, 2 * top], axis=-1)


def _piece(logits_BPV: Any, labels_BP: Array, top: int, among: Sequence[int]) -> Array:
    """Return what `Scores` has, in its order, as float64 [B, P, 2 + 2 N + M]."""
    labels = paddle.to_tensor(labels_BP)
    # on CPU, the cross entropy of logits that are not numbers may be one
    broken_BP = paddle.isnan(logits_BPV.sum(-1)).numpy()
    losses_BP = np.where(broken_BP, np.nan, cross_entropy(logits_BPV, labels).numpy())
    fields = [-losses_BP[..., None], (logits_BPV.argmax(-1) == labels).numpy()[..., None]]
    if top or among:
        best_BP1 = logits_BPV.max(-1, keepdim=True)
        total_BP1 = (logits_BPV - best_BP1).exp().sum(-1, keepdim=True).log()
        if top:
            top_BPN, at_BPN = paddle.topk(logits_BPV, top, axis=-1)
            fields += [at_BPN.numpy(), (top_BPN - best_BP1 - total_BP1).numpy()]
        if among:
            of_BPM = paddle.index_select(logits_BPV, paddle.to_tensor(list(among)), axis=-1)
            fields.append((of_BPM - best_BP1 - total_BP1).numpy())
    return np.concatenate(fields, axis=-1, dtype=np.float64)
