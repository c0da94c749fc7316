"""Attention on CPU: block by block of queries against the keys they can see, softmax in place, hand-written backward.

A part is one sample and a few kv heads; parts run side by side. Within a part, a block of query rows meets only the
prefix of keys that causality leaves it, which halves the work. The weights of a block are kept for the backward pass,
or computed again from their row sums where all of them would be large.

Shape legend: B batch, S queries, K keys, N query heads, M kv heads, G = N / M, D head width, m kv heads of a part,
R rows of a block (G x its queries), E keys a block can see.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import paddle
import paddle.nn.functional as F
from paddle.autograd import PyLayer

from zoo_ops.cpu.rows import attention_row
from zoo_ops.cpu.threads import array, each, empty, threads, wanted
from zoo_ops.masks import visible

if TYPE_CHECKING:
    from paddle import Tensor

    from zoo_ops.batch import Batch

__all__ = ["attention_cpu"]

HEADS = 8
ROWS = 128
KEEP_BYTES = 1 << 28
_HIDDEN = -1e30


@dataclass
class _Plan:
    q: np.ndarray
    k: np.ndarray
    v: np.ndarray
    past: int
    scale: float
    causal: bool
    mask: np.ndarray | None
    blind: np.ndarray | None
    bias: np.ndarray | None
    keep: bool
    weights: dict[tuple[int, int], Any] = field(default_factory=dict)
    parts: list[tuple[int, slice]] = field(init=False)

    def __post_init__(self) -> None:
        # Fixed here, for the kept weights are found by part: the number of threads may change before the backward.
        B, M = self.q.shape[0], self.k.shape[2]
        wanted = max(1, -(-threads() // B), -(-M // HEADS))
        size = -(-M // wanted)
        self.parts = [(b, slice(m, min(m + size, M))) for b in range(B) for m in range(0, M, size)]

    def blocks(self) -> list[slice]:
        S = self.q.shape[1]
        rows = max(1, min(S, ROWS))
        return [slice(r, min(r + rows, S)) for r in range(0, S, rows)]

    def seen(self, rows: slice) -> int:
        return self.past + rows.stop if self.causal else self.k.shape[1]


def _heads_first(x_SnD: np.ndarray, groups: int, scale: float | None = None) -> Tensor:
    """[S, m x G, D] -> [m, G x S, D], multiplied by `scale`."""
    S, n, D = x_SnD.shape
    tensor, view = empty([n // groups, groups * S, D], str(x_SnD.dtype))
    source = x_SnD.transpose(1, 0, 2).reshape(n // groups, groups, S, D)
    target = view.reshape(n // groups, groups, S, D)
    if scale is None:
        np.copyto(target, source)
    else:
        np.multiply(source, x_SnD.dtype.type(scale), out=target)
    return tensor


def _weights(plan: _Plan, part: tuple[int, slice], rows: slice, q_mRD: Tensor, k_mED: Tensor) -> Tensor:
    """Softmax of one block, [m, R, E]."""
    b, heads = part
    G = plan.q.shape[2] // plan.k.shape[2]
    scores_mRE = paddle.matmul(q_mRD, k_mED, transpose_y=True)
    m, _, E = scores_mRE.shape
    view = array(scores_mRE).reshape(m, G, rows.stop - rows.start, E)
    if plan.bias is not None:
        bias = plan.bias[b if plan.bias.shape[0] > 1 else 0]
        if bias.shape[0] > 1:
            bias = bias[heads.start * G : heads.stop * G].reshape(m, G, *bias.shape[1:])
        view += bias[..., rows, :E]
    if plan.mask is not None:
        view += plan.mask[b if plan.mask.shape[0] > 1 else 0, 0, rows, :E]
    elif plan.causal:
        first = plan.past + rows.start
        view[..., first:] += _triangle(E - first, view.dtype.str)
    weights_mRE = F.softmax_(scores_mRE)
    if plan.blind is not None:
        blind = plan.blind[b if plan.blind.shape[0] > 1 else 0, rows]
        if blind.any():
            array(weights_mRE).reshape(view.shape)[:, :, blind] = 0
    return weights_mRE


def _triangle(size: int, dtype: str) -> np.ndarray:
    return np.triu(np.full((size, size), _HIDDEN, dtype), 1)


def _forward(plan: _Plan) -> Tensor:
    B, S, N, D = plan.q.shape
    out, out_view = empty([B, S, N, plan.v.shape[-1]], str(plan.q.dtype))
    parts, G = plan.parts, N // plan.k.shape[2]

    def do(number: int) -> None:
        b, heads = part = parts[number]
        queries = slice(heads.start * G, heads.stop * G)
        for rows in plan.blocks():
            E = plan.seen(rows)
            k_mED, v_mED = _heads_first(plan.k[b, :E, heads], 1), _heads_first(plan.v[b, :E, heads], 1)
            q_mRD = _heads_first(plan.q[b, rows, queries], G, plan.scale)
            weights_mRE = _weights(plan, part, rows, q_mRD, k_mED)
            if plan.keep:
                plan.weights[number, rows.start] = weights_mRE
            out_mRD = array(paddle.matmul(weights_mRE, v_mED))
            np.copyto(
                out_view[b, rows, queries].transpose(1, 0, 2),
                out_mRD.reshape(-1, rows.stop - rows.start, out_mRD.shape[-1]),
            )

    each(len(parts), do)
    return out


def _backward(plan: _Plan, out: np.ndarray, grad: np.ndarray) -> tuple[Tensor, Tensor, Tensor]:
    B, S, N, D = plan.q.shape
    dtype = str(plan.q.dtype)
    parts, G = plan.parts, N // plan.k.shape[2]
    (dq, dq_view), (dk, dk_view), (dv, dv_view) = (empty(list(x.shape), dtype) for x in (plan.q, plan.k, plan.v))

    def do(number: int) -> None:
        b, heads = part = parts[number]
        queries = slice(heads.start * G, heads.stop * G)
        dk_mKD, dv_mKD = (np.zeros((heads.stop - heads.start, x.shape[1], x.shape[3]), dtype) for x in (plan.k, plan.v))
        for rows in reversed(plan.blocks()):
            E, length = plan.seen(rows), rows.stop - rows.start
            q_mRD = _heads_first(plan.q[b, rows, queries], G, plan.scale)
            g_mRD = _heads_first(grad[b, rows, queries], G)
            k_mED, v_mED = _heads_first(plan.k[b, :E, heads], 1), _heads_first(plan.v[b, :E, heads], 1)
            weights_mRE = plan.weights.pop((number, rows.start), None)
            if weights_mRE is None:
                weights_mRE = _weights(plan, part, rows, q_mRD, k_mED)
            dv_mKD[:, :E] += array(paddle.matmul(weights_mRE, g_mRD, transpose_x=True))
            # softmax backward: p * (dp - sum(p * dp)), and sum(p * dp) = sum(out * grad) over the head's width
            shift = np.einsum("snd,snd->ns", out[b, rows, queries], grad[b, rows, queries])
            ds_mRE = paddle.matmul(g_mRD, v_mED, transpose_y=True)
            view, p = array(ds_mRE), array(weights_mRE)
            view -= shift.reshape(view.shape[0], -1, 1)
            view *= p
            dq_mRD = array(paddle.matmul(ds_mRE, k_mED))
            np.multiply(
                dq_mRD.reshape(-1, length, D),
                dq_mRD.dtype.type(plan.scale),
                out=dq_view[b, rows, queries].transpose(1, 0, 2),
            )
            dk_mKD[:, :E] += array(paddle.matmul(ds_mRE, q_mRD, transpose_x=True))
        np.copyto(dk_view[b, :, heads].transpose(1, 0, 2), dk_mKD)
        np.copyto(dv_view[b, :, heads].transpose(1, 0, 2), dv_mKD)

    each(len(parts), do)
    return dq, dk, dv


class _Attention(PyLayer):  # type: ignore[misc]
    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, options: dict[str, Any]) -> Tensor:
        plan = _Plan(array(q), array(k), array(v), **options)
        out = _forward(plan)
        ctx.plan = plan
        ctx.save_for_backward(q, k, v, out)
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        *inputs, out = ctx.saved_tensor()
        return wanted(inputs, _backward(ctx.plan, array(out), array(grad)))


def _added_mask(
    batch: Batch, S: int, K: int, past: int, causal: bool, prefix_BK: Tensor | None, virtual: int
) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Return what is added to the scores, [B or 1, 1, S, K], and which rows see nothing, [B or 1, S].

    Both are `None` where causality alone, or nothing, limits what is seen.
    """
    if batch.segment_ids is None and batch.attention_mask is None and prefix_BK is None:
        return None, None
    mask = visible(batch, S, K - virtual, past, causal, prefix_BK, virtual)
    if mask is None:
        return None, None
    sees = array(mask)
    blind = ~np.any(sees[:, 0], axis=-1)
    return np.where(sees, np.float32(0), np.float32(_HIDDEN)), blind if blind.any() else None


