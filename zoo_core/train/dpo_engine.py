"""The engine of preference optimisation: before each step, the reference model's opinion of the step's answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from zoo_core.engine.batches import MicroBatch, StepResult
from zoo_core.engine.objective import Measured, ObjectiveEngine
from zoo_core.train.dpo_objective import REFERENCE, PairObjective
from zoo_ops import Dropout

__all__ = ["PairEngine"]


class PairEngine(ObjectiveEngine):
    """A policy, and what it is kept near.

    Adapters are switched off to have the reference; a model whose weights are all trained needs a copy of them. As in
    TRL and PaddleNLP the model's own dropouts are off, because the reference has none.

    Args:
        objective: of pairs.
        has_reference: whether there is a reference model; without one its log-probabilities are 0.
        update_every: the policy becomes the reference after so many steps, before the next; 0 or less is never.
        taken: steps that were taken before.
        settings: all else, as `zoo_core.engine.Engine` takes it.
    """

    def __init__(
        self,
        *settings: Any,
        objective: PairObjective,
        has_reference: bool = True,
        update_every: int = -1,
        taken: int = 0,
        **named: Any,
    ) -> None:
        super().__init__(*settings, objective=objective, **named)
        self._has_reference, self._update_every, self._taken = has_reference, update_every, taken
        self.reference: PairEngine | None = None
        for layer in self.layers.sublayers():
            if isinstance(layer, Dropout) and not layer.name_.endswith(".lora_dropout"):
                layer.p = 0.0

    def compared(self, batches: Sequence[MicroBatch]) -> list[MicroBatch]:
        """Return micro batches with the reference model's log-probabilities."""
        if not self._has_reference:
            found = np.zeros((len(batches), len(batches[0]["labels"])), np.float32)
        elif self.lora is not None:
            with self.without_adapters():
                found = self.sequence_log_probs(batches)
        else:
            assert self.reference is not None, "the run has built one"
            found = self.reference.sequence_log_probs(batches)
        return [{**batch, REFERENCE: values} for batch, values in zip(batches, found, strict=True)]

    def train_step(self, batches: Sequence[MicroBatch], learning_rate: float, stop: bool = False) -> StepResult:
        """Take one optimizer step, see `Engine.train_step`."""
        if self._update_every > 0 and self._taken and self._taken % self._update_every == 0:
            self.update_reference()
        self._taken += 1
        return super().train_step(self.compared(batches), learning_rate, stop)

    def measure(self, batches: Sequence[MicroBatch]) -> Measured:
        """Return what the objective comes to, see `ObjectiveEngine.measure`."""
        return super().measure(self.compared(batches))

    def update_reference(self) -> None:
        """Let the reference model be what the policy is now."""
        assert self.reference is not None
        for name, held in self.reference.held.items():
            own = self.held[name].tensor
            if own.is_dist():  # both are placed alike
                held.tensor._local_value().set_value(own._local_value())
            else:
                held.tensor.set_value(own)
