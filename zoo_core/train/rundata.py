"""What a run reads, whatever the task, and where in it the run is."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from zoo_core.arguments import Arguments
from zoo_core.data import BatchPlan, MicroBatch
from zoo_core.engine.auto import engine_for
from zoo_core.engine.engine import Engine
from zoo_core.engine.mesh import Mesh
from zoo_core.train.evaluation import Evaluates
from zoo_core.train.prepared import Prepared

__all__ = ["OpenData", "RunData", "plain_engine"]


def plain_engine(mesh: Mesh, *settings: Any, **named: Any) -> Engine:
    """Build the engine of a plan whose objective is the cross entropy of every token."""
    return engine_for(mesh.plan, Engine)(mesh, *settings, **named)


@dataclass(frozen=True)
class RunData:
    """What a run reads.

    Args:
        batches: which samples make which step.
        steps: yields this rank's micro batches, step by step, from the first step that is not done.
        samples_per_epoch: samples of one pass; not whole where samples run on from pass to pass.
        tokens_per_sample: on average, padding excluded.
        longest: tokens of the longest sample.
        max_steps: length of the run.
        first_step, first_sample: steps and samples that are done already.
        valid, test: evaluations; `None` where the run makes none.
        kept: what a checkpoint keeps of the data, to compare when it is resumed.
        example: a prompt to try the trained model with.
        tuned: whether it is a trained model that goes on, of which a table of metrics and result files are wanted.
        engine: builds the engine, from what `zoo_core.engine.Engine` takes.
        measured: what a step tells beside its loss, by name; evaluations tell it too.
        scored: what evaluations by generating tell, by name.
    """

    batches: BatchPlan
    steps: Callable[[], Iterator[list[MicroBatch]]]
    samples_per_epoch: float
    tokens_per_sample: float
    longest: int
    max_steps: int
    first_step: int
    first_sample: int
    valid: Evaluates | None = None
    test: Evaluates | None = None
    kept: Mapping[str, Any] = field(default_factory=dict)
    example: str = "In the beginning"
    tuned: bool = False
    engine: Callable[..., Engine] = plain_engine
    measured: tuple[str, ...] = ()
    scored: tuple[str, ...] = ()

    def consumed(self, step: int) -> int:
        """Samples that are consumed when `step` steps are done."""
        return self.first_sample + (step - self.first_step) * self.batches.global_batch

    def epoch(self, step: int) -> int:
        """The epoch, from 0, that the samples after `step` steps belong to."""
        return int(self.consumed(step) / self.samples_per_epoch)

    def batch_in_epoch(self, step: int) -> int:
        """How many steps before `step` (from 1) began in its epoch."""
        first = -(-self.epoch(step - 1) * self.samples_per_epoch // self.batches.global_batch)
        return max(0, self.consumed(step - 1) // self.batches.global_batch - int(first))

    def ends_epoch(self, step: int) -> bool:
        """Whether an epoch ends with `step`."""
        return self.epoch(step) > self.epoch(step - 1)


OpenData = Callable[[Arguments, Mesh, Prepared], RunData]
"""Opens what a task reads, on every rank; raises a ZooError on all or on none."""
