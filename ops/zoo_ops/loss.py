"""Cross entropy over a vocabulary that may be split over the tensor axis.

Shape legend: B batch, S sequence, V vocabulary, v this rank's part of it.
"""

from __future__ import annotations

from typing import Any

import paddle
import paddle.nn.functional as F
from paddle import Tensor
from paddle.autograd import PyLayer

from zoo_ops import parallel
from zoo_ops.cpu.loss import cross_entropy_cpu
from zoo_ops.kernels import cpu_path

__all__ = ["IGNORE", "cross_entropy", "cross_entropy_reference"]

IGNORE = -100
"""Label of a token that bears no loss."""


def cross_entropy_reference(logits_BSV: Tensor, labels_BS: Tensor) -> Tensor:
    """The plain definition, for tests: -log softmax(logits)[label], 0 where the label is -100; [B, S]."""
    log_p = F.log_softmax(logits_BSV, axis=-1)
    kept = labels_BS != IGNORE
    index = paddle.where(kept, labels_BS, paddle.zeros_like(labels_BS))
    loss = -paddle.take_along_axis(log_p, index.unsqueeze(-1), axis=-1).squeeze(-1)
    return loss * kept.astype(loss.dtype)


class _CrossEntropy(PyLayer):  # type: ignore[misc]
    @staticmethod
    def forward(ctx: Any, logits: Tensor, labels: Tensor, start: int, valid: int, split: bool) -> Tensor:
        """Rows of `logits` [N, v] hold columns `start`.. of the vocabulary, of which the first `valid` are real."""
        x = logits.astype("float32")
        top = x[:, :valid].max(axis=-1) if valid else paddle.full([x.shape[0]], -3e38)
        if split:
            parallel.reduce_max(top)
        local = labels - start
        mine = paddle.logical_and(local >= 0, local < valid)
        index = paddle.where(mine, local, paddle.zeros_like(local))
        target = paddle.take_along_axis(x, index.unsqueeze(-1), axis=-1).squeeze(-1) * mine.astype("float32")
        exp = (x - top.unsqueeze(-1)).exp_()
        if valid < x.shape[-1]:
            exp[:, valid:] = 0.0
        total = exp.sum(axis=-1)
        if split:
            both = paddle.stack([total, target])
            parallel.reduce_sum(both)
            total, target = both[0], both[1]
        kept = (labels != IGNORE).astype("float32")
        # `exp` becomes the gradient in place, so a second backward through the same forward is not possible
        ctx.exp, ctx.dtype = exp, logits.dtype
        ctx.saved = (total, kept, index, mine)
        return (total.log() + top - target) * kept

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        total, kept, index, mine = ctx.saved
        weight = grad * kept
        out = ctx.exp
        ctx.exp = None
        rows, width = out.shape
        out.multiply_((weight / total).unsqueeze(-1))
        at = paddle.arange(rows) * width + index
        flat = out.reshape_([-1])
        # overwriting one entry a row in place: an accumulating scatter of this size takes minutes on CPU
        flat.scatter_(at, paddle.gather(flat, at) - weight * mine.astype("float32"))
        out = flat.reshape_([rows, width])
        return out.astype(ctx.dtype)


def cross_entropy(logits: Tensor, labels_BS: Tensor, *, start: int = 0, vocab_size: int | None = None) -> Tensor:
    """Return the loss of each token, float32 [B, S], 0 where the label is -100.

    Args:
        logits: [B, S, V], or this rank's columns [B, S, v] of it when `vocab_size` is given.
        labels_BS: int64, already shifted.
        start: first column of the vocabulary that `logits` holds.
        vocab_size: columns of the whole vocabulary without padding, when `logits` is split over the tensor axis.
    """
    width = logits.shape[-1]
    split = vocab_size is not None and parallel.tensor_axis().degree > 1
    valid = width if vocab_size is None else max(0, min(width, vocab_size - start))
    if not split and not paddle.in_dynamic_mode():
        return cross_entropy_reference(logits[..., :valid].astype("float32"), labels_BS)
    flat = logits.reshape([-1, width])
    if not split and valid == width and cpu_path(flat):
        return cross_entropy_cpu(flat, labels_BS.reshape([-1])).reshape(labels_BS.shape)
    return _CrossEntropy.apply(flat, labels_BS.reshape([-1]), start, valid, split).reshape(labels_BS.shape)
