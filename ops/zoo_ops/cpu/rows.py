"""The few rows of one generated token on CPU: forward only, one numpy call where paddle starts several operations.

There is so little to compute that what counts is the cost of starting it and, for a projection, how quickly its weight
is read: large ones by every core. Run it within `one_blas_thread`.

Shape legend: T rows (all dims but the last), H last dim, B batch, S sequence, K keys, N heads, M kv heads, G = N / M, D
head width, W that of values, F width of a feed-forward block, I/O in and out features.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from ctypes import c_char
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import paddle

from zoo_ops.cpu.blas import mkl_product
from zoo_ops.cpu.threads import each, runs
from zoo_ops.kernels import cpu_path
from zoo_ops.kernels import kernels as _chosen

if TYPE_CHECKING:
    from paddle import Tensor

__all__ = [
    "MOST",
    "Projection",
    "attention_row",
    "embedding_rows",
    "fresh",
    "gated_row",
    "is_forward_only",
    "is_one_row",
    "is_one_token",
    "is_plain",
    "linear_row",
    "plain_pass",
    "product",
    "rms_norm_rows",
    "rope_rows",
    "view",
]

Projection: TypeAlias = "tuple[Tensor, Tensor | None]"
"""A weight [I, O] and a bias [O]."""

MOST = 1 << 14
"""Values of an activation from which the passes of `zoo_ops.cpu.elementwise`, with threads and blocks, are quicker."""

_WIDE = 1 << 20
"""Values of a weight from which it is read by several threads: they start in the time that one takes for a third."""

_plain = False

_FLOAT32, _CPU = np.dtype(np.float32), paddle.CPUPlace()

_BASE = 1 << 12
_MEMORY: Any = (c_char * ((1 << 47) - _BASE)).from_address(_BASE)
"""All that a process may address, but for the first page: numpy takes a buffer at 0 for none."""


def _at(address: int, shape: list[int]) -> np.ndarray:
    return np.ndarray(tuple(shape), _FLOAT32, _MEMORY, address - _BASE)  # half of what a list takes


def view(x: Tensor) -> np.ndarray:
    """Return a numpy view of a float32 CPU tensor, in a quarter of the time that `array` takes.

    The view does not keep the tensor alive: it is for the length of one function that holds the tensor.
    """
    shape = x.shape
    if 0 in shape:  # of which there may be no address
        return np.empty(shape, _FLOAT32)
    if x.is_contiguous():
        return _at(x.data_ptr(), shape)
    return np.ndarray(shape, _FLOAT32, _MEMORY, x.data_ptr() - _BASE, [4 * step for step in x.strides])


def fresh(shape: list[int]) -> tuple[Tensor, np.ndarray]:
    """Return a new float32 CPU tensor and a view of it; `zoo_ops.cpu.threads.empty` with half of its cost."""
    x = paddle._C_ops.empty(shape, paddle.float32, _CPU)
    return x, _at(x.data_ptr(), shape) if 0 not in shape else np.empty(shape, _FLOAT32)


def is_forward_only(*tensors: Tensor) -> bool:
    """Whether no gradient will be asked for."""
    return not paddle.is_grad_enabled() or all(x.stop_gradient for x in tensors)


@contextmanager
def plain_pass() -> Iterator[None]:
    """Say that within this no gradient is wanted and what is float32 is a plain CPU tensor.

    Otherwise every operation asks its tensors for it, which for one row takes longer than to compute.
    """
    global _plain
    before, _plain = _plain, True
    try:
        yield
    finally:
        _plain = before


def is_plain(x: Tensor, *others: Tensor) -> bool:
    """Whether the functions of this file take these tensors: float32, on CPU, not traced, no gradient asked for."""
    if _plain and _chosen().fast_cpu:
        return x.dtype is paddle.float32
    return cpu_path(x, *others) and is_forward_only(x, *others)


def is_one_token(x: Tensor, *weights: Tensor) -> bool:
    """Whether `x`, [B, S, ...], is of one new token a sample, few values, and `is_plain`.

    A longer one without gradients may be a block that is recomputed later, which has to give the same to the last bit.
    """
    shape = x.shape
    return len(shape) > 2 and shape[1] == 1 and math.prod(shape) < MOST and is_plain(x, *weights)


def is_one_row(x: Tensor, *weights: Tensor) -> bool:
    """Whether all dims of `x` but the last are 1, and `is_plain`."""
    return math.prod(x.shape[:-1]) == 1 and is_plain(x, *weights)


def product(x: np.ndarray, weight_IO: np.ndarray, out: np.ndarray) -> np.ndarray:
    """Fill `out`, [O] or [T, O], with `x`, [I] or [T, I], times a weight: a large one is read by several threads."""
    if x.ndim > 1 and mkl_product(x, weight_IO, out):
        return out
    if weight_IO.size < _WIDE:
        return np.matmul(x, weight_IO, out=out)
    parts = runs(out.shape[-1])

    def do(number: int) -> None:
        np.matmul(x, weight_IO[:, parts[number]], out=out[..., parts[number]])

    each(len(parts), do)
    return out


def _product(x_I: np.ndarray, weight_IO: np.ndarray, bias_O: Tensor | None, out_O: np.ndarray) -> np.ndarray:
    product(x_I, weight_IO, out_O)
    if bias_O is not None:
        out_O += view(bias_O)
    return out_O


def linear_row(x: Tensor, weight: Tensor, bias_O: Tensor | None = None, transpose: bool = False) -> Tensor:
    """Apply a projection to the only row of `x` [..., I].

    Args:
        weight: [I, O], or with `transpose` [O, I].
    """
    weight_IO = view(weight).T if transpose else view(weight)
    out, y = fresh([*x.shape[:-1], weight_IO.shape[1]])
    _product(view(x).reshape(-1), weight_IO, bias_O, y.reshape(-1))
    return out


def gated_row(x: Tensor, gate: Projection, up: Projection, down: Projection) -> Tensor:
    """`gated_mlp` with silu of the only row of `x` [..., H]; a projection is its weight [I, O] and its bias."""
    x_H = view(x).reshape(-1)
    gate_F, up_F = (_product(x_H, view(w), b, np.empty(w.shape[1], _FLOAT32)) for w, b in (gate, up))
    # silu(g) = g / (1 + exp(-g)); from 80 on, 1 more or less is nothing, and exp would overflow
    below_F = np.minimum(-gate_F, np.float32(80))
    np.exp(below_F, out=below_F)
    below_F += np.float32(1)
    gate_F /= below_F
    gate_F *= up_F
    out, y = fresh([*x.shape[:-1], down[0].shape[1]])
    _product(gate_F, view(down[0]), down[1], y.reshape(-1))
    return out


def embedding_rows(ids: Tensor, weight_VH: Tensor) -> Tensor | None:
    """The rows of a weight; `None` where an id is not one of them.

    Paddle's operation starts its threads for a single row, and afterwards they wait for more by spinning: for longer
    than a token takes, on the cores that the rest of the pass needs.
    """
    rows = ids.numpy()
    size, width = weight_VH.shape
    if rows.size and (rows.min() < 0 or rows.max() >= size):
        return None
    out, y = fresh([*rows.shape, width])
    y[...] = view(weight_VH)[rows]
    return out


def attention_row(
    q_B1ND: Tensor,
    k_BKMD: Tensor,
    v_BKMD: Tensor,
    scale: float,
    mask_B11K: np.ndarray | None,
    blind_B1: np.ndarray | None,
    bias: np.ndarray | None,
) -> Tensor:
    """Attention of one query a sample.

    Args:
        mask_B11K: added to the scores; its first dim may be 1.
        blind_B1: samples whose query sees nothing and gives zeros; likewise.
        bias: added to the scores, [B or 1, N or 1, 1, K].
    """
    q, k, v = view(q_B1ND), view(k_BKMD), view(v_BKMD)
    B, _, N, D = q.shape
    K, M, W = v.shape[1:]
    out, y = fresh([B, 1, N, W])
    scores_BMGK = np.matmul((q * np.float32(scale)).reshape(B, M, N // M, D), k.transpose(0, 2, 3, 1))
    if bias is not None:
        scores_BMGK += np.broadcast_to(bias[:, :, 0], (B, N, K)).reshape(scores_BMGK.shape)
    if mask_B11K is not None:
        scores_BMGK += mask_B11K
    scores_BMGK -= np.maximum.reduce(scores_BMGK, axis=-1, keepdims=True)
    np.exp(scores_BMGK, out=scores_BMGK)
    scores_BMGK /= np.add.reduce(scores_BMGK, axis=-1, keepdims=True)
    if blind_B1 is not None:
        scores_BMGK[np.broadcast_to(blind_B1[:, 0], (B,))] = 0
    np.matmul(scores_BMGK, v.transpose(0, 2, 1, 3), out=y.reshape(B, M, N // M, W))
    return out


def rms_norm_rows(x: Tensor, weight_H: Tensor, eps: float) -> Tensor:
    """`rms_norm` of a few rows."""
    out, y = fresh(x.shape)
    values = view(x)
    width = values.shape[-1]
    if values.size == width:
        row_H = values.reshape(-1)
        scale = 1.0 / math.sqrt(float(row_H.dot(row_H)) / width + eps)
        np.multiply(values, np.float32(scale), out=y)
        y *= view(weight_H)
        return out
    scale = np.einsum("...h,...h->...", values, values)[..., None]
    scale *= np.float32(1.0 / values.shape[-1])
    scale += np.float32(eps)
    np.sqrt(scale, out=scale)
    np.divide(values, scale, out=y)
    y *= view(weight_H)
    return out


def rope_rows(x_BSND: Tensor, cos: Tensor, sin: Tensor, width: int, interleaved: bool) -> Tensor:
    """`apply_rope` of a few rows."""
    out, y = fresh(x_BSND.shape)
    x, half = view(x_BSND), width // 2
    c, s = view(cos)[:, :, None, :half], view(sin)[:, :, None, :half]
    first, second = (slice(0, width, 2), slice(1, width, 2)) if interleaved else (slice(half), slice(half, width))
    x1, x2, y1, y2 = x[..., first], x[..., second], y[..., first], y[..., second]
    np.multiply(x1, c, out=y1)
    np.multiply(x2, c, out=y2)
    y1 -= x2 * s
    y2 += x1 * s
    if width < x.shape[-1]:
        y[..., width:] = x[..., width:]
    return out
