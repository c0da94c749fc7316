"""Batches of samples of like length, so that little is padding."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from zoo_core.data.sampler import BatchPlan

__all__ = ["LengthGroupedPlan"]

_BATCHES = 50
"""Global batches that are sorted together: as many as transformers takes."""


@dataclass(frozen=True)
class LengthGroupedPlan(BatchPlan):
    """A plan whose shuffled samples are sorted by length within every 50 global batches; the batches are shuffled.

    Args:
        lengths: of each sample.
    """

    lengths: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64), repr=False, compare=False)

    def order(self, number: int) -> npt.NDArray[np.int64]:
        """Return the samples of pass `number` in their order."""
        random = np.random.RandomState([self.seed or 0, number])
        shuffled = random.permutation(len(self.lengths))
        together = _BATCHES * self.global_batch
        parts = [shuffled[first : first + together] for first in range(0, len(shuffled), together)]
        ranked = np.concatenate([part[np.argsort(-self.lengths[part], kind="stable")] for part in parts])
        whole = len(ranked) // self.global_batch * self.global_batch
        batches = ranked[:whole].reshape(-1, self.global_batch)
        # the longest comes first, so that a run that does not fit in memory fails in its first step
        random.shuffle(batches[1:])
        return np.concatenate([batches.reshape(-1), ranked[whole:]])
