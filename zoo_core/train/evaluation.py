"""Loss over a part of the data that is not trained on; the same samples, each once, under every layout."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from functools import partial

from zoo_core.data import EvalPlan, SampleSource, collate
from zoo_core.engine.engine import Engine, MicroBatch
from zoo_core.train.labels import as_trained

__all__ = ["Evaluated", "Evaluation"]

_AT_ONCE = 8


@dataclass(frozen=True)
class Evaluated:
    """Mean loss a token in nats, its exponential, and how much of what took how long."""

    loss: float
    perplexity: float
    samples: int
    seconds: float


@dataclass(frozen=True)
class Evaluation:
    """An evaluation to be made again and again.

    Args:
        dataset: of the part.
        samples: how many, from the first on.
        micro_batch: samples of one forward pass.
        shift_labels: see `as_trained`.
    """

    dataset: SampleSource
    samples: int
    micro_batch: int
    shift_labels: bool = False

    def run(self, engine: Engine) -> Evaluated:
        """Evaluate; every rank calls it and gets the same."""
        begin, mesh = time.perf_counter(), engine.mesh
        plan = EvalPlan(self.samples, self.micro_batch, mesh.replica, mesh.plan.replicas)
        rows = plan.micro_batches()
        total, tokens = 0.0, 0
        read = partial(collate, self.dataset)
        for first in range(0, len(rows), _AT_ONCE * mesh.plan.accumulate):
            batches: list[MicroBatch] = [
                as_trained(read(row), self.shift_labels)
                for row in rows[first : first + _AT_ONCE * mesh.plan.accumulate]
            ]
            loss, counted = engine.evaluate(batches)
            total, tokens = total + loss, tokens + counted
        mean = total / max(tokens, 1)
        return Evaluated(mean, math.exp(min(mean, 700.0)), self.samples, time.perf_counter() - begin)
