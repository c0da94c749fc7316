"""Many prompts at a time: one pass over all of them, then one pass a token, until every row has ended. No paddle.

A row's text does not depend on the rows beside it: it has draws of its own, and what it sees is its own tokens. One
exception is the family's: dynamic rope scaling takes its base from the longest row, beyond the trained context.

Shape legend: B rows, S tokens of a pass, K tokens so far, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from zoo_core.generate.choice import Sampling, choose
from zoo_core.tokenizers.padding import pad_batch

__all__ = ["BatchLogits", "Row", "Rules", "decode_batch", "decode_steps"]

BatchLogits = Callable[
    ["np.ndarray[Any, Any]", "np.ndarray[Any, Any] | None", "np.ndarray[Any, Any]"], "np.ndarray[Any, Any]"
]
"""The model with its cache: (ids [B, S] that follow those of the calls before; a mask [B, K] of what is real among all
so far, or `None` where all is; positions [B, S]), int64 each -> the logits [B, V] after the last column."""


@dataclass(frozen=True)
class Row:
    """A prompt.

    Args:
        ids: its tokens, at least one.
        max_new_tokens: most tokens that follow it; 0 for a row that only fills up a batch.
        seed: of its draws; the same seed gives the same tokens.
    """

    ids: Sequence[int]
    max_new_tokens: int
    seed: int | tuple[int, ...] = 0


@dataclass(frozen=True)
class Rules:
    """What holds for all rows.

    Args:
        sampling: how the next token is chosen.
        ends: ids that end a row's text; they are no part of it.
        min_new_tokens: none of `ends` is chosen before there are so many new tokens.
        vocab_size: ids at or above it are never chosen; `None` for all of the model's.
        filler: id of the columns where a row has no token.
    """

    sampling: Sampling
    ends: Collection[int] = ()
    min_new_tokens: int = 0
    vocab_size: int | None = None
    filler: int = 0


def decode_batch(
    logits: BatchLogits, rows: Sequence[Row], rules: Rules, going: Callable[[bool], bool] = bool
) -> list[list[int]]:
    """Return the new tokens of each row, see `decode_steps`."""
    found: list[list[int]] = [[] for _ in rows]
    for tokens in decode_steps(logits, rows, rules, going):
        for row, token in zip(found, tokens, strict=True):
            if token is not None:
                row.append(token)
    return found


def decode_steps(
    logits: BatchLogits, rows: Sequence[Row], rules: Rules, going: Callable[[bool], bool] = bool
) -> Iterator[list[int | None]]:
    """Yield, pass by pass, the new token of each row; `None` of a row that has ended.

    Rows are filled up on the left, so that all go on at the same column. One that has ended goes on as filling, which
    nothing sees.

    Args:
        going: told after each pass whether a row of this batch goes on; says whether another pass is made. Where
            processes need each other's passes it asks them all, and the cache has room for as many as any may make.

    Raises:
        ValueError: there are no rows, or a prompt is empty.
        ConfigError: the logits are not numbers.
    """
    if not rows or not all(row.ids for row in rows):
        raise ValueError("a batch has at least one row, and a prompt at least one token")
    ids_BS, mask_BK = pad_batch([row.ids for row in rows], rules.filler, "left")
    positions_BS = np.maximum(mask_BK.cumsum(axis=1) - 1, 0)
    random = [np.random.default_rng(row.seed) for row in rows]
    alive = [row.max_new_tokens > 0 for row in rows]
    made, ends = 0, list(rules.ends)
    while True:
        found_BV = logits(ids_BS, None if mask_BK.all() else mask_BK, positions_BS)[:, : rules.vocab_size]
        tokens: list[int | None] = [None] * len(rows)
        for at in np.flatnonzero(alive).tolist():
            values_V = found_BV[at]
            if made < rules.min_new_tokens and ends:
                values_V = values_V.copy()
                values_V[[end for end in ends if end < len(values_V)]] = -np.inf
            token = choose(values_V, rules.sampling, random[at])
            tokens[at] = None if token in rules.ends else token
        made += 1
        alive = [token is not None and made < row.max_new_tokens for token, row in zip(tokens, rows, strict=True)]
        yield tokens
        if not going(any(alive)):
            return
        real_B1 = np.asarray(alive, np.int64)[:, None]
        ids_BS = np.asarray([[rules.filler if token is None else token] for token in tokens], np.int64)
        positions_BS = positions_BS[:, -1:] + real_B1
        mask_BK = np.concatenate([mask_BK, real_B1], axis=1)
