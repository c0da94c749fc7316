"""Beam search: of each row the likeliest answers, several at a time (Graves 2012, arXiv 1211.3711). No paddle.

Scores, length penalty and the three ways to stop are those of transformers 5. A row's answers do not depend on the rows
beside it; one that is done leaves the batch.

Shape legend: B rows in flight, a few for each prompt, S tokens of a pass, K tokens so far, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, Protocol

import numpy as np

from zoo_core.errors import ConfigError
from zoo_core.generate.beam_row import Beam, BeamRow, Stopping
from zoo_core.generate.pool import Passes
from zoo_core.generate.rules import Row, Rules
from zoo_core.tokenizers.padding import pad_batch

__all__ = ["BeamPasses", "beam_search"]

Array = np.ndarray[Any, Any]


class BeamPasses(Passes, Protocol):
    """A model that reads tokens into a cache whose rows may go on from each other."""

    def reorder(self, cache: Any, order: Sequence[int]) -> None:
        """Let row i of a cache go on from what row `order[i]` is now; there may be more rows than before, or fewer."""


def beam_search(
    passes: BeamPasses,
    rows: Sequence[Row],
    rules: Rules,
    beams: int,
    *,
    length_penalty: float = 0.0,
    early_stopping: bool | Literal["never"] = False,
    num_return_sequences: int = 1,
    chunk: int = 512,
) -> list[list[Beam]]:
    """Return the best answers of each row, the best first.

    A score is the sum of the tokens' log-probabilities, that of an end included, over (number of tokens, an end
    included) to the power of `length_penalty`. The rules change log-probabilities, not logits.

    Args:
        passes: the model; all ranks of its tensor and pipeline axes search alike.
        rows: the prompts. Nothing is drawn: a row's `seed` is not looked at.
        rules: `sampling` has to be greedy, but for its penalties.
        beams: answers that are followed at a time.
        length_penalty: above 0 prefers longer answers, below 0 shorter ones.
        early_stopping: when a row is done that has `beams` answers that have ended. `True`: at once. `False`: when the
            best answer that goes on would not be better, ended as long as it is now. `"never"`: when it could not be
            better whatever its length; with a `length_penalty` above 0 its length may grow to `max_new_tokens`.
        num_return_sequences: answers of each row; at most `beams`. A row has fewer where the rules leave no more.
        chunk: about as many tokens of prompts are read at a time.

    Raises:
        ConfigError: tokens are to be drawn, more answers are wanted than there are beams, a length penalty is no number
            or a way to stop is not one of the three, the logits are not numbers, or the rules allow no token.
        ValueError: there are no rows, a prompt is empty, or no token is asked for.
    """
    stopping = Stopping(beams, length_penalty, early_stopping, num_return_sequences)
    if not rules.sampling.is_greedy:
        raise ConfigError(
            f"beam search at temperature {rules.sampling.temperature:g}",
            "it follows the likeliest answers and draws nothing",
            "set the temperature to 0, or the beams to 1",
        )
    if not rows or not all(row.ids and row.max_new_tokens > 0 for row in rows):
        raise ValueError("a batch has at least one row, a prompt at least one token, and a row at least one new token")
    ids_BS, mask_BK = pad_batch([row.ids for row in rows], rules.filler, "left")
    room = ids_BS.shape[1] + max(row.max_new_tokens for row in rows)
    cache = passes.cache(len(rows) * beams, room)
    found_BV = _read_prompts(passes, cache, ids_BS, mask_BK, chunk)
    searches = [BeamRow(row, rules, stopping) for row in rows]
    going, before = searches, list(range(len(rows)))
    while True:
        order, tokens, still = [], [], []
        start = 0
        for search in going:
            stop = start + search.width
            beams_of = search.advance(found_BV[start:stop])
            order += [start + source for source, _ in beams_of]
            tokens += [token for _, token in beams_of]
            still += [search] if beams_of else []
            start = stop
        if not order:
            return [search.best() for search in searches]
        if order != before:
            passes.reorder(cache, order)
            mask_BK = mask_BK[order]
            before = list(range(len(order)))
        going = still
        mask_BK = np.concatenate([mask_BK, np.ones((len(order), 1), np.int64)], axis=1)
        ids_B1 = np.asarray(tokens, np.int64)[:, None]
        positions_B1 = mask_BK.sum(axis=1, keepdims=True) - 1
        found_BV = passes.read(cache, ids_B1, None if mask_BK.all() else mask_BK, positions_B1)


def _read_prompts(passes: BeamPasses, cache: Any, ids_BS: Array, mask_BS: Array, chunk: int) -> Array:
    """Read the prompts, once each, in pieces; returns the logits [B, V] after the last column."""
    rows, total = ids_BS.shape
    columns = total if passes.reads_prompt_at_once else max(1, chunk // rows)
    positions_BS = np.maximum(mask_BS.cumsum(axis=1) - 1, 0)
    logits_BV = np.empty((rows, 0))
    for start in range(0, total, columns):
        stop = min(total, start + columns)
        mask_BK = mask_BS[:, :stop]
        logits_BV = passes.read(
            cache, ids_BS[:, start:stop], None if mask_BK.all() else mask_BK, positions_BS[:, start:stop]
        )
    return logits_BV
