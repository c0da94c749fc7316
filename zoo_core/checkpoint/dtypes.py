"""Element types by name, and exact conversion between them in numpy.

numpy has no bfloat16 and no float8. Here an array of `bfloat16` is a `uint16` view of the same bits and one of
`float8_*` a `uint8` view, with the name carried beside it; that is also what Paddle gives and takes as numpy.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

from zoo_core.errors import CheckpointError

__all__ = ["SAFETENSORS", "Array", "convert", "converted", "item_size", "known_dtype", "storage"]

Array = np.ndarray[Any, Any]

SAFETENSORS = {
    "bool": "BOOL",
    "uint8": "U8",
    "int8": "I8",
    "float8_e5m2": "F8_E5M2",
    "float8_e4m3fn": "F8_E4M3",
    "int16": "I16",
    "uint16": "U16",
    "float16": "F16",
    "bfloat16": "BF16",
    "int32": "I32",
    "uint32": "U32",
    "float32": "F32",
    "int64": "I64",
    "uint64": "U64",
    "float64": "F64",
}
"""Element type -> its spelling in a safetensors header."""

_NAMES = {spelling: name for name, spelling in SAFETENSORS.items()}
_VIEWS = {"bfloat16": "uint16", "float8_e5m2": "uint8", "float8_e4m3fn": "uint8"}
_CHUNK = 1 << 20


def known_dtype(spelling: str) -> str:
    """Return the element type that a safetensors header spells so; empty when zoo does not know it."""
    return _NAMES.get(spelling, "")


def storage(dtype: str) -> np.dtype[Any]:
    """Return the numpy dtype that holds elements of `dtype`.

    Raises:
        CheckpointError: no such element type.
    """
    if dtype not in SAFETENSORS:
        raise CheckpointError(f"unknown element type {dtype!r}", "", "known: " + ", ".join(SAFETENSORS))
    return np.dtype(_VIEWS.get(dtype, dtype))


def item_size(dtype: str) -> int:
    """Bytes of one element of `dtype`."""
    return storage(dtype).itemsize


@cache
def _float8_values(dtype: str) -> Array:
    """The float32 value of each of the 256 bit patterns (Micikevicius et al. 2022, FP8 formats for deep learning)."""
    bits = np.arange(256)
    exponent_bits, mantissa_bits, bias = (5, 2, 15) if dtype == "float8_e5m2" else (4, 3, 7)
    sign = np.where(bits >> 7, -1.0, 1.0)
    exponent = (bits >> mantissa_bits) & ((1 << exponent_bits) - 1)
    fraction = (bits & ((1 << mantissa_bits) - 1)) / (1 << mantissa_bits)
    values = np.where(exponent == 0, fraction * 2.0 ** (1 - bias), (1 + fraction) * 2.0 ** (exponent - bias))
    if dtype == "float8_e5m2":
        values = np.where(exponent == 31, np.where(fraction == 0, np.inf, np.nan), values)
    else:
        values = np.where((bits & 0x7F) == 0x7F, np.nan, values)
    return np.asarray(sign * values, np.float32)


def _to_numpy_float(array: Array, dtype: str) -> Array:
    """Return an array whose numpy values are the values meant; exact."""
    if dtype == "bfloat16":
        return (array.astype(np.uint32) << 16).view(np.float32)
    if dtype.startswith("float8"):
        return _float8_values(dtype)[array]
    return array


def _from_float(array: Array, dtype: str) -> Array:
    """Return the bits of numpy values as elements of `dtype`, rounded to the nearest, ties to even."""
    if dtype != "bfloat16":
        return array.astype(storage(dtype))
    bits = np.ascontiguousarray(array, dtype=np.float32).view(np.uint32)
    rounded = (bits + (0x7FFF + ((bits >> 16) & 1)).astype(np.uint32)) >> 16
    # Rounding a NaN could give an infinity; cutting it can too, when its mantissa is all in the lower bits.
    cut = bits >> 16
    nan = np.where(cut & 0x7F, cut, cut | 0x40)
    return np.where((bits & 0x7FFFFFFF) > 0x7F800000, nan, rounded).astype(np.uint16)


def converted(source: Array, source_dtype: str, target_dtype: str) -> Array:
    """Return the values of `source` in a new array, see `convert`."""
    target = np.empty(source.shape, storage(target_dtype))
    convert(source, source_dtype, target, target_dtype)
    return target


def convert(source: Array, source_dtype: str, target: Array, target_dtype: str) -> None:
    """Fill `target` with the values of `source`, of the same shape, a bounded number of rows at a time.

    Args:
        source: any strides, elements of `source_dtype`.
        target: any strides, elements of `target_dtype`.

    Raises:
        CheckpointError: zoo does not round to `target_dtype` (float8), or a float would become an integer.
    """
    if source_dtype == target_dtype:
        target[...] = source
        return
    if target_dtype.startswith("float8") or (source_dtype.startswith(("float", "bf")) and "float" not in target_dtype):
        raise CheckpointError(f"cannot convert {source_dtype} to {target_dtype}", "the values would be lost", "")
    if source.ndim == 0:
        target[...] = _from_float(_to_numpy_float(source, source_dtype), target_dtype)
        return
    rows = max(1, _CHUNK // max(1, source[:1].size))
    with np.errstate(over="ignore"):
        for first in range(0, len(source), rows):
            part = _to_numpy_float(source[first : first + rows], source_dtype)
            target[first : first + rows] = _from_float(part, target_dtype)
