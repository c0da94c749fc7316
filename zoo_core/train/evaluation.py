"""Loss over a part of the data that is not trained on; the same samples, each once, under every layout."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from zoo_core.data import EvalPlan, MicroBatch
from zoo_core.engine.engine import Engine

__all__ = ["Evaluated", "Evaluates", "Evaluation", "Outcome"]

_AT_ONCE = 8


class Outcome(Protocol):
    """What any evaluation found."""

    @property
    def samples(self) -> int:
        """How many were evaluated."""
        ...

    @property
    def seconds(self) -> float:
        """How long it took."""
        ...

    def metrics(self) -> dict[str, float]:
        """The values by the names that `metric_for_best_model` has for them."""
        ...


class Evaluates(Protocol):
    """An evaluation to be made again and again."""

    def run(self, engine: Engine) -> Outcome:
        """Evaluate; every rank calls it and gets the same."""
        ...


@dataclass(frozen=True)
class Evaluated:
    """What an evaluation found.

    Args:
        loss: mean of a token, in nats.
        accuracy: part of the tokens that were the most probable, 0 to 1; `None` where the task does not ask.
        tokens: how many bore a loss.
        samples: how many were evaluated.
        seconds: how long it took.
    """

    loss: float
    accuracy: float | None
    tokens: int
    samples: int
    seconds: float

    @property
    def perplexity(self) -> float:
        """The exponential of the loss."""
        return math.exp(min(self.loss, 700.0))

    def metrics(self) -> dict[str, float]:
        """The values by the names that `metric_for_best_model` has for them."""
        found = {"loss": self.loss, "ppl": self.perplexity}
        return found if self.accuracy is None else {**found, "accuracy": self.accuracy}


@dataclass(frozen=True)
class Evaluation:
    """An evaluation to be made again and again.

    Args:
        samples: how many, from the first on.
        micro_batch: samples of one forward pass.
        read: (rows of sample numbers, int64 [B] each, -1 for padding; the samples that all replicas read at once) -> a
            micro batch for each row, of one shape on all replicas.
        accuracy: whether accuracy is asked for.
    """

    samples: int
    micro_batch: int
    read: Callable[[Sequence[npt.NDArray[np.int64]], npt.NDArray[np.int64]], list[MicroBatch]]
    accuracy: bool = False

    def run(self, engine: Engine) -> Evaluated:
        """Evaluate; every rank calls it and gets the same."""
        begin, mesh = time.perf_counter(), engine.mesh
        plan = EvalPlan(self.samples, self.micro_batch, mesh.replica, mesh.plan.replicas)
        rows, at_once = plan.micro_batches(), _AT_ONCE * mesh.plan.accumulate
        total, tokens, correct = 0.0, 0, 0
        for first in range(0, len(rows), at_once):
            bounds = [min(row * plan.together, self.samples) for row in (first, first + at_once)]
            batches = self.read(list(rows[first : first + at_once]), np.arange(*bounds, dtype=np.int64))
            found = engine.evaluate(batches, self.accuracy)
            total, tokens, correct = total + found.loss, tokens + found.tokens, correct + found.correct
        mean, accuracy = total / max(tokens, 1), correct / max(tokens, 1)
        return Evaluated(mean, accuracy if self.accuracy else None, tokens, self.samples, time.perf_counter() - begin)
