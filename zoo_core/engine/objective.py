"""An engine that minimises something else than the cross entropy of every token.

Shape legend: N micro batches, R rows of one, S sequence, T terms, M measurements.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import paddle
import paddle.distributed as dist

from zoo_core.engine.batches import MicroBatch, StepResult
from zoo_core.engine.engine import Engine
from zoo_ops import Batch
from zoo_ops.preference import sequence_log_probs

__all__ = ["Measured", "Objective", "ObjectiveEngine"]

_LOSS = -1
"""The loss takes micro batches from the feed as chunks do, under this number."""

_BESIDE = "beside"
"""What a batch remembers the fields of the objective by."""


class Objective(Protocol):
    """A loss that is a sum of terms, each a mean over something that the global batch has a number of.

    What is divided by is counted over the whole global batch first, so the loss is the same however the batch is cut
    into micro batches and spread over replicas.
    """

    fields: tuple[str, ...]
    """Fields of a micro batch that it reads beside `labels`; the model does not get them."""

    names: tuple[str, ...]
    """What it measures beside the loss."""

    def counts(self, batches: Sequence[MicroBatch]) -> npt.NDArray[np.float64]:
        """Return how many of each term's things there are in these micro batches, float64 [T]."""
        ...

    def __call__(
        self, logits: Any, labels_RS: Any, beside: Mapping[str, Any], vocab: Mapping[str, int]
    ) -> tuple[Any, Any]:
        """Return the sums of a micro batch: the terms, float32 [T], and the measurements, float32 [M], no gradient.

        Args:
            logits: of the head, perhaps this rank's columns, as `vocab` says (see `zoo_ops.cross_entropy`).
            labels_RS: int64; all -100 in a micro batch that is filling.
            beside: the tensors of `fields`.
        """
        ...

    def means(self, sums_M: npt.NDArray[np.float64], counts_T: npt.NDArray[np.float64]) -> dict[str, float]:
        """Return what is told of the measurements of a global batch, by name."""
        ...


@dataclass(frozen=True)
class Measured:
    """What an objective came to over some micro batches of all replicas.

    Args:
        loss: the objective.
        means: what it measures, by name.
        counts: what its terms were divided by.
        sums: of the terms and of the measurements, to be added up with others.
    """

    loss: float
    means: Mapping[str, float] = field(default_factory=dict)
    counts: npt.NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))
    sums: npt.NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))


class ObjectiveEngine(Engine):
    """An engine with an objective of its own; losses that layers attach themselves are off.

    Args:
        objective: what is minimised.
        settings: all else, as `Engine` takes it.
    """

    attaches = False

    def __init__(self, *settings: Any, objective: Objective, **named: Any) -> None:
        super().__init__(*settings, **named)
        self.objective = objective
        self._scales: Any = None
        self._sums: Any = None
        self._log_probs: list[Any] | None = None

    def _to_batch(self, fields: MicroBatch, past: int = 0) -> Batch:
        own = self.objective.fields
        batch = super()._to_batch({name: values for name, values in fields.items() if name not in own}, past)
        batch.once(_BESIDE, lambda: {name: paddle.to_tensor(fields[name]) for name in own if name in fields})
        return batch

    def _loss(self, logits: Any, labels: Any) -> Any:
        _, batch = self._feed.take(_LOSS)
        if self._log_probs is not None:
            self._log_probs.append(sequence_log_probs(logits, labels, **self._vocab())[0])
            return paddle.zeros([])
        terms_T, sums_M = self.objective(logits, labels, batch.once(_BESIDE, dict), self._vocab())
        self._sums += paddle.concat([terms_T.detach(), sums_M]).astype("float64")
        return (terms_T * self._scales).sum()

    def train_step(self, batches: Sequence[MicroBatch], learning_rate: float, stop: bool = False) -> StepResult:
        """Take one optimizer step, see `Engine.train_step`; its result has the objective's means too."""
        plan = self.mesh.plan
        scale = self.updater.loss_scale.value if self.updater is not None else 1.0
        counts_T = self._count(batches, scale * plan.accumulate * self._averaged)
        result = super().train_step(batches, learning_rate, stop)
        return replace(result, means=self._measured(counts_T).means)

    def measure(self, batches: Sequence[MicroBatch]) -> Measured:
        """Return what the objective comes to over all replicas' micro batches, without training.

        Every replica passes the same number of micro batches, of one shape.
        """
        counts_T = self._count(batches, 1.0)
        self._sweep(batches)
        return self._measured(counts_T)

    def together(self, parts: Sequence[Measured]) -> Measured:
        """Return what several measurements come to as one."""
        counts_T, sums = sum(part.counts for part in parts), sum(part.sums for part in parts)
        return self._told(np.asarray(counts_T), np.asarray(sums))

    def sequence_log_probs(self, batches: Sequence[MicroBatch]) -> npt.NDArray[np.float32]:
        """Return the log-probability of each row's labels in this replica's micro batches, float32 [N, R]."""
        self._log_probs = []
        try:
            self._sweep(batches)
            found = self._log_probs[: len(batches)]  # a pipeline's last round may be filled up
        finally:
            self._log_probs = None
        values = paddle.stack(found) if found else paddle.zeros([len(batches), len(batches[0]["labels"])])
        return np.asarray(self._over_stages(values.astype("float32")).numpy())

    @contextmanager
    def without_adapters(self) -> Iterator[None]:
        """Let the model be its base for a while."""
        layers = list(self._stage.adapted.values())
        own = [(layer._parameters["lora_A"], layer._parameters["lora_B"], layer.scale) for layer in layers]
        for layer in layers:
            layer.set_adapter(None, None, layer.scale)
        try:
            yield
        finally:
            for layer, adapter in zip(layers, own, strict=True):
                layer.set_adapter(*adapter)

    def _count(self, batches: Sequence[MicroBatch], factor: float) -> npt.NDArray[np.float64]:
        """Count what the terms are divided by, over all replicas; in the loss they are then times `factor`."""
        counts_T = self._over_replicas(paddle.to_tensor(self.objective.counts(batches)))
        self._scales = paddle.to_tensor(factor / np.maximum(counts_T, 1.0), dtype="float32")
        self._sums = paddle.zeros([len(counts_T) + len(self.objective.names)], dtype="float64")
        return counts_T

    def _measured(self, counts_T: npt.NDArray[np.float64]) -> Measured:
        """What the objective came to since `_count`."""
        return self._told(counts_T, self._over_replicas(self._over_stages(self._sums)))

    def _told(self, counts_T: npt.NDArray[np.float64], sums: npt.NDArray[np.float64]) -> Measured:
        terms = len(counts_T)
        loss = float((sums[:terms] / np.maximum(counts_T, 1.0)).sum())
        return Measured(loss, self.objective.means(sums[terms:], counts_T), counts_T, sums)

    def _over_replicas(self, values: Any) -> npt.NDArray[np.float64]:
        for group in self._replica_groups():
            dist.all_reduce(values, group=group)
        return np.asarray(values.numpy(), np.float64)
