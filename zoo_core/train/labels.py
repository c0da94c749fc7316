"""Which label a position has."""

from __future__ import annotations

import numpy as np

from zoo_core.data import IGNORED_LABEL, MicroBatch

__all__ = ["as_trained"]


def as_trained(batch: MicroBatch, shift_labels: bool) -> MicroBatch:
    """Return a micro batch with the labels that `lm_shift_labels` asks for.

    Without it, position i has the token that follows it in the corpus, also at the end of the row. With it the labels
    are the row itself and the loss shifts them, as in PaddleNLP: position i predicts token i + 1 of the same row, and
    the last position bears no loss.
    """
    if not shift_labels:
        return batch
    ids, padding = batch["input_ids"], batch["labels"] == IGNORED_LABEL
    labels = np.concatenate([ids[:, 1:], np.full_like(ids[:, :1], IGNORED_LABEL)], axis=1)
    return {**batch, "labels": np.where(padding, IGNORED_LABEL, labels)}