def attention_cpu(
    q_BSND: Tensor,
    k_BKMD: Tensor,
    v_BKMD: Tensor,
    batch: Batch,
    *,
    past: int = 0,
    scale: float | None = None,
    bias: Tensor | None = None,
    causal: bool = True,
    prefix_BK: Tensor | None = None,
    virtual: int = 0,
) -> Tensor:
    """`attention` for float32 CPU tensors; `bias` gets no gradient."""
    B, S, N, D = q_BSND.shape
    K = k_BKMD.shape[1]
    mask, blind = batch.once(
        ("zoo_ops.cpu.attention.mask", S, K, past, causal, id(prefix_BK), virtual),
        lambda: _added_mask(batch, S, K, past, causal, prefix_BK, virtual),
    )
    training = paddle.is_grad_enabled() and not (q_BSND.stop_gradient and k_BKMD.stop_gradient and v_BKMD.stop_gradient)
    bias_4d = None if bias is None else array(bias).reshape((1,) * (4 - bias.ndim) + tuple(bias.shape))
    if bias_4d is not None:
        bias_4d = np.broadcast_to(bias_4d, (*bias_4d.shape[:2], S, K))
    factor = 1.0 / math.sqrt(D) if scale is None else scale
    if S == 1 and not training:
        return attention_row(q_BSND, k_BKMD, v_BKMD, factor, mask, blind, bias_4d)
    options: dict[str, Any] = {
        "past": virtual + past,
        "scale": factor,
        # with a prefix a block of rows may see keys after it, so the whole mask decides
        "causal": causal and prefix_BK is None,
        "mask": mask,
        "blind": blind,
        "bias": bias_4d,
        "keep": training and B * N * S * K * 4 <= KEEP_BYTES,
    }
    if training:
        return _Attention.apply(q_BSND, k_BKMD, v_BKMD, options)
    return _forward(_Plan(array(q_BSND), array(k_BKMD), array(v_BKMD), **options))
