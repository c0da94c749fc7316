"""Attention with linear biases (Press et al. 2022, arXiv 2108.12409): a penalty that grows with distance.

Shape legend: B batch, S queries, K keys (past ones included), N query heads of the model, n of this rank.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import paddle

from zoo_ops import parallel

if TYPE_CHECKING:
    from paddle import Tensor

    from zoo_ops.batch import Batch

__all__ = ["alibi_bias", "alibi_slopes"]


def alibi_slopes(heads: int) -> np.ndarray:
    """Return the slope of each head, float32 [N].

    A power of two N has 2^(-8/N), 2^(-16/N), ...; another N has those of the power of two below it, then every second
    one of the power of two above it (as the authors' code, Bloom and Baichuan do).
    """
    below = 2 ** math.floor(math.log2(heads))
    slopes = [2.0 ** (-8.0 * (i + 1) / below) for i in range(below)]
    slopes += [2.0 ** (-4.0 * (2 * i + 1) / below) for i in range(heads - below)]
    return np.asarray(slopes, np.float32)


def alibi_bias(batch: Batch, heads: int, query_len: int, past: int = 0) -> Tensor:
    """Return what is added to the scores of this rank's heads, float32 [1, n, S, K]: -slope x distance.

    Made once for a micro batch. Positions are counted from the query, so padding on the left and packed samples change
    nothing; what lies after the query has 0.

    Args:
        batch: of the pass.
        heads: N, all query heads of the model.
        query_len: S.
        past: cached keys before the first query; K = past + S.
    """
    return batch.once(("zoo_ops.alibi", heads, query_len, past), lambda: _bias(heads, query_len, past))


def _bias(heads: int, query_len: int, past: int) -> Tensor:
    axis = parallel.tensor_axis()
    mine = heads // axis.degree
    slopes_n111 = paddle.to_tensor(alibi_slopes(heads)[axis.rank * mine : (axis.rank + 1) * mine]).reshape([-1, 1, 1])
    key_1K = paddle.arange(past + query_len, dtype="float32").unsqueeze(0)
    query_S1 = paddle.arange(past, past + query_len, dtype="float32").unsqueeze(1)
    return (slopes_n111 * paddle.clip(key_1K - query_S1, max=0.0)).unsqueeze(0)
