"""The global gradient norm over the whole mesh, and clipping by it.

fleet's own clip cannot tell a fused weight whose key/value part is held by several ranks from one that is not, and
under sharding stage 3 with tensor parallelism it sums over the sharding group only. So zoo counts for itself: each
rank adds the squares of what it holds, divided by the number of ranks that hold the same, and one sum over the world
gives the norm of the single card.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import paddle
import paddle.distributed as dist
from paddle.nn.clip import ClipGradBase

from zoo_core.engine.build import Held
from zoo_core.engine.loss_scale import LossScale
from zoo_core.engine.mesh import Mesh
from zoo_core.engine.threaded import square_sum
from zoo_core.layout import copied
from zoo_ops.cpu.threads import each

__all__ = ["GlobalNorm"]


class GlobalNorm(ClipGradBase):  # type: ignore[misc]
    """Clips gradients to `limit` by their global norm; `norm` holds the last one, before clipping.

    Args:
        held: the parameters of this rank, by the name of their tensor.
        mesh: where the ranks are.
        limit: the largest norm; 0 never clips.
        loss_scale: what the gradients are multiplied by; they are divided by it, and dropped where they overflowed.
    """

    def __init__(self, held: Mapping[str, Held], mesh: Mesh, limit: float, loss_scale: LossScale | None = None) -> None:
        super().__init__()
        self._held, self._mesh, self._limit = held, mesh, limit
        self._loss_scale = loss_scale or LossScale()
        self.overflowed = False
        """Whether the last gradients were dropped, so that the step changed nothing."""
        self.norm: Any = None
        self.stopping = False
        """Whether a rank asked to stop: set before a step, agreed by all after it, at no extra message."""
        self.tied: frozenset[str] = frozenset()
        """Parameters that both ends of the pipeline hold."""
        self.whole_on_all: frozenset[str] = frozenset()
        """Parameters that every rank of the sharding axis updates, though it is sharded."""
        self.beside: list[tuple[Any, Any]] = []
        """Parameters of another optimizer, with their gradients, that count and are scaled together with these."""

    def _counted(self, name: str, grad: Any, square: Any) -> Any:
        """The part of the squared norm that this rank adds for a gradient whose sum of squares is `square`."""
        held, plan = self._held[name], self._mesh.plan
        if held.rule.dim is None:
            square = square / plan.tensor
        else:
            runs = copied(held.rule, plan.tensor, self._mesh.place.tensor)
            if runs and tuple(grad.shape) == tuple(held.tensor.shape):
                for start, stop, copies in runs:
                    part = paddle.slice(grad, [held.rule.dim], [start], [stop]).contiguous()
                    square = square - _square_sums([part])[0] * (1 - 1 / copies)
        if plan.expert > 1 and held.rule.expert is not None:
            return square / (plan.replicas // plan.expert)
        # a tied weight lies on both ends of the pipeline with the same summed gradient
        same = plan.data * (2 if name in self.tied else 1)
        return square / (same * (plan.sharding if name in self.whole_on_all else 1))

    def _dygraph_clip(self, params_grads: list[tuple[Any, Any]]) -> list[tuple[Any, Any]]:
        all_grads = [*params_grads, *self.beside]
        with paddle.no_grad():
            found = [(parameter.name.removeprefix("slice@"), g) for parameter, g in all_grads if g is not None]
            squares = _square_sums([grad for _, grad in found])
            counted = [self._counted(*pair, square) for pair, square in zip(found, squares, strict=True)]
            total = paddle.to_tensor(sum(counted), "float64") if found else paddle.zeros([], "float64")
            if self._mesh.plan.world > 1:
                both = paddle.stack([total, paddle.full([], float(self.stopping), "float64")])
                dist.all_reduce(both)
                total, self.stopping = both[0], bool(both[1] > 0)
            self.norm = total.sqrt() / self._loss_scale.value
            self.overflowed = self._loss_scale.adapts and not math.isfinite(float(self.norm))
            if self.overflowed:
                return []
            if self._limit > 0 or self._loss_scale.adapts:
                scale = self._limit / paddle.clip(self.norm, min=self._limit) if self._limit > 0 else paddle.ones([])
                scale = scale / self._loss_scale.value
                for _, grad in all_grads:
                    if grad is not None:
                        _multiply(grad, scale)
        return params_grads

    def __call__(self, params_grads: list[tuple[Any, Any]]) -> list[tuple[Any, Any]]:
        return self._dygraph_clip(params_grads)


def _multiply(grad: Any, scale: Any) -> None:
    """Multiply in place; the product of a float16 gradient with a small scale is taken in float32."""
    if grad.dtype == paddle.float16:
        paddle.assign((grad.astype("float32") * scale.astype("float32")).astype(grad.dtype), grad)
    else:
        grad.multiply_(scale.astype(grad.dtype))


def _square_sums(grads: list[Any]) -> list[Any]:
    """The sum of squares of each gradient: numbers on CPU, scalars on a device."""
    if not all(grad.place.is_cpu_place() and grad.dtype == paddle.float32 for grad in grads):
        return [_square_sum(grad) for grad in grads]
    sums = [0.0] * len(grads)

    def add(number: int) -> None:
        sums[number] = square_sum(grads[number])

    each(len(grads), add)
    return sums


def _square_sum(grad: Any) -> Any:
    return paddle.sum(paddle.square(grad.astype("float32"))).astype("float64")
