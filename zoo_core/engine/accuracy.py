"""How often the most probable token is the right one, on logits that may be split over the vocabulary.

Shape legend: B batch, S sequence, V vocabulary, v this rank's part of it.
"""

from __future__ import annotations

import paddle
import paddle.distributed as dist
from paddle import Tensor

from zoo_ops import parallel
from zoo_ops.loss import IGNORE

__all__ = ["count_correct"]


def count_correct(logits: Tensor, labels_BS: Tensor, *, start: int = 0, vocab_size: int | None = None) -> Tensor:
    """Return how many labels, those of -100 aside, have the highest logit of their position; float32 [].

    Args:
        logits: [B, S, V], or this rank's columns [B, S, v] of it when `vocab_size` is given.
        labels_BS: int64, already shifted.
        start: first column of the vocabulary that `logits` holds.
        vocab_size: columns of the whole vocabulary without padding, when `logits` is split over the tensor axis.
    """
    width = logits.shape[-1]
    valid = width if vocab_size is None else max(0, min(width, vocab_size - start))
    axis = parallel.tensor_axis()
    lowest = float(paddle.finfo(logits.dtype).min)
    if valid:
        best_BS = logits[..., :valid].max(-1).astype("float32")
        at_BS = logits[..., :valid].argmax(-1) + start
    else:  # columns of padding only
        best_BS = paddle.full(labels_BS.shape, lowest)
        at_BS = paddle.full(labels_BS.shape, -1, dtype="int64")
    if vocab_size is not None and axis.degree > 1:
        whole_BS = best_BS.clone()
        dist.all_reduce(whole_BS, op=dist.ReduceOp.MAX, group=axis.group)
        # of equal maxima the first column counts, as argmax has it on one card
        far = paddle.full_like(at_BS, vocab_size)
        at_BS = paddle.where(best_BS == whole_BS, at_BS, far)
        dist.all_reduce(at_BS, op=dist.ReduceOp.MIN, group=axis.group)
    counted = paddle.logical_and(at_BS == labels_BS, labels_BS != IGNORE)
    return counted.astype("float32").sum()
