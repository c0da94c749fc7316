"""Learning rate as a function of the step, in the shapes of Megatron and PaddleNLP. Steps count from 1."""

from __future__ import annotations

import math
from dataclasses import dataclass

from zoo_core.arguments import TrainingArguments

__all__ = ["Schedule", "schedule_of"]


@dataclass(frozen=True)
class Schedule:
    """Linear warm-up to `highest`, then a fall to `lowest`, which is kept.

    Args:
        kind: "linear", "cosine", "constant" (no warm-up either) or "constant_with_warmup".
        highest: rate at the end of the warm-up.
        lowest: rate from `decay_steps` on; the constant kinds have none.
        warmup_steps: steps of the warm-up; the first of them already has a rate above 0.
        decay_steps: step at which `lowest` is reached.
    """

    kind: str
    highest: float
    lowest: float
    warmup_steps: int
    decay_steps: int

    def rate(self, step: int) -> float:
        """Return the learning rate of optimizer step `step`, from 1."""
        if self.kind == "constant":
            return self.highest
        if self.warmup_steps > 0 and step <= self.warmup_steps:
            return self.highest * step / self.warmup_steps
        if self.kind == "constant_with_warmup":
            return self.highest
        if step >= self.decay_steps:
            return self.lowest
        done = (step - self.warmup_steps) / (self.decay_steps - self.warmup_steps)
        left = 1.0 - done if self.kind == "linear" else 0.5 * (1.0 + math.cos(math.pi * done))
        return self.lowest + left * (self.highest - self.lowest)


def schedule_of(training: TrainingArguments, max_steps: int) -> Schedule:
    """Return the schedule that the arguments ask of a run of `max_steps`."""
    warmup = training.warmup_steps if training.warmup_steps > 0 else int(training.warmup_ratio * max_steps)
    return Schedule(
        training.lr_scheduler_type,
        training.learning_rate,
        training.min_learning_rate,
        warmup,
        training.decay_steps or max_steps,
    )
