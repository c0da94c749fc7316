"""Tensors from one placement to another, and in and out of the mesh.

gloo has no collective for partial -> shard and for shard -> shard, nor has Paddle a CPU kernel that would do without
one; both go by way of a replica there, forward and backward, which is exact. The same path is taken on every device.

A mesh has two axes here: the tensor axis, and the replicas, which read different samples.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import paddle
import paddle.distributed as dist
from paddle.autograd import PyLayer

__all__ = ["REPLICA", "TENSOR", "as_global", "as_local", "dim_of", "move", "moved", "placed"]

TENSOR, REPLICA = 0, 1
"""The axes of the mesh, in order."""


def dim_of(placement: Any) -> int | None:
    """The dim that a placement cuts; `None` for one that cuts none."""
    return next((dim for dim in range(8) if placement.is_shard(dim)), None)


def placed(tensor: int | None = None, replica: int | None = None) -> list[Any]:
    """Placements by the dims that the axes cut; `None` replicates."""
    return [dist.Replicate() if dim is None else dist.Shard(dim) for dim in (tensor, replica)]


def moved(x: Any, placements: Sequence[Any]) -> Any:
    """Return `x` as placed otherwise; without a gradient."""
    now, wanted = list(x.placements), list(placements)
    between = [
        dist.Replicate()
        if old != new and (old.is_partial() or (dim_of(old) is not None and dim_of(new) is not None))
        else old
        for old, new in zip(now, wanted, strict=True)
    ]
    if between != now:
        x = dist.reshard(x, x.process_mesh, between)
    return dist.reshard(x, x.process_mesh, wanted) if between != wanted else x


class _Move(PyLayer):  # type: ignore[misc]
    @staticmethod
    def forward(ctx: Any, x: Any, placements: Sequence[Any]) -> Any:
        ctx.back = [dist.Replicate() if old.is_partial() else old for old in x.placements]
        return moved(x, placements)

    @staticmethod
    def backward(ctx: Any, grad: Any) -> Any:
        return moved(grad, ctx.back)


def move(x: Any, axis: int, dim: int | None) -> Any:
    """Return `x` cut by an axis of the mesh along `dim`, or, for `None`, whole on all its ranks; gradients go back.

    A plain tensor, as layers have within a part that runs locally, stays as it is.
    """
    if not x.is_dist():
        return x
    wanted = list(x.placements)
    wanted[axis] = dist.Replicate() if dim is None else dist.Shard(dim)
    return x if wanted == list(x.placements) else _Move.apply(x, wanted)


class _Local(PyLayer):  # type: ignore[misc]
    @staticmethod
    def forward(ctx: Any, x: Any, mesh: Any, gradient: Sequence[Any]) -> Any:
        # not `x.process_mesh`, which lies within `x` and is gone with it
        ctx.mesh, ctx.gradient = mesh, list(gradient)
        return x._local_value().clone()

    @staticmethod
    def backward(ctx: Any, grad: Any) -> Any:
        return dist.auto_parallel.api.dtensor_from_local(grad, ctx.mesh, ctx.gradient)


class _Global(PyLayer):  # type: ignore[misc]
    @staticmethod
    def forward(ctx: Any, x: Any, mesh: Any, placements: Sequence[Any]) -> Any:
        ctx.placements = list(placements)
        return dist.auto_parallel.api.dtensor_from_local(x, mesh, list(placements))

    @staticmethod
    def backward(ctx: Any, grad: Any) -> Any:
        return moved(grad, ctx.placements)._local_value()


def as_local(x: Any, mesh: Any, gradient: Sequence[Any] | None = None) -> Any:
    """Return this rank's part of `x` as a plain tensor.

    Args:
        mesh: what `x` lies over.
        gradient: how the gradients that come back are placed; by default as `x` is. Parts of a sum are `Partial`.
    """
    with_gradient = paddle.is_grad_enabled() and not x.stop_gradient
    return _Local.apply(x, mesh, gradient or x.placements) if with_gradient else x._local_value()


def as_global(x: Any, mesh: Any, placements: Sequence[Any]) -> Any:
    """Return a tensor over the mesh of which every rank gives its part."""
    if paddle.is_grad_enabled() and not x.stop_gradient:
        return _Global.apply(x, mesh, placements)
    return dist.auto_parallel.api.dtensor_from_local(x, mesh, list(placements))
