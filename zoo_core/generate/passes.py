"""An engine as decoding takes it, be it one that trains.

Shape legend: B rows, S tokens of a pass, K tokens so far, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import paddle

from zoo_core.engine.engine import Engine
from zoo_core.generate.batched import BatchLogits, decode_batch
from zoo_core.generate.rules import Row, Rules
from zoo_core.replay.one_row import OneRow
from zoo_ops import Cache

__all__ = ["EnginePasses", "answer_batch", "batch_logits"]

Array = np.ndarray[Any, Any]


class EnginePasses:
    """The passes of an engine, see `zoo_core.generate.pool.Passes`.

    All ranks of the tensor and the pipeline axis make the same ones, and get the same.

    Args:
        engine: of the model.
        one_row: reads single tokens of single rows in its place; not of a model that is being trained.
    """

    def __init__(self, engine: Engine, one_row: OneRow | None = None) -> None:
        self._engine, self._one_row = engine, one_row
        self.reads_prompt_at_once = engine.config.reads_prompt_at_once

    def cache(self, rows: int, room: int) -> Cache:
        """Return an empty cache of this rank's layers."""
        return self._engine.new_cache(rows, room)

    def read(self, cache: Cache, ids_BS: Array, mask_BK: Array | None, positions_BS: Array) -> Array:
        """Read tokens that follow those in the cache; returns the logits after the last column, float32 [B, V]."""
        fields = {"input_ids": ids_BS, "position_ids": positions_BS}
        fields |= {} if mask_BK is None else {"attention_mask": mask_BK}
        reader = self._engine if self._one_row is None or ids_BS.shape != (1, 1) else self._one_row
        return reader.next_logits(fields, cache)

    def reorder(self, cache: Cache, order: Sequence[int]) -> None:
        """Let row i of a cache go on from what row `order[i]` is now, for beam search."""
        cache.reorder(paddle.to_tensor(list(order), dtype="int64"))


def batch_logits(engine: Engine, rows: int, room: int) -> BatchLogits:
    """Return the model with a fresh cache for `rows` rows of `room` tokens, filling included."""
    passes = EnginePasses(engine)
    cache = passes.cache(rows, room)
    return lambda ids_BS, mask_BK, positions_BS: passes.read(cache, ids_BS, mask_BK, positions_BS)


def answer_batch(engine: Engine, rows: Sequence[Row], rules: Rules, most: int) -> list[list[int]]:
    """Return the new tokens of each row.

    Args:
        most: new tokens of any row, here or on another replica.
    """
    logits = batch_logits(engine, len(rows), max(len(row.ids) for row in rows) + most)
    return decode_batch(logits, rows, rules, engine.any_replica)
