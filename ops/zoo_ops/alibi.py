"""Attention with linear biases (Press et al. 2022, arXiv 2108.12409): a penalty that grows with distance.

Shape legend: B batch, S queries, K keys (past ones included), P virtual keys, N query heads of the model, n of this
rank.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import paddle

from zoo_ops import parallel
from zoo_ops.masks import real_before
from zoo_ops.prefix import virtual_entries

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
    nothing; what lies after the query has 0. Virtual tokens of a prefix stand right before the first real token of
    each sample: with P of them, [B or 1, n, S, P + K].

    Args:
        batch: of the pass.
        heads: N, all query heads of the model.
        query_len: S.
        past: cached keys before the first query; K = past + S.
    """
    virtual = virtual_entries().count

    def make() -> Tensor:
        bias_1nSK = _bias(heads, query_len, past)
        return _with_virtual(bias_1nSK, batch, heads, past, virtual) if virtual else bias_1nSK

    return batch.once(("zoo_ops.alibi", heads, query_len, past, virtual), make)


def _slopes(heads: int) -> Tensor:
    """Those of this rank's heads, float32 [n, 1, 1]."""
    axis = parallel.tensor_axis()
    mine = heads // axis.degree
    return paddle.to_tensor(alibi_slopes(heads)[axis.rank * mine : (axis.rank + 1) * mine]).reshape([-1, 1, 1])


def _bias(heads: int, query_len: int, past: int) -> Tensor:
    key_1K = paddle.arange(past + query_len, dtype="float32").unsqueeze(0)
    query_S1 = paddle.arange(past, past + query_len, dtype="float32").unsqueeze(1)
    return (_slopes(heads) * paddle.clip(key_1K - query_S1, max=0.0)).unsqueeze(0)


def _with_virtual(bias_1nSK: Tensor, batch: Batch, heads: int, past: int, virtual: int) -> Tensor:
    """Put the distances to the virtual tokens in front, [B or 1, n, S, P + K]."""
    place_B1S1 = real_before(batch, bias_1nSK.shape[2], past).astype("float32").unsqueeze(1).unsqueeze(-1)
    front_BnSP = _slopes(heads) * (paddle.arange(-virtual, 0, dtype="float32") - place_B1S1)
    return paddle.concat([front_BnSP, bias_1nSK.expand([front_BnSP.shape[0], *bias_1nSK.shape[1:]])], axis=-1)
