"""Which sample goes to which optimizer step, micro batch and data rank: the same global batches on every layout.

Shapes: B samples of a micro batch, S tokens of a sample.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from zoo_core.data.pretrain import SampleSource
from zoo_core.errors import ConfigError

__all__ = ["IGNORED_LABEL", "BatchPlan", "EvalPlan", "MicroBatch", "collate", "eval_batches", "train_batches"]

IGNORED_LABEL = -100
"""The label of positions that take no part in a loss."""

MicroBatch = dict[str, npt.NDArray[np.int64]]
_PADDING = -1


@dataclass(frozen=True)
class BatchPlan:
    """The global batch of optimizer step k (from 0) is the samples [k * G, (k + 1) * G), whatever the layout.

    Its micro batch j of data rank r is the samples from k * G + (j * D + r) * B on, B of them. The state is one number,
    the samples consumed by all ranks: `consumed(step)` is saved, `step_of(consumed)` resumes.

    Args:
        global_batch: G, samples of an optimizer step.
        micro_batch: B, samples of one forward pass of one rank (`per_device_train_batch_size`).
        data_rank: r, of D; ranks that differ in tensor or pipeline place only share it. Sharding ranks count as data.
        data_degree: D.
        num_samples: samples of the dataset; beyond them the plan starts over. None never does.
        seed: shuffle each pass over the dataset; None keeps its order, which pretraining has shuffled already.

    Raises:
        ConfigError: G is no multiple of B * D, or a number is out of range.
    """

    global_batch: int
    micro_batch: int
    data_rank: int = 0
    data_degree: int = 1
    num_samples: int | None = None
    seed: int | None = None
    _orders: dict[int, npt.NDArray[np.int64]] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        together = self.micro_batch * self.data_degree
        if self.micro_batch < 1 or not 0 <= self.data_rank < self.data_degree:
            raise ConfigError(
                f"micro batch {self.micro_batch}, data rank {self.data_rank} of {self.data_degree}",
                "a micro batch has at least one sample, and ranks count from 0",
                "correct per_device_train_batch_size",
            )
        if self.global_batch < 1 or self.global_batch % together:
            raise ConfigError(
                f"a global batch of {self.global_batch} does not divide",
                f"micro batch {self.micro_batch} x data-parallel {self.data_degree} = {together}",
                f"use a multiple of {together}",
            )
        if self.num_samples is not None and self.num_samples < 1:
            raise ConfigError("the dataset has no samples", "", "use a larger corpus")
        if self.seed is not None and self.num_samples is None:
            raise ConfigError("a shuffled plan needs num_samples", "it permutes the dataset", "give len(dataset)")

    @property
    def accumulate(self) -> int:
        """Micro batches of a rank in an optimizer step (`gradient_accumulation_steps`)."""
        return self.global_batch // (self.micro_batch * self.data_degree)

    def consumed(self, step: int) -> int:
        """Return the samples that all ranks have consumed when `step` optimizer steps are done."""
        return step * self.global_batch

    def step_of(self, consumed: int) -> int:
        """Return the optimizer step that follows when `consumed` samples are done.

        Raises:
            ConfigError: `consumed` is within a global batch, as after a change of the global batch.
        """
        if consumed % self.global_batch:
            raise ConfigError(
                f"{consumed} samples are consumed",
                f"that is no multiple of the global batch {self.global_batch}",
                "resume with the global batch of the checkpoint",
            )
        return consumed // self.global_batch

    def global_indices(self, step: int) -> npt.NDArray[np.int64]:
        """Return the samples of the global batch of `step`, int64 [G]."""
        return self._resolve(np.arange(self.consumed(step), self.consumed(step + 1), dtype=np.int64))

    def micro_batches(self, step: int) -> npt.NDArray[np.int64]:
        """Return this rank's samples of `step`, int64 [accumulate, B]."""
        whole = self.global_indices(step).reshape(self.accumulate, self.data_degree, self.micro_batch)
        return whole[:, self.data_rank]

    def epoch(self, consumed: int, samples_per_epoch: float | None = None) -> int:
        """Return the epoch, from 0, after `consumed` samples; `samples_per_epoch` is the dataset's own."""
        per_epoch = samples_per_epoch if samples_per_epoch is not None else self.num_samples
        return int(consumed / per_epoch) if per_epoch else 0

    def _resolve(self, positions: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        if self.num_samples is None:
            return positions
        passes, places = np.divmod(positions, self.num_samples)
        if self.seed is None:
            return places
        indices = np.empty_like(positions)
        for number in np.unique(passes):
            if number not in self._orders:
                self._orders.clear()
                self._orders[int(number)] = self.order(int(number))
            indices[passes == number] = self._orders[int(number)][places[passes == number]]
        return indices

    def order(self, number: int) -> npt.NDArray[np.int64]:
        """Return the samples of pass `number`, from 0, in their order, int64 [num_samples]."""
        samples = self.num_samples or 0
        if self.seed is None:
            return np.arange(samples, dtype=np.int64)
        return np.random.RandomState([self.seed, number]).permutation(samples)


@dataclass(frozen=True)
class EvalPlan:
    """One pass over `num_samples` samples, each exactly once over all ranks; every rank has as many micro batches.

    Where the samples do not fill the last micro batches, -1 stands for a padding sample, whose labels `collate` makes
    IGNORED_LABEL: sums over samples do not depend on the layout.
    """

    num_samples: int
    micro_batch: int
    data_rank: int = 0
    data_degree: int = 1

    @property
    def together(self) -> int:
        """Samples of a micro batch of every rank."""
        return self.micro_batch * self.data_degree

    def micro_batches(self) -> npt.NDArray[np.int64]:
        """Return this rank's samples, int64 [micro batches, B], -1 for padding."""
        rows = -(-self.num_samples // self.together)
        indices = np.full(rows * self.together, _PADDING, dtype=np.int64)
        indices[: self.num_samples] = np.arange(self.num_samples)
        return indices.reshape(rows, self.data_degree, self.micro_batch)[:, self.data_rank]


def collate(dataset: SampleSource, indices: npt.NDArray[np.int64]) -> MicroBatch:
    """Return `input_ids` and `labels`, int64 [B, S], of the samples `indices` [B]; -1 gives ignored labels."""
    samples = [dataset[max(int(index), 0)] for index in indices]
    batch = {name: np.stack([sample[name] for sample in samples]) for name in samples[0]}
    batch["labels"][indices == _PADDING] = IGNORED_LABEL
    return batch


def train_batches(dataset: SampleSource, plan: BatchPlan, consumed: int = 0) -> Iterator[list[MicroBatch]]:
    """Yield for ever the micro batches of one optimizer step after the other, from `consumed` samples on."""
    step = plan.step_of(consumed)
    while True:
        yield [collate(dataset, indices) for indices in plan.micro_batches(step)]
        step += 1


def eval_batches(dataset: SampleSource, plan: EvalPlan) -> Iterator[MicroBatch]:
    """Yield this rank's micro batches of one pass."""
    for indices in plan.micro_batches():
        yield collate(dataset, indices)
