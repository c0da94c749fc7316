"""Many prompts at a time: one pass over all of them, then one pass a token, until every row has ended. No paddle.

A row's text does not depend on the rows beside it: it has draws of its own, and what it sees is its own tokens. One
exception is the family's: dynamic rope scaling takes its base from the longest row, beyond the trained context.

Shape legend: B rows, S tokens of a pass, K tokens so far, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from zoo_core.generate.chooser import Chooser
from zoo_core.generate.rules import Row, Rules
from zoo_core.tokenizers.padding import pad_batch

__all__ = ["BatchLogits", "decode_batch", "decode_steps"]

BatchLogits = Callable[
    ["np.ndarray[Any, Any]", "np.ndarray[Any, Any] | None", "np.ndarray[Any, Any]"], "np.ndarray[Any, Any]"
]
"""The model with its cache: (ids [B, S] that follow those of the calls before; a mask [B, K] of what is real among all
so far, or `None` where all is; positions [B, S]), int64 each -> the logits [B, V] after the last column."""


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
    choosers = [Chooser(row, rules) for row in rows]
    alive = [row.max_new_tokens > 0 for row in rows]
    while True:
        found_BV = logits(ids_BS, None if mask_BK.all() else mask_BK, positions_BS)
        tokens: list[int | None] = [None] * len(rows)
        for at in np.flatnonzero(alive).tolist():
            step = choosers[at].next(found_BV[at])
            tokens[at], alive[at] = step.token, not step.finish
        yield tokens
        if not going(any(alive)):
            return
        real_B1 = np.asarray(alive, np.int64)[:, None]
        ids_BS = np.asarray([[rules.filler if token is None else token] for token in tokens], np.int64)
        positions_BS = positions_BS[:, -1:] + real_B1
        mask_BK = np.concatenate([mask_BK, real_B1], axis=1)
