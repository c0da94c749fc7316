"""RMSNorm and rotary embedding on CPU, forward and backward written by hand.

Rows are split over the threads, and within a thread into blocks that stay in the core's cache from the first pass
over them to the last. float32 in, float32 out.

Shape legend: T rows (all dims but the last), H last dim, B batch, S sequence, N heads, D head width.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import paddle
from paddle.autograd import PyLayer

from zoo_ops.cpu.threads import array, each, empty, runs, wanted

if TYPE_CHECKING:
    from paddle import Tensor

__all__ = ["rms_norm_cpu", "rope_cpu"]

_BLOCK = 1 << 15
"""Values in a block, about: a few arrays of 128 KB fit a core's cache together."""


def _rows(x: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(x).reshape(-1, x.shape[-1])


def _blocks(run: slice, width: int) -> list[slice]:
    step = max(1, _BLOCK // width)
    return [slice(a, min(a + step, run.stop)) for a in range(run.start, run.stop, step)]


def _each_run(total: int, do: Callable[[slice], None]) -> None:
    parts = runs(total)
    each(len(parts), lambda number: do(parts[number]))


class _RMSNorm(PyLayer):  # type: ignore[misc]
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        x_TH, weight_H = _rows(array(x)), array(weight)
        out, view = empty(x.shape)
        out_TH, rstd_T1 = view.reshape(x_TH.shape), np.empty((len(x_TH), 1), np.float32)

        def do(run: slice) -> None:
            for rows in _blocks(run, x_TH.shape[1]):
                block = x_TH[rows]
                rstd = np.einsum("th,th->t", block, block)
                rstd *= np.float32(1.0 / x_TH.shape[1])
                rstd += np.float32(eps)
                np.sqrt(rstd, out=rstd)
                np.divide(np.float32(1.0), rstd, out=rstd_T1[rows, 0])
                np.multiply(block, rstd_T1[rows], out=out_TH[rows])
                out_TH[rows] *= weight_H

        _each_run(len(x_TH), do)
        ctx.save_for_backward(x, weight)
        ctx.rstd = rstd_T1
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensor()
        x_TH, grad_TH, weight_H, rstd_T1 = _rows(array(x)), _rows(array(grad)), array(weight), ctx.rstd
        dx, view = empty(x.shape)
        dx_TH = view.reshape(x_TH.shape)
        parts = runs(len(x_TH))
        sums = np.zeros((len(parts), x_TH.shape[1]), np.float32)

        def do(number: int) -> None:
            for rows in _blocks(parts[number], x_TH.shape[1]):
                block, rstd, out = x_TH[rows], rstd_T1[rows], dx_TH[rows]
                # with h = x * rstd and g = grad * weight: dx = rstd * (g - h * mean(g * h)), dweight = sum(grad * h)
                h = block * rstd
                np.multiply(grad_TH[rows], h, out=out)
                sums[number] += out.sum(axis=0)
                np.multiply(grad_TH[rows], weight_H, out=out)
                mean = np.einsum("th,th->t", out, h)
                mean *= np.float32(1.0 / x_TH.shape[1])
                h *= mean[:, None]
                out -= h
                out *= rstd

        each(len(parts), do)
        return wanted((x, weight), (dx, paddle.to_tensor(sums.sum(axis=0))))


def rms_norm_cpu(x: Tensor, weight_H: Tensor, eps: float) -> Tensor:
    """`rms_norm` for float32 CPU tensors."""
    return _RMSNorm.apply(x, weight_H, eps)


def _rotate(x: np.ndarray, cos: np.ndarray, sin: np.ndarray, width: int, interleaved: bool) -> Tensor:
    """Rotate x [B, S, N, D] by cos and sin [B or 1, S, width / 2]."""
    B, S = x.shape[:2]
    out, view = empty(list(x.shape))
    half = width // 2
    turn = (cos + 1j * sin)[:, :, None] if interleaved else None
    cos, sin = cos[:, :, None], sin[:, :, None]

    def do(run: slice) -> None:
        for rows in _blocks(run, x.shape[2] * x.shape[3]):
            for b in range(rows.start // S, -(-rows.stop // S)):
                at = (b, slice(max(rows.start - b * S, 0), min(rows.stop - b * S, S)))
                angle = (b if len(cos) > 1 else 0, at[1])
                source, target = x[at], view[at]
                if turn is not None:
                    pairs = np.ascontiguousarray(source[..., :width]).view(np.complex64)
                    target[..., :width] = (pairs * turn[angle]).view(np.float32)
                else:
                    c, s = cos[angle], sin[angle]
                    first, second = source[..., :half], source[..., half:width]
                    np.multiply(first, c, out=target[..., :half])
                    np.multiply(second, c, out=target[..., half:width])
                    crossed = second * s
                    target[..., :half] -= crossed
                    np.multiply(first, s, out=crossed)
                    target[..., half:width] += crossed
                if width < x.shape[3]:
                    target[..., width:] = source[..., width:]

    _each_run(B * S, do)
    return out


class _Rope(PyLayer):  # type: ignore[misc]
    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor, width: int, interleaved: bool) -> Tensor:
        half = width // 2
        ctx.turn = array(cos)[..., :half], array(sin)[..., :half]
        ctx.how = width, interleaved
        return _rotate(array(x), *ctx.turn, *ctx.how)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        cos, sin = ctx.turn
        return _rotate(array(grad), cos, -sin, *ctx.how), None, None


def rope_cpu(x_BSND: Tensor, cos: Tensor, sin: Tensor, width: int, interleaved: bool) -> Tensor:
    """`apply_rope` for float32 CPU tensors; `cos` and `sin` get no gradient."""
    return _Rope.apply(x_BSND, cos.detach(), sin.detach(), width, interleaved)
