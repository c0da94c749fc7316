"""Quantised weights to float32 numbers on CPU, which has no kernel that multiplies by them as they are.

Shape legend: I/O in and out features, n the in features of a block, G groups, P packed bytes of the in features.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from zoo_ops.cpu.threads import array, empty

if TYPE_CHECKING:
    from paddle import Tensor

__all__ = ["dense_block_cpu"]


def _unpacked(packed_Pn: np.ndarray, bits: int, out_nO: np.ndarray) -> None:
    """Write the integers of whole packed blocks as numbers."""
    if bits == 8:
        np.copyto(out_nO, packed_Pn)
        return
    if bits == 4:
        np.copyto(out_nO[0::2], packed_Pn & 15)
        np.copyto(out_nO[1::2], packed_Pn >> 4)
    else:
        low, middle, high = packed_Pn[0::3], packed_Pn[1::3], packed_Pn[2::3]
        np.copyto(out_nO[0::8], low & 7)
        np.copyto(out_nO[1::8], (low >> 3) & 7)
        np.copyto(out_nO[2::8], (low >> 6) | ((middle & 1) << 2))
        np.copyto(out_nO[3::8], (middle >> 1) & 7)
        np.copyto(out_nO[4::8], (middle >> 4) & 7)
        np.copyto(out_nO[5::8], (middle >> 7) | ((high & 3) << 1))
        np.copyto(out_nO[6::8], (high >> 2) & 7)
        np.copyto(out_nO[7::8], high >> 5)
    out_nO -= np.float32(1 << (bits - 1))


def dense_block_cpu(
    packed_Pn: Tensor,
    scale_GO: Tensor,
    zero_GO: Tensor | None,
    group_n: Tensor | None,
    bits: int,
    group: int,
    start: int,
) -> Tensor:
    """The numbers of a block of input features, float32 [n, O]; n is a whole number of packed blocks.

    Args:
        packed_Pn: the rows of bytes of these input features.
        group_n: the group of each of them; `None` where groups are runs of `group` features (-1: one group).
        start: number of the first feature.
    """
    packed, width = array(packed_Pn), packed_Pn.shape[1]
    features = packed.shape[0] * {8: 1, 4: 2}.get(bits, 8) // (3 if bits == 3 else 1)
    out, view_nO = empty([features, width])
    view_nO = view_nO.reshape(features, width)
    _unpacked(packed, bits, view_nO)
    scale, zero = array(scale_GO), None if zero_GO is None else array(zero_GO)
    if group_n is not None:
        of_n = array(group_n)
        of_n = np.concatenate([of_n, np.zeros(features - len(of_n), of_n.dtype)])
        if zero is not None:
            view_nO -= zero[of_n]
        view_nO *= scale[of_n]
        return out
    size = group if group > 0 else start + features
    first = start
    while first < start + features:
        number = first // size
        last = min((number + 1) * size, start + features)
        rows = slice(first - start, last - start)
        # features of padding in the last packed block lie behind the last group
        own = min(number, len(scale) - 1)
        if zero is not None:
            view_nO[rows] -= zero[own]
        view_nO[rows] *= scale[own]
        first = last
    return out
