"""A run in progress: the engine and its data, and what is done at a step's end."""

from __future__ import annotations

import json
import math
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from zoo_core.arguments import Arguments
from zoo_core.checkpoint import Background, checkpoints
from zoo_core.engine import state as states
from zoo_core.engine.engine import Engine
from zoo_core.errors import CheckpointError
from zoo_core.tokenizers import Tokenizer
from zoo_core.train.evaluation import Evaluates, Outcome
from zoo_core.train.log import Speed, StepLine, Stopwatch, eval_line, logger, means_line
from zoo_core.train.patience import Patience, compared
from zoo_core.train.record import EventWriters, LossTable
from zoo_core.train.rundata import RunData
from zoo_core.train.schedule import Schedule
from zoo_core.train.usage import Usage, flops_per_token, usage

__all__ = ["Best", "Session", "tokenizer_files"]

_WRITE_EVERY = 10.0
"""Seconds between writes of the loss table."""


@dataclass(frozen=True)
class Best:
    """The best evaluation so far: its checkpoint's step, and the value of the metric."""

    step: int
    value: float


def tokenizer_files(tokenizer: Tokenizer | None) -> dict[str, bytes]:
    """Return the files that make the tokenizer anew, by name."""
    if tokenizer is None:
        return {}
    with tempfile.TemporaryDirectory(prefix="zoo-tokenizer-") as folder:
        tokenizer.save(Path(folder))
        return {path.name: path.read_bytes() for path in Path(folder).iterdir()}


