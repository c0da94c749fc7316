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

__all__ = ["REPLICA", "TENSOR", "as_global", "as_local", "dim_of", "move", "moved", "placed", "placements_of"]

TENSOR, REPLICA = 0, 1
"""The axes of the mesh, in order."""


def dim_of(placement: Any) -> int | None:
    """The dim that a placement cuts; `None` for one that cuts none."""
    return next((dim for dim in range(8) if placement.is_shard(dim)), None)


def placed(tensor: int | None = None, replica: int | None = None) -> list[Any]:
    """Placements by the dims that the axes cut; `None` replicates."""
    return [dist.Replicate() if dim is None else dist.Shard(dim) for dim in (tensor, replica)]


def placements_of(x: Any) -> list[Any]:
    """How `x` is placed, parts of a sum as `Replicate`; unlike the members of `x.placements` they outlive `x`."""
    return [dist.Replicate() if dim is None else dist.Shard(dim) for dim in map(dim_of, x.placements)]


def moved(x: Any, placements: Sequence[Any]) -> Any:
    """Return `x` as placed otherwise; without a gradient."""
    sums, now = [old.is_partial() for old in x.placements], [dim_of(old) for old in x.placements]
    wanted = [dim_of(new) for new in placements]
    between = [None if old != new and new is not None else old for old, new in zip(now, wanted, strict=True)]
    if any(sums) or between != now:
        x = dist.reshard(x, x.process_mesh, placed(*between))
    return dist.reshard(x, x.process_mesh, placed(*wanted)) if between != wanted else x


class _Move(PyLayer):  # type: ignore[misc]
    @staticmethod
    def forward(ctx: Any, x: Any, placements: Sequence[Any]) -> Any:
        ctx.back = placements_of(x)
        return moved(x, placements)

    @staticmethod
    def backward(ctx: Any, grad: Any) -> Any:
        return moved(grad, ctx.back)


def move(x: Any, axis: int, dim: int | None) -> Any:
    """Return `x` cut by an axis of the mesh along `dim`, or, for `None`, whole on all its ranks; gradients go back.

    A plain tensor, as layers have within a part that runs locally, stays as it is.
    """
    traced = not paddle.in_dynamic_mode()
    if not traced and not x.is_dist():
        return x
    wanted = placements_of(x)
    wanted[axis] = dist.Replicate() if dim is None else dist.Shard(dim)
    if traced:
        return moved(x, wanted)  # a program has gradients of its own
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
    return _Local.apply(x, mesh, gradient or placements_of(x)) if with_gradient else x._local_value()


def as_global(x: Any, mesh: Any, placements: Sequence[Any]) -> Any:
    """Return a tensor over the mesh of which every rank gives its part."""
    if paddle.is_grad_enabled() and not x.stop_gradient:
        return _Global.apply(x, mesh, placements)
    return dist.auto_parallel.api.dtensor_from_local(x, mesh, list(placements))
