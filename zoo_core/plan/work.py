"""What one micro batch is to a rank, and in which setting: what a stage's activations and times depend on."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

from zoo_core.config import ModelConfig
from zoo_core.plan.counts import Counted
from zoo_core.plan.plan import Plan
from zoo_core.plan.precision import Keeping, Numbers
from zoo_core.plan.tuned import Tuned

__all__ = ["Setting", "Work", "setting_of", "work_of"]


@dataclass(frozen=True, eq=False)
class Setting:
    """What stays the same from plan to plan; compared by identity, as a search looks things up by it very often.

    Args:
        counts: the model, counted.
        numbers: element types.
        keeping: what blocks keep.
    """

    counts: Counted
    numbers: Numbers
    keeping: Keeping

    @property
    def config(self) -> ModelConfig:
        """The model's."""
        return self.counts.config

    @property
    def tuned(self) -> Tuned:
        """What is trained."""
        return self.counts.tuned


@lru_cache(maxsize=64)
def setting_of(counts: Counted, numbers: Numbers, keeping: Keeping) -> Setting:
    """Return the setting, the same object for the same three."""
    return Setting(counts, numbers, keeping)


class Work(NamedTuple):
    """A micro batch on one rank of a tensor axis.

    Args:
        samples, sequence: of the micro batch; both answers of a pair count.
        tensor, expert: degrees.
        sequence_parallel: the sequence is split between the blocks' matrix products.
        recompute: what is recomputed.
    """

    samples: int
    sequence: int
    tensor: int
    expert: int
    sequence_parallel: bool
    recompute: str

    @property
    def tokens(self) -> int:
        """Tokens of the micro batch."""
        return self.samples * self.sequence

    @property
    def shard(self) -> int:
        """Ranks that share the sequence where it is split."""
        return self.tensor if self.sequence_parallel else 1


def work_of(plan: Plan, counts: Counted) -> Work:
    """Return a plan's work; samples of unknown length are as long as the model allows."""
    sequence, samples = plan.sequence or counts.config.max_position_embeddings, plan.micro_batch * counts.tuned.rows
    return Work(samples, sequence, plan.tensor, plan.expert, plan.sequence_parallel, plan.recompute)
