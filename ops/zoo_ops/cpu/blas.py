"""Products of a few rows with a weight by MKL, which Paddle brings: numpy's library takes three times as long.

Shape legend: T rows, I/O in and out features.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import paddle

__all__ = ["load_mkl", "mkl_product"]

_ROW_MAJOR, _AS_IT_IS, _TRANSPOSED = 101, 111, 112


def load_mkl(loader: Callable[[str], Any], symbol: str) -> Any:
    """Return a function of the library that Paddle brings; `None` where Paddle came with another one.

    Args:
        loader: `ctypes.CDLL`, or `ctypes.PyDLL` for what is over sooner than the interpreter's lock is handed on.
        symbol: the function's name.
    """
    try:
        return getattr(loader(str(Path(paddle.__file__).parent / "libs" / "libmklml_intel.so")), symbol)
    except (OSError, AttributeError):
        return None


@lru_cache(maxsize=1)
def _sgemm() -> Any:
    function = load_mkl(ctypes.CDLL, "cblas_sgemm")
    if function is not None:
        whole, real, place = ctypes.c_int, ctypes.c_float, ctypes.c_void_p
        function.argtypes = [whole] * 6 + [real, place, whole, place, whole, real, place, whole]
        function.restype = None
    return function


def mkl_product(x_TI: np.ndarray, weight_IO: np.ndarray, out_TO: np.ndarray) -> bool:
    """Fill `out_TO` with the product, by as many threads as MKL has been given; False where it cannot.

    Args:
        x_TI: float32 as the others, in C order, as `out_TO` is.
        weight_IO: in C order, or the transpose of what is.
    """
    function, (T, inner), width = _sgemm(), x_TI.shape, weight_IO.shape[1]
    flags = weight_IO.flags
    arrays = (x_TI, weight_IO, out_TO)
    if function is None or any(t.dtype != np.float32 for t in arrays) or not (T and inner and width):
        return False
    if not (x_TI.flags.c_contiguous and out_TO.flags.c_contiguous and (flags.c_contiguous or flags.f_contiguous)):
        return False
    x, weight, out = (t.ctypes.data for t in arrays)
    how, step = (_AS_IT_IS, width) if flags.c_contiguous else (_TRANSPOSED, inner)
    function(_ROW_MAJOR, _AS_IT_IS, how, T, width, inner, 1.0, x, inner, weight, step, 0.0, out, width)
    return True
