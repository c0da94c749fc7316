"""Who may see whom in attention: causality, packed segments and padding, as one mask.

Shape legend: B batch, S queries, K keys (past ones included), P virtual keys.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import paddle

if TYPE_CHECKING:
    from paddle import Tensor

    from zoo_ops.batch import Batch

__all__ = ["check_lengths", "real_before", "segment_ends", "visible"]


def check_lengths(batch: Batch, query_len: int, key_len: int, past: int, prefix_BK: Tensor | None = None) -> None:
    """Refuse a batch whose masks do not fit the queries and keys.

    Raises:
        ValueError: K is not past + S, the padding mask or the prefix is not [B, K], or packed samples meet a cache.
    """
    if prefix_BK is not None:
        if prefix_BK.shape[-1] != key_len:
            raise ValueError(f"prefix_BK covers {prefix_BK.shape[-1]} of {key_len} keys")
        rows = batch.input_ids.shape[0]
        if prefix_BK.dtype != paddle.bool or prefix_BK.shape not in ([rows, key_len], [1, key_len]):
            raise ValueError(f"prefix_BK is {prefix_BK.dtype} {prefix_BK.shape}, not bool [{rows}, {key_len}]")
    if key_len != past + query_len:
        raise ValueError(f"{key_len} keys for {past} cached and {query_len} new tokens")
    if batch.attention_mask is not None and batch.attention_mask.shape[-1] != key_len:
        raise ValueError(f"attention_mask covers {batch.attention_mask.shape[-1]} of {key_len} keys")
    if batch.segment_ids is not None and batch.segment_ids.shape[-1] != key_len:
        raise ValueError(f"segment_ids cover {batch.segment_ids.shape[-1]} of {key_len} keys; packing has no cache")


def visible(
    batch: Batch,
    query_len: int,
    key_len: int,
    past: int,
    causal: bool,
    prefix_BK: Tensor | None = None,
    virtual: int = 0,
) -> Tensor | None:
    """Return bool [B or 1, 1, S, P + K], true where a query may see a key; `None` when every query sees every key.

    Made once for each micro batch. `prefix_BK` marks keys that causality does not hide; the `virtual` keys in front,
    of which `key_len` and `past` do not know, are hidden from nobody.
    """

    def make() -> Tensor | None:
        mask = _visible(batch, query_len, key_len, past, causal, prefix_BK)
        if mask is None or not virtual:
            return mask
        return paddle.concat([paddle.ones([*mask.shape[:-1], virtual], dtype="bool"), mask], axis=-1)

    # The prefix is kept with its mask: the id of a tensor that is gone may become another prefix's.
    return batch.once(
        ("zoo_ops.masks.visible", query_len, key_len, past, causal, id(prefix_BK), virtual),
        lambda: (make(), prefix_BK),
    )[0]


def _visible(
    batch: Batch, query_len: int, key_len: int, past: int, causal: bool, prefix_BK: Tensor | None
) -> Tensor | None:
    parts = []
    if causal and query_len > 1:
        row_S1 = paddle.arange(past, past + query_len).unsqueeze(-1)
        before_11SK = (row_S1 >= paddle.arange(key_len).unsqueeze(0)).unsqueeze(0).unsqueeze(0)
        if prefix_BK is not None:
            before_11SK = paddle.logical_or(before_11SK, prefix_BK.unsqueeze(1).unsqueeze(1))
        parts.append(before_11SK)
    if batch.segment_ids is not None:
        segment_BK = batch.segment_ids
        parts.append((segment_BK[:, past:].unsqueeze(-1) == segment_BK.unsqueeze(1)).unsqueeze(1))
    if batch.attention_mask is not None:
        parts.append((batch.attention_mask != 0).unsqueeze(1).unsqueeze(1))
    if not parts:
        return None
    mask = parts[0]
    for part in parts[1:]:
        mask = paddle.logical_and(mask, part)
    rows = mask.shape[-2]
    return mask if rows == query_len else mask.expand([mask.shape[0], 1, query_len, key_len])


def segment_ends(segment_ids_BS: Tensor) -> Tensor:
    """Return int32 [B, S]: for each token the position after the last one of its (contiguous) segment."""
    length = segment_ids_BS.shape[-1]
    after = paddle.arange(1, length + 1, dtype="int32").unsqueeze(0)
    changes = paddle.concat(
        [segment_ids_BS[:, 1:] != segment_ids_BS[:, :-1], paddle.ones_like(segment_ids_BS[:, :1], dtype="bool")], axis=1
    )
    ends = paddle.where(changes, after.expand_as(changes), paddle.full_like(changes, length, dtype="int32"))
    return paddle.flip(paddle.cummin(paddle.flip(ends, axis=[1]), axis=1)[0], axis=[1])


def real_before(batch: Batch, query_len: int, past: int = 0) -> Tensor:
    """Return int64 [B or 1, S]: how many real tokens of its packed sample stand before each of the last S tokens.

    A pad token has what the real one before it has, or 0.
    """
    if batch.attention_mask is None and batch.segment_ids is None:
        return paddle.arange(past, past + query_len).unsqueeze(0)
    real_BK = paddle.ones_like(batch.input_ids) if batch.attention_mask is None else batch.attention_mask
    real_BK = (real_BK != 0).astype("int64")
    count_BK = real_BK.cumsum(axis=1)
    if batch.segment_ids is not None:
        same = batch.segment_ids[:, 1:] == batch.segment_ids[:, :-1]
        goes_on = paddle.concat([paddle.zeros_like(same[:, :1]), same], axis=1)
        first_BK = paddle.where(goes_on, paddle.zeros_like(count_BK), count_BK - real_BK)
        count_BK = count_BK - first_BK.cummax(axis=1)[0]
    return paddle.clip(count_BK - 1, min=0)[:, -query_len:]
