"""Cross entropy on CPU over a whole vocabulary: one pass forward, one backward, rows split over the threads.

Shape legend: T tokens, V vocabulary.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import paddle
from paddle.autograd import PyLayer

from zoo_ops.cpu.threads import array, each, empty, runs

if TYPE_CHECKING:
    from paddle import Tensor

__all__ = ["cross_entropy_cpu"]

_IGNORE = -100
_CLIPPED = 60.0


class _CrossEntropy(PyLayer):  # type: ignore[misc]
    @staticmethod
    def forward(ctx: Any, logits: Tensor, labels: Tensor) -> Tensor:
        loss, loss_T = empty(labels.shape)
        x_TV, labels_T1 = logits.detach(), labels.unsqueeze(-1)
        parts = runs(len(loss_T))
        softmax: list[Any] = [None] * len(parts)

        def do(number: int) -> None:
            rows = parts[number]
            # the function of paddle.nn.functional is this and a warning of deprecation
            softmax[number], found = paddle._C_ops.cross_entropy_with_softmax(
                x_TV[rows], labels_T1[rows], False, True, True, _IGNORE, -1
            )
            loss_T[rows] = array(found)[:, 0]
            # paddle's CPU softmax takes every logit more than 64 below the largest for one that is 64 below
            for token in np.flatnonzero(loss_T[rows] > _CLIPPED) + rows.start:
                row = array(x_TV[token])
                top = row.max()
                loss_T[token] = top + np.log(np.exp(row - top).sum()) - row[int(labels[token])]
            # over a large vocabulary paddle's CPU softmax passes over a NaN, and a diverged model would seem sound
            broken = ~np.isfinite(array(x_TV[rows]).max(axis=-1, initial=-np.inf))
            loss_T[rows][broken & (array(labels[rows]) != _IGNORE)] = np.nan

        each(len(parts), do)
        ctx.softmax, ctx.labels, ctx.parts = softmax, array(labels), parts
        return loss

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        weight_T = np.where(ctx.labels == _IGNORE, np.float32(0), array(grad))
        dlogits, dlogits_TV = empty([len(weight_T), ctx.softmax[0].shape[-1]])
        index_T = np.where(ctx.labels == _IGNORE, 0, ctx.labels)

        def do(number: int) -> None:
            rows = ctx.parts[number]
            out = dlogits_TV[rows]
            np.multiply(array(ctx.softmax[number]), weight_T[rows, None], out=out)
            out[np.arange(len(out)), index_T[rows]] -= weight_T[rows]

        each(len(ctx.parts), do)
        return dlogits


def cross_entropy_cpu(logits_TV: Tensor, labels_T: Tensor) -> Tensor:
    """Return -log softmax(logits)[label], float32 [T], 0 where the label is -100."""
    return _CrossEntropy.apply(logits_TV, labels_T)
