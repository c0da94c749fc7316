"""Losses beside the main one: they join the gradients where they arise, so nothing else passes between stages.

A loss that belongs to a hidden layer (multi-token prediction, balance of experts) would otherwise have to travel to
the last stage of a pipeline, and through recomputed blocks. Instead its gradient is added at the layer: the forward
pass hands the hidden state on as it is, the backward pass sends the loss the weight that the main loss has.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import paddle
from paddle import Tensor
from paddle.autograd import PyLayer

__all__ = ["attach_loss", "collected_losses", "set_loss_weight"]

_weight = 0.0
_collected: list[Tensor] | None = None


def set_loss_weight(weight: float) -> None:
    """Say by how much the engine multiplies the sum over tokens of the main loss before the backward pass.

    0, as at first, switches attached losses off.
    """
    global _weight
    _weight = weight


@contextmanager
def collected_losses() -> Iterator[list[Tensor]]:
    """Let `attach_loss` put losses into this list instead: a traced graph gives them back beside what it computes."""
    global _collected
    before, _collected = _collected, []
    try:
        yield _collected
    finally:
        _collected = before


class _Attach(PyLayer):  # type: ignore[misc]
    @staticmethod
    def forward(ctx: Any, x: Tensor, loss: Tensor) -> Tensor:
        ctx.shape, ctx.dtype = loss.shape, loss.dtype
        return x.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        return grad, paddle.full(ctx.shape, _weight, dtype=ctx.dtype)


def attach_loss(x: Tensor, loss: Tensor) -> Tensor:
    """Return `x`, and in the backward pass add the gradient of `loss` as if it were part of the main loss.

    Args:
        x: what the layer returns; it must lead to the main loss.
        loss: a scalar: the sum over the micro batch's tokens of a loss per token, its coefficient included. It is
            divided by what the main loss is divided by, the tokens of the global batch that bear one.
    """
    if loss.stop_gradient:
        return x
    if _collected is not None:
        _collected.append(loss)
        return x
    return _Attach.apply(x, loss)
