"""What one micro batch is to a rank: the part of a plan on which a stage's activations and times depend."""

from __future__ import annotations

from typing import NamedTuple

from zoo_core.config import ModelConfig
from zoo_core.plan.plan import Plan

__all__ = ["Work", "work_of"]


class Work(NamedTuple):
    """A micro batch on one rank of a tensor axis.

    Args:
        samples, sequence: of the micro batch.
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


def work_of(plan: Plan, config: ModelConfig) -> Work:
    """Return a plan's work; samples of unknown length are as long as the model allows."""
    sequence = plan.sequence or config.max_position_embeddings
    return Work(plan.micro_batch, sequence, plan.tensor, plan.expert, plan.sequence_parallel, plan.recompute)
