"""Numpy arrays of a pickle as tensors of its file."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np

from zoo_core.checkpoint.dtypes import item_size, storage
from zoo_core.checkpoint.foreign.pickled import Blob, RawArray, refused
from zoo_core.checkpoint.shards import Located
from zoo_core.checkpoint.stored import Encoded, Made, Stored, Strided
from zoo_core.errors import CheckpointError

__all__ = ["place_array", "place_span"]

_KINDS = {
    "f8": "float64",
    "f4": "float32",
    "f2": "float16",
    # numpy has no bfloat16; Paddle's arrays of it are its bits, and no weight is a uint16
    "u2": "bfloat16",
    "bfloat16": "bfloat16",
    "i8": "int64",
    "i4": "int32",
    "i2": "int16",
    "i1": "int8",
    "u1": "uint8",
    "b1": "bool",
}


def place_span(
    key: str, file: str, offset: int, shape: tuple[int, ...], dtype: str, strides: tuple[int, ...]
) -> Stored:
    """A tensor at a byte of a file, contiguous in C order or not."""
    step, contiguous = 1, True
    for width, stride in zip(reversed(shape), reversed(strides), strict=True):
        contiguous = contiguous and (stride == step or width == 1)
        step *= width
    if contiguous or 0 in shape:
        return Located(key, file, offset, shape, dtype)
    return Strided(key, file, offset, shape, dtype, strides)


def place_array(key: str, file: str, folder: Path, array: RawArray) -> Stored:
    """An array of the pickle `file` in `folder`.

    Raises:
        CheckpointError: its elements are no numbers, or too few for its shape.
    """
    dtype = _KINDS.get(array.dtype)
    if dtype is None:
        raise refused(folder / file, f"an array of {array.dtype or 'nothing'} ({key})")
    shape, data = tuple(int(width) for width in array.shape), array.data
    wanted = math.prod(shape) * item_size(dtype)
    found = data.length if isinstance(data, Blob) else len(data)
    encoded = isinstance(data, Blob) and data.encoded
    if min(shape, default=0) < 0 or found < wanted or (found > wanted and not encoded):
        raise CheckpointError(
            f"{folder / file} is damaged",
            f"{key} {list(shape)} of {dtype} takes {wanted} bytes and has {found}",
            "copy or download the file again",
        )
    if isinstance(data, bytes):
        whole = np.frombuffer(data, storage(dtype)).reshape(shape, order="F" if array.fortran else "C")
        return Made(key, file, shape, dtype, lambda: whole)
    if encoded:
        if array.fortran:
            raise refused(folder / file, f"an array in Fortran order and protocol 2 ({key})")
        return Encoded(key, file, data.offset, data.length, shape, dtype)
    strides: list[int] = []
    step = 1
    for width in shape if array.fortran else reversed(shape):
        strides.append(step)
        step *= width
    return place_span(key, file, data.offset, shape, dtype, tuple(strides if array.fortran else reversed(strides)))
