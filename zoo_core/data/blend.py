"""Mixing corpora by weight."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from zoo_core.data.index_cache import Arrays

__all__ = ["blend_counts", "blend_order"]


def _order(weights: Sequence[float], num_samples: int) -> npt.NDArray[np.int16]:
    """Return [num_samples] the corpus of each sample.

    The next sample goes to the corpus that is furthest behind its share: corpus c is due its j-th sample at the time
    (j + 1/2) / weight (the Webster / Sainte-Lague order), so every prefix is mixed as closely as counts allow.
    """
    total = math.fsum(weights)
    shares = [weight / total for weight in weights]
    due = [(np.arange(math.ceil(num_samples * share) + 1) + 0.5) / share for share in shares]
    times = np.concatenate(due)
    corpora = np.repeat(np.arange(len(due), dtype=np.int16), [len(part) for part in due])
    return corpora[np.argsort(times, kind="stable")[:num_samples]]


def blend_order(weights: Sequence[float], num_samples: int) -> Arrays:
    """Say for each of `num_samples` samples which corpus it is from and which sample of that corpus it is.

    Returns:
        `corpus` int16 [num_samples] and `sample` int64 [num_samples]; each corpus is read from its sample 0 on.
    """
    corpus = _order(weights, num_samples)
    sample = np.empty(num_samples, dtype=np.int64)
    for number in range(len(weights)):
        mine = corpus == number
        sample[mine] = np.arange(int(mine.sum()), dtype=np.int64)
    return {"corpus": corpus, "sample": sample}


def blend_counts(order: Arrays, num_corpora: int) -> list[int]:
    """Return how many samples each corpus gives."""
    return [int(count) for count in np.bincount(order["corpus"], minlength=num_corpora)]
