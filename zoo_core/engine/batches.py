"""What goes into an engine's passes, and what its steps tell."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import paddle

from zoo_ops import Batch

__all__ = ["EvalSums", "MicroBatch", "StepResult", "to_batch"]

MicroBatch = Mapping[str, "np.ndarray[Any, Any]"]
"""`input_ids` and `labels`, int64 [B, S], and perhaps other fields of `zoo_ops.Batch`."""


@dataclass(frozen=True)
class StepResult:
    """What a training step tells.

    Args:
        loss: mean over all tokens of the global batch that bear a loss, or what the engine's objective came to.
        grad_norm: global norm before clipping.
        tokens: number of those tokens.
        stop: some rank asked to stop; the same on all.
        means: what the objective measures beside the loss, by name.
    """

    loss: float
    grad_norm: float
    tokens: int
    stop: bool = False
    means: Mapping[str, float] = field(default_factory=dict)


class EvalSums(NamedTuple):
    """What an evaluation adds up, over all replicas.

    Args:
        loss: of the tokens that bear one, in nats.
        tokens: how many do.
        correct: how many of them were the most probable; 0 where that was not asked for.
    """

    loss: float
    tokens: int
    correct: int = 0


def to_batch(fields: MicroBatch) -> Batch:
    """Put a micro batch on the device."""
    return Batch(**{name: paddle.to_tensor(values) for name, values in fields.items()})
