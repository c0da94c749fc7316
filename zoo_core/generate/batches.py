"""An engine as batched decoding takes it, be it one that trains.

Shape legend: B rows, S tokens of a pass, K tokens so far, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from zoo_core.engine.engine import Engine
from zoo_core.generate.batched import BatchLogits, Row, Rules, decode_batch
from zoo_ops import Cache

__all__ = ["answer_batch", "batch_logits"]

Array = np.ndarray[Any, Any]


def batch_logits(engine: Engine, rows: int, room: int) -> BatchLogits:
    """Return the model with a fresh cache for `rows` rows of `room` tokens, filling included.

    All ranks of a tensor axis call it alike and get the same.
    """
    cache = Cache(engine.config.num_hidden_layers, rows, room)

    def following(ids_BS: Array, mask_BK: Array | None, positions_BS: Array) -> Array:
        fields = {"input_ids": ids_BS, "position_ids": positions_BS}
        return engine.next_logits(fields if mask_BK is None else {**fields, "attention_mask": mask_BK}, cache)

    return following


def answer_batch(engine: Engine, rows: Sequence[Row], rules: Rules, most: int) -> list[list[int]]:
    """Return the new tokens of each row. Not with pipeline stages.

    Args:
        most: new tokens of any row, here or on another replica.
    """
    logits = batch_logits(engine, len(rows), max(len(row.ids) for row in rows) + most)
    return decode_batch(logits, rows, rules, engine.any_replica)
