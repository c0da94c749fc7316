"""Early stopping: a run ends when its evaluations get no better."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from zoo_core.arguments import Arguments
from zoo_core.train.generation import generates

__all__ = ["Patience", "compared", "patience_of"]


def compared(arguments: Arguments) -> tuple[str, float]:
    """Return the metric that evaluations are compared by, and the sign that makes lower better."""
    training = arguments.training
    usual = "bleu4" if generates(arguments) else "loss"
    metric = (training.metric_for_best_model or usual).removeprefix("eval_")
    greater = metric not in ("loss", "ppl") if training.greater_is_better is None else training.greater_is_better
    return metric, -1.0 if greater else 1.0


@dataclass
class Patience:
    """Counts evaluations in a row that were not better than the best by more than a threshold.

    Args:
        allowed: how many may be; `None` for any number.
        threshold: how much better counts.
        metric, sign: see `compared`.
        best: the best value so far, times `sign`.
        waited: evaluations since then.
    """

    allowed: int | None
    threshold: float
    metric: str
    sign: float
    best: float | None = None
    waited: int = 0

    def see(self, metrics: Mapping[str, float]) -> None:
        """Take an evaluation into account."""
        if self.allowed is None:
            return
        value = self.sign * metrics[self.metric]
        if self.best is None or value < self.best - self.threshold:
            self.best, self.waited = value, 0
        else:
            self.waited += 1

    @property
    def is_over(self) -> bool:
        """Whether training should end."""
        return self.allowed is not None and self.waited >= self.allowed

    def kept(self) -> dict[str, float | int | None]:
        """Return what a checkpoint keeps."""
        return {"best": self.best, "waited": self.waited}


def patience_of(arguments: Arguments, kept: Mapping[str, float | int | None] | None) -> Patience:
    """Return the patience that the arguments ask for, going on from what a checkpoint kept."""
    training = arguments.training
    made = Patience(training.early_stopping_patience, training.early_stopping_threshold, *compared(arguments))
    if kept:
        made.best, made.waited = kept["best"], int(kept["waited"] or 0)
    return made
