"""The global gradient norm over the whole mesh, and clipping by it.

fleet's own clip cannot tell a fused weight whose key/value part is held by several ranks from one that is not, and
under sharding stage 3 with tensor parallelism it sums over the sharding group only. So zoo counts for itself: each
rank adds the squares of what it holds, divided by the number of ranks that hold the same, and one sum over the world
gives the norm of the single card.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import paddle
import paddle.distributed as dist
from paddle.nn.clip import ClipGradBase

from zoo_core.engine.build import Held
from zoo_core.engine.mesh import Mesh
from zoo_core.layout import copied

__all__ = ["GlobalNorm"]


class GlobalNorm(ClipGradBase):  # type: ignore[misc]
    """Clips gradients to `limit` by their global norm; `norm` holds the last one, before clipping.

    Args:
        held: the parameters of this rank, by the name of their tensor.
        mesh: where the ranks are.
        limit: the largest norm; 0 never clips.
    """

    def __init__(self, held: Mapping[str, Held], mesh: Mesh, limit: float) -> None:
        super().__init__()
        self._held, self._mesh, self._limit = held, mesh, limit
        self.norm: Any = None
        self.stopping = False
        """Whether a rank asked to stop: set before a step, agreed by all after it, at no extra message."""
        self.tied: frozenset[str] = frozenset()
        """Parameters that both ends of the pipeline hold."""
        self.whole_on_all: frozenset[str] = frozenset()
        """Parameters that every rank of the sharding axis updates, though it is sharded."""

    def _counted(self, name: str, grad: Any) -> Any:
        """The part of the squared norm that this rank adds for a gradient."""
        held, plan = self._held[name], self._mesh.plan
        square = _square_sum(grad)
        if held.rule.dim is None:
            square = square / plan.tensor
        else:
            runs = copied(held.rule, plan.tensor, self._mesh.place.tensor)
            if runs and tuple(grad.shape) == tuple(held.tensor.shape):
                for start, stop, copies in runs:
                    part = paddle.slice(grad, [held.rule.dim], [start], [stop])
                    square = square - _square_sum(part) * (1 - 1 / copies)
        # a tied weight lies on both ends of the pipeline with the same summed gradient
        same = plan.data * (2 if name in self.tied else 1)
        return square / (same * (plan.sharding if name in self.whole_on_all else 1))

    def _dygraph_clip(self, params_grads: list[tuple[Any, Any]]) -> list[tuple[Any, Any]]:
        with paddle.no_grad():
            total = paddle.zeros([], "float64")
            for parameter, grad in params_grads:
                if grad is not None:
                    total = total + self._counted(parameter.name.removeprefix("slice@"), grad)
            if self._mesh.plan.world > 1:
                both = paddle.stack([total, paddle.full([], float(self.stopping), "float64")])
                dist.all_reduce(both)
                total, self.stopping = both[0], bool(both[1] > 0)
            self.norm = total.sqrt()
            if self._limit > 0:
                scale = self._limit / paddle.clip(self.norm, min=self._limit)
                for _, grad in params_grads:
                    if grad is not None:
                        grad.multiply_(scale.astype(grad.dtype))
        return params_grads

    def __call__(self, params_grads: list[tuple[Any, Any]]) -> list[tuple[Any, Any]]:
        return self._dygraph_clip(params_grads)


def _square_sum(grad: Any) -> Any:
    return paddle.sum(paddle.square(grad.astype("float32"))).astype("float64")
