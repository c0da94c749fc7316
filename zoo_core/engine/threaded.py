"""The optimizer's arithmetic on CPU, side by side in threads where Paddle's kernels use one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import paddle

from zoo_ops.cpu.threads import array, each

__all__ = ["ThreadedAdamW", "square_sum"]

_RUN = 1 << 16


class ThreadedAdamW(paddle.optimizer.AdamW):  # type: ignore[misc]
    """`paddle.optimizer.AdamW` whose updates of single parameters run in threads; every number is the same."""

    def __init__(self, *args: Any, **named: Any) -> None:
        super().__init__(*args, **named)
        self._waiting: list[tuple[Any, tuple[Any, Any]]] = []

    def _append_optimize_op(self, block: Any, param_and_grad: tuple[Any, Any]) -> None:
        self._waiting.append((block, param_and_grad))

    def _finish_update(self, block: Any, parameters_and_grads: Any) -> None:
        # largest first, so that each thread gets its share of the embedding and the head
        waiting = sorted(self._waiting, key=lambda item: -item[1][0].size)
        self._waiting = []
        update = super()._append_optimize_op
        each(len(waiting), lambda number: update(*waiting[number]))
        super()._finish_update(block, parameters_and_grads)


def square_sum(tensor: Any) -> float:
    """Sum of squares of a float32 CPU tensor, in float64 over runs of 65,536."""
    flat = array(tensor).reshape(-1)
    return float(sum(float(np.dot(run, run)) for run in _runs(flat)))


def _runs(flat: np.ndarray[Any, Any]) -> Sequence[np.ndarray[Any, Any]]:
    return [flat[start : start + _RUN] for start in range(0, flat.size, _RUN)]