@dataclass
class Session:
    """What the training loop works with; every rank has one, and only the first writes the records.

    Args:
        arguments: of the run.
        model_name: as the user knows it.
        engine: the model on this rank.
        data: what is read.
        schedule: step -> learning rate.
        table: losses by step.
        events: event files; none on ranks other than the first.
        files: of the tokenizer, for checkpoints.
        best: the best evaluation so far.
        patience: how long to go on without a better evaluation.
        saving: where a checkpoint is written while training goes on.
    """

    arguments: Arguments
    model_name: str
    engine: Engine
    data: RunData
    schedule: Schedule
    table: LossTable
    events: EventWriters
    files: Mapping[str, bytes]
    patience: Patience
    best: Best | None = None
    watch: Stopwatch = field(default_factory=Stopwatch)
    metrics: dict[str, float] = field(default_factory=dict)
    measured: dict[str, Outcome] = field(default_factory=dict)
    evaluated_at: int = -1
    saved_at: int = -1
    ended_at: int | None = None
    seconds: float = 0.0
    saving: Background = field(default_factory=Background)
    _usage: Usage | None = None
    _written: float = 0.0

    def __post_init__(self) -> None:
        self.root = Path(self.arguments.training.output_dir)
        self.is_first = self.engine.mesh.rank == 0
        self._flops = flops_per_token(self.engine.config, self.engine.table, self.data.longest)

    def is_due(self, strategy: str, every: int | None, step: int) -> bool:
        """Whether something done by "steps" or "epoch" is to be done after `step`."""
        if strategy == "epoch":
            return self.data.ends_epoch(step)
        return strategy == "steps" and step % (every or 1) == 0

    def log_step(
        self, step: int, loss: float, rate: float, norm: float, means: Mapping[str, float] | None = None
    ) -> None:
        """Record a step, and print its line if it is time; `means` are what it tells beside its loss."""
        means = means or {}
        training, plan = self.arguments.training, self.engine.mesh.plan
        self.metrics.update({"loss": loss, **means})
        self.table.add(step, loss=loss, learning_rate=rate, grad_norm=norm, **means)
        first = training.logging_first_step and step == self.data.first_step + 1
        if not (first or self.is_due(training.logging_strategy, training.logging_steps, step)):
            return
        speed = self.watch.take(round(plan.global_batch * self.data.tokens_per_sample), plan.world)
        line = StepLine(step, self.data.epoch(step - 1), self.data.batch_in_epoch(step), loss, speed, rate)
        logger.info("%s", line)
        if means:
            logger.info("%s", means_line(step, means))
        self._say_usage(speed)
        values = {**means, "loss": loss, "learning_rate": rate, "grad_norm": norm, "ips_total": speed.ips_total}
        self.events.add(step, {f"train/{name}": value for name, value in values.items()})
        if time.monotonic() - self._written > _WRITE_EVERY:
            self.write_table()

    def _say_usage(self, speed: Speed) -> None:
        """The second line, when it says something new."""
        found = usage(self.engine.mesh.plan, speed, self._flops)
        if self.is_first and found.says_more_than(self._usage):
            self._usage = found
            logger.info("%s", found)

    def write_table(self) -> None:
        """Bring the table of losses to the disk."""
        if self.is_first:
            self.table.write()
            self._written = time.monotonic()

    def evaluate(self, step: int, evaluation: Evaluates, part: str = "validation") -> Outcome:
        """Evaluate on every rank, and record it."""
        found = evaluation.run(self.engine)
        logger.info("%s", eval_line(part, step, found.metrics(), found.samples, found.seconds))
        prefix = "eval" if part == "validation" else part
        self.events.add(step, {f"{prefix}/{name}": value for name, value in found.metrics().items()})
        self.metrics.update({f"{prefix}_{name}": value for name, value in found.metrics().items()})
        self.measured[prefix] = found
        if part == "validation":
            self.evaluated_at = step
            values = {f"eval_{name}": value for name, value in found.metrics().items()}
            self.table.add(step, **{name: value for name, value in values.items() if name in self.table.columns})
            self.patience.see(found.metrics())
            self._compare(step, found)
        return found

    def _compare(self, step: int, found: Outcome) -> None:
        training = self.arguments.training
        saved = step == self.data.max_steps or self.is_due(training.save_strategy, training.save_steps, step)
        if (
            not training.load_best_model_at_end or not saved or training.save_strategy == "no"
        ):  # the best is a checkpoint, and one that stays
            return
        metric, sign = compared(self.arguments)
        value = found.metrics()[metric]
        if self.best is None or sign * value < sign * self.best.value:
            self.best = Best(step, value)

    def save(self, step: int) -> None:
        """Write a checkpoint together with all ranks, or begin to; says where.

        With `async_save` the files are written in a thread, from a copy. The save before is waited for, so there is
        one copy at a time.

        Raises:
            CheckpointError: on every rank; what was there before is whole. Of this save, or of the one before.
        """
        self.finish_saving()
        begin, training = time.perf_counter(), self.arguments.training
        self.write_table()
        write = states.pending_save(
            self.engine,
            self.root,
            step,
            state=self._state(step),
            files=self.files,
            save_total_limit=training.save_total_limit,
            best=f"checkpoint-{self.best.step}" if self.best else None,
            states=not training.ignore_save_lr_and_optim,
            copied=training.async_save,
        )
        self.saved_at = step

        def work() -> None:
            path = write()
            logger.info("saved %s in %.2f s", path, time.perf_counter() - begin)

        if training.async_save:
            self.saving.start(work)
            logger.info("saving step %d while training goes on, copied in %.2f s", step, time.perf_counter() - begin)
        else:
            with self._offering_another():
                work()

    def finish_saving(self) -> None:
        """Wait until what is being saved is on the disk; every rank calls it.

        Raises:
            CheckpointError: on every rank: it could not be saved. What was there before is whole.
        """
        with self._offering_another():
            self.saving.wait()

    @contextmanager
    def _offering_another(self) -> Iterator[None]:
        """Add the checkpoint that is left to what a failed save says."""
        try:
            yield
        except CheckpointError as error:
            left = self.newest()
            more = f"{left} is whole: --resume goes on from it" if left else "no checkpoint was saved before"
            raise CheckpointError(error.what, error.why, "; ".join(filter(None, (error.todo, more)))) from error

    def _state(self, step: int) -> dict[str, Any]:
        data = self.data
        return {
            "model_name": self.model_name,
            "consumed_samples": data.consumed(step),
            "epoch": data.consumed(step) / data.samples_per_epoch,
            "max_steps": data.max_steps,
            "global_batch": data.batches.global_batch,
            "seed": self.arguments.training.seed,
            "schedule": asdict(self.schedule),
            "learning_rate": self.schedule.rate(max(step, 1)),
            "data": dict(data.kept),
            "metrics": {name: value for name, value in self.metrics.items() if math.isfinite(value)},
            "best": asdict(self.best) if self.best else None,
            **({"patience": self.patience.kept()} if self.patience.allowed else {}),
            "arguments": json.loads(self.arguments.to_json()),
        }

    def newest(self) -> Path | None:
        """The newest whole checkpoint of this run's folder."""
        held = checkpoints(self.root)
        return held[0].path if held else None
