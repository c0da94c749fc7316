"""Scaled dot-product attention: grouped queries, packed samples, padding, cached keys.

Shape legend: B batch, S queries, K keys (virtual and past ones included), N query heads, M kv heads, G = N / M, D head
width, T = K without the virtual ones.
"""

from __future__ import annotations

import functools
import math
from typing import TYPE_CHECKING, Any

import paddle
import paddle.nn.functional as F

from zoo_ops.cpu.attention import attention_cpu
from zoo_ops.cpu.rows import is_one_token
from zoo_ops.dropout import keep_dropout_context
from zoo_ops.kernels import cpu_path, kernels, on_gpu, say_once
from zoo_ops.masks import check_lengths, segment_ends, visible
from zoo_ops.prefix import virtual_entries

if TYPE_CHECKING:
    from paddle import Tensor

    from zoo_ops.batch import Batch
    from zoo_ops.dropout import Dropout

__all__ = ["attention", "attention_flash", "attention_reference", "attention_sdpa"]


def attention_reference(
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
    dropout: Dropout | None = None,
) -> Tensor:
    """`attention` by its definition; softmax in float32, or float64 for float64."""
    B, S, N, D = q_BSND.shape
    K, M = k_BKMD.shape[1:3]
    factor = 1.0 / math.sqrt(D) if scale is None else scale
    q_BMGSD = q_BSND.transpose([0, 2, 1, 3]).reshape([B, M, N // M, S, D])
    k_BM1KD, v_BM1KD = (t.transpose([0, 2, 1, 3]).unsqueeze(2) for t in (k_BKMD, v_BKMD))
    scores = (paddle.matmul(q_BMGSD, k_BM1KD, transpose_y=True) * factor).reshape([B, N, S, K])
    if scores.dtype != paddle.float64:
        scores = scores.astype("float32")
    if bias is not None:
        scores = scores + bias.astype(scores.dtype)
    mask = visible(batch, S, K - virtual, past, causal, prefix_BK, virtual)
    seen, hidden = _as_numbers(batch, mask, scores.dtype)
    weights = F.softmax(scores if hidden is None else scores + hidden, axis=-1)
    if seen is not None:
        # A row that sees nothing has uniform weights here; it must give zero, not the mean of what it cannot see.
        weights = weights * seen
    if dropout is not None:
        # The layer wants [B, S, ...] with this rank's heads after the sequence.
        weights = dropout(weights.transpose([0, 2, 1, 3])).transpose([0, 2, 1, 3])
    weights = weights.astype(v_BKMD.dtype).reshape([B, M, N // M, S, K])
    out = paddle.matmul(weights, v_BM1KD).reshape([B, N, S, v_BKMD.shape[-1]])
    return out.transpose([0, 2, 1, 3])


def _as_numbers(batch: Batch, mask: Tensor | None, dtype: Any) -> tuple[Tensor | None, Tensor | None]:
    """1 for what is seen and 0 for the rest, and what hides the rest where it is added; made once for a micro batch."""
    if mask is None:
        return None, None

    def make() -> tuple[Tensor, Tensor, Tensor]:
        seen = mask.astype(dtype)
        return seen, (seen - 1.0) * 1e30, mask  # kept with it: see `masks.visible`

    return batch.once(("zoo_ops.attention.numbers", id(mask), str(dtype)), make)[:2]


def _repeat_heads(kv_BKMD: Tensor, heads: int) -> Tensor:
    copies = heads // kv_BKMD.shape[2]
    return kv_BKMD if copies == 1 else paddle.repeat_interleave(kv_BKMD, copies, axis=2)


def _zero_blind_rows(out_BSND: Tensor, mask: Tensor | None, batch: Batch) -> Tensor:
    """Set the rows that see no key to zero: kernels give NaN or a mean there. Only padding makes such rows."""
    if mask is None or batch.attention_mask is None:
        return out_BSND
    sees_BS11 = mask.any(axis=-1).transpose([0, 2, 1]).unsqueeze(-1)
    return paddle.where(sees_BS11, out_BSND, paddle.zeros_like(out_BSND))


def attention_sdpa(
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
    """`attention` through paddle's `scaled_dot_product_attention`."""
    B, S, N, D = q_BSND.shape
    K = k_BKMD.shape[1]
    mask = visible(batch, S, K - virtual, past, causal, prefix_BK, virtual)
    added, plain = None, _plain_causal(batch, past) and prefix_BK is None and not virtual
    if bias is not None or (mask is not None and not plain):
        added = paddle.zeros([1], dtype=q_BSND.dtype) if bias is None else bias.astype(q_BSND.dtype)
        if mask is not None:
            added = paddle.where(mask, added, paddle.full([], -1e4, dtype=q_BSND.dtype))
        added = added.expand([B, added.shape[1], S, K])
    if scale is not None:
        q_BSND = q_BSND * (scale * math.sqrt(D))
    out = F.scaled_dot_product_attention(
        q_BSND,
        _repeat_heads(k_BKMD, N),
        _repeat_heads(v_BKMD, N),
        attn_mask=added,
        is_causal=added is None and mask is not None,
    )
    return _zero_blind_rows(out, mask, batch)


def _plain_causal(batch: Batch, past: int) -> bool:
    return past == 0 and batch.segment_ids is None and batch.attention_mask is None


def attention_flash(
    q_BSND: Tensor,
    k_BKMD: Tensor,
    v_BKMD: Tensor,
    batch: Batch,
    *,
    scale: float | None = None,
    virtual: int = 0,
) -> Tensor:
    """Causal `attention` without cache or bias through the GPU's flash kernels (arXiv 2307.08691).

    Packed samples and padding go through flashmask (arXiv 2410.01359): for each key, the first row that no longer
    sees it. Virtual keys get queries of zeros in front, whose rows are thrown away: kernels differ in how they align
    fewer queries than keys.
    """
    _, S, N, D = q_BSND.shape
    if scale is not None:
        q_BSND = q_BSND * (scale * math.sqrt(D))
    if virtual:
        q_BSND = paddle.concat([paddle.zeros_like(q_BSND[:, :1]).expand([-1, virtual, -1, -1]), q_BSND], axis=1)
    if batch.segment_ids is None and batch.attention_mask is None:
        return F.flash_attention.flash_attention(q_BSND, k_BKMD, v_BKMD, causal=True)[0][:, virtual:]

    def first_blind_row() -> Tensor:
        ends = paddle.full([q_BSND.shape[0], S], S, dtype="int32")
        if batch.segment_ids is not None:
            ends = segment_ends(batch.segment_ids)
        if batch.attention_mask is not None:
            ends = ends * (batch.attention_mask != 0).astype("int32")
        if virtual:
            front = paddle.full([ends.shape[0], virtual], virtual + S, dtype="int32")
            ends = paddle.concat([front, ends + virtual], axis=1)
        return ends.unsqueeze(1).unsqueeze(-1)

    ends_B1K1 = batch.once(("zoo_ops.first_blind_row", virtual), first_blind_row)
    out = F.flashmask_attention(q_BSND, k_BKMD, v_BKMD, startend_row_indices=ends_B1K1, causal=True)[:, virtual:]
    if batch.attention_mask is None or virtual:  # with virtual keys no row is blind
        return out
    real_BS11 = (batch.attention_mask != 0).unsqueeze(-1).unsqueeze(-1)
    return paddle.where(real_BS11, out, paddle.zeros_like(out))


def _flash_objection(q_BSND: Tensor, prefix_BK: Tensor | None) -> str:
    """Why flash attention cannot run here; empty when it can."""
    if prefix_BK is not None:
        return "it has no prompts that are read both ways"
    if not on_gpu(q_BSND):
        return "this device has no kernel for it"
    if q_BSND.dtype not in (paddle.float16, paddle.bfloat16):
        return f"it computes in float16 or bfloat16 and the model is {q_BSND.dtype}"
    return ""


def _core(
    q_BSND: Tensor,
    k_BKMD: Tensor,
    v_BKMD: Tensor,
    batch: Batch,
    past: int,
    scale: float | None,
    bias: Tensor | None,
    causal: bool,
    prefix_BK: Tensor | None,
    virtual: int,
    dropout: Dropout | None,
) -> Tensor:
    options: dict[str, Any] = {
        "past": past, "scale": scale, "bias": bias, "causal": causal, "prefix_BK": prefix_BK, "virtual": virtual
    }  # fmt: skip
    drops = dropout is not None and dropout.is_on()
    if kernels().flash_attention and causal and past == 0 and bias is None and not drops:
        objection = _flash_objection(q_BSND, prefix_BK)
        if not objection:
            return attention_flash(q_BSND, k_BKMD, v_BKMD, batch, scale=scale, virtual=virtual)
        say_once("use_flash_attention", objection)
    if drops:
        return attention_reference(q_BSND, k_BKMD, v_BKMD, batch, dropout=dropout, **options)
    if cpu_path(q_BSND, k_BKMD, v_BKMD) and (bias is None or (bias.stop_gradient and cpu_path(bias))):
        return attention_cpu(q_BSND, k_BKMD, v_BKMD, batch, **options)
    if on_gpu(q_BSND) and (bias is None or bias.stop_gradient):
        return attention_sdpa(q_BSND, k_BKMD, v_BKMD, batch, **options)
    return attention_reference(q_BSND, k_BKMD, v_BKMD, batch, **options)


def attention(
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
    dropout: Dropout | None = None,
) -> Tensor:
    """Return softmax(scale * q k^T + bias) v over the keys each query may see, [B, S, N, D].

    Within `zoo_ops.prefix.virtual_tokens` the virtual keys and values are put in front here, unless the caller has
    done it; every query sees them.

    Args:
        q_BSND: queries.
        k_BKMD: keys; M divides N, and query head n reads kv head n // (N / M).
        v_BKMD: values; their width may differ from the keys'.
        batch: its `segment_ids` and `attention_mask` limit what is seen; a query that sees nothing gives zeros.
        past: cached keys before the first query; T = past + S.
        scale: `None` means 1 / sqrt(D).
        bias: added to the scores, broadcastable to [B, N, S, K]; one that covers T keys is 0 for virtual ones.
        causal: a query sees no key after itself.
        prefix_BK: bool [B or 1, T], true for the keys that every query sees whatever its place (prefix language
            models, whose prompt reads both ways); padding and segments still hide them. Make it once for a micro batch.
        virtual: so many of the keys given, the first, are virtual ones that the caller has put in front.
        dropout: applied to the weights while training; made with `inside=True`.

    Raises:
        ValueError: the shapes or the batch's masks do not fit each other.
    """
    S, N = q_BSND.shape[1:3]
    K, M = k_BKMD.shape[1:3]
    if N % M:
        raise ValueError(f"{N} query heads do not divide over {M} kv heads")
    check_lengths(batch, S, K - virtual, past, prefix_BK)
    if not virtual:
        front = virtual_entries()
        k_BKMD, v_BKMD, virtual = front.before_keys(k_BKMD), front.before_values(v_BKMD), front.count
    if virtual and bias is not None and bias.shape[-1] == k_BKMD.shape[1] - virtual:
        bias = paddle.concat([paddle.zeros([*bias.shape[:-1], virtual], dtype=bias.dtype), bias], axis=-1)
    if bias is None and is_one_token(q_BSND, k_BKMD, v_BKMD) and (dropout is None or not dropout.is_on()):
        return attention_cpu(
            q_BSND, k_BKMD, v_BKMD, batch, past=past, scale=scale, causal=causal, prefix_BK=prefix_BK, virtual=virtual
        )
    inputs = (q_BSND, k_BKMD, v_BKMD, batch, past, scale, bias, causal)
    if kernels().recompute_core_attention and paddle.is_grad_enabled() and not q_BSND.stop_gradient:
        from paddle.distributed.fleet.utils import recompute

        # The prefix is bound: a copy of it, as recompute makes of its inputs, would be another prefix with a new mask.
        bound = functools.partial(_core, prefix_BK=prefix_BK, virtual=virtual, dropout=dropout)
        return recompute(keep_dropout_context(bound), *inputs, preserve_rng_state=False)
    return _core(*inputs, prefix_BK, virtual, dropout)
