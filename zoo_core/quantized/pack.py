"""Quantised weights as arrays: rounding to nearest, back to numbers, and 3 and 4 bits packed into bytes. numpy only.

Every integer q is signed and stands for (q - zero) * scale, in groups of input features for each output feature.

Packing goes along the input features (dim 0), so that output features are cut anywhere, and input features between
blocks. 4 bits: a byte holds features 2k (low half) and 2k + 1 (high half), a block is 2. 3 bits: three bytes hold
features 8k to 8k + 7, as one little-endian number of 24 bits with feature 8k lowest, a block is 8. Both store
q + 2^(bits - 1), which is not negative; a last block that is not full holds zeros.

Shape legend: I/O in and out features, G groups of in features, P packed bytes of the in features.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from zoo_core.quantization import PER_CHANNEL, QuantSpec
from zoo_core.quantized.bits import BLOCK, limits

__all__ = [
    "QuantisedWeight",
    "dequantise",
    "group_of",
    "pack",
    "quantise_rtn",
    "unpack",
]

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, eq=False)
class QuantisedWeight:
    """The arrays of one quantised layer, whole and not packed; see `QuantSpec` for which there are.

    Args:
        q_IO: int8.
        scale_GO: float32.
        group: input features that share a scale; -1 is all.
        zero_GO: int8, of an asymmetric one.
        group_I: int32, the group of each input feature, where groups are in any order.
        smooth_I: float32, what the input is divided by (w8a8, smoothed); q is of the multiplied weight.
        act_scale: what an integer of the input stands for (w8a8, static).
    """

    q_IO: Array
    scale_GO: Array
    group: int = PER_CHANNEL
    zero_GO: Array | None = None
    group_I: Array | None = None
    smooth_I: Array | None = None
    act_scale: float | None = None

    def dense(self) -> Array:
        """The weight that the layer stands for, float32 [I, O], smoothing undone."""
        weight_IO = dequantise(self.q_IO, self.scale_GO, self.zero_GO, self.group, self.group_I)
        return weight_IO if self.smooth_I is None else weight_IO / self.smooth_I[:, None]

    def stored(self, spec: QuantSpec) -> dict[str, Array]:
        """The tensors of a checkpoint, by the last word of their names."""
        found = {"quant_weight": pack(self.q_IO, spec.bits), "quant_scale": np.asarray(self.scale_GO, np.float32)}
        if not spec.symmetric:
            assert self.zero_GO is not None
            found["quant_zero"] = np.asarray(self.zero_GO, np.int8)
        if spec.ordered:
            assert self.group_I is not None
            found["g_idx"] = np.asarray(self.group_I, np.int32)
        if spec.smooth:
            assert self.smooth_I is not None
            found["smooth"] = np.asarray(self.smooth_I, np.float32)
        if spec.method == "w8a8" and spec.activations == "static":
            assert self.act_scale is not None
            found["act_scale"] = np.asarray([self.act_scale], np.float32)
        return found


def group_of(features: int, group: int) -> Array:
    """The group of each input feature where groups are runs of them, int64 [I]."""
    return np.arange(features) // (features if group == PER_CHANNEL else group)


def quantise_rtn(
    weight_IO: Array, bits: int, group: int = PER_CHANNEL, symmetric: bool = True
) -> tuple[Array, Array, Array | None]:
    """Round a weight to the nearest integers that `bits` hold.

    Symmetric scales put the largest absolute value of a group on the largest integer (and leave out the least integer,
    which has no positive twin); asymmetric ones put its least and largest value, zero between them, on the two ends.

    Args:
        weight_IO: float32.
        group: input features that share a scale; -1 is all.

    Returns:
        (q_IO int8, scale_GO float32, zero_GO int8 or `None`)
    """
    weight_IO = np.asarray(weight_IO, np.float32)
    features, low, high = len(weight_IO), *limits(bits)
    starts = np.arange(0, features, features if group == PER_CHANNEL else group)
    most_GO = np.maximum.reduceat(weight_IO, starts, axis=0)
    least_GO = np.minimum.reduceat(weight_IO, starts, axis=0)
    zero_GO = None
    if symmetric:
        scale_GO = np.maximum(most_GO, -least_GO) / np.float32(high)
    else:
        most_GO, least_GO = np.maximum(most_GO, 0), np.minimum(least_GO, 0)
        scale_GO = (most_GO - least_GO) / np.float32(high - low)
    scale_GO = np.where(scale_GO > 0, scale_GO, 1).astype(np.float32)
    if not symmetric:
        zero_GO = np.clip(np.rint(low - least_GO / scale_GO), low, high).astype(np.int8)
    of_I = group_of(features, group)
    steps_IO = np.rint(weight_IO / scale_GO[of_I])
    if zero_GO is not None:
        steps_IO += zero_GO[of_I]
    return np.clip(steps_IO, -high if symmetric else low, high).astype(np.int8), scale_GO, zero_GO


def dequantise(
    q_IO: Array, scale_GO: Array, zero_GO: Array | None = None, group: int = PER_CHANNEL, group_I: Array | None = None
) -> Array:
    """The float32 values [I, O] that integers stand for.

    Args:
        group: input features that share a scale; -1 is all.
        group_I: the group of each input feature, where they are not runs.
    """
    of_I = group_of(len(q_IO), group) if group_I is None else group_I
    values_IO = q_IO.astype(np.float32)
    if zero_GO is not None:
        values_IO -= zero_GO.astype(np.float32)[of_I]
    values_IO *= np.asarray(scale_GO, np.float32)[of_I]
    return values_IO


def pack(q_IO: Array, bits: int) -> Array:
    """Pack signed integers of `bits`: int8 [I, O] as it is for 8, else uint8 [P, O].

    Raises:
        ValueError: one is too large for so many bits.
    """
    low, high = limits(bits)
    if q_IO.min() < low or q_IO.max() > high:
        raise ValueError(f"integers of {bits} bits are {low} to {high}, not {q_IO.min()} to {q_IO.max()}")
    if bits == 8:
        return np.ascontiguousarray(q_IO, np.int8)
    block, size = BLOCK[bits]
    features, width = q_IO.shape
    stored_IO = (q_IO.astype(np.int16) + (1 << (bits - 1))).astype(np.uint32)
    whole = np.zeros((-(-features // block) * block, width), np.uint32)
    whole[:features] = stored_IO
    numbers = np.zeros((len(whole) // block, width), np.uint32)
    for place in range(block):
        numbers |= whole[place::block] << np.uint32(bits * place)
    packed = np.empty((len(numbers) * size, width), np.uint8)
    for byte in range(size):
        packed[byte::size] = (numbers >> np.uint32(8 * byte)) & 0xFF
    return packed


def unpack(packed_PO: Array, bits: int, features: int) -> Array:
    """The signed integers, int8 [I, O], that `pack` packed."""
    if bits == 8:
        return packed_PO
    block, size = BLOCK[bits]
    numbers = np.zeros((len(packed_PO) // size, packed_PO.shape[1]), np.uint32)
    for byte in range(size):
        numbers |= packed_PO[byte::size].astype(np.uint32) << np.uint32(8 * byte)
    q_IO = np.empty((len(numbers) * block, packed_PO.shape[1]), np.int8)
    for place in range(block):
        values = (numbers >> np.uint32(bits * place)) & ((1 << bits) - 1)
        q_IO[place::block] = values.astype(np.int16) - (1 << (bits - 1))
    return q_IO[:features]
