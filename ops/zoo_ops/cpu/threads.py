"""A few threads for what paddle's CPU kernels do with one, and zero-copy views between paddle and numpy.

Numpy and paddle both release the interpreter's lock while they compute, so parts of an operation run side by side.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import lru_cache
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import paddle
from threadpoolctl import ThreadpoolController  # type: ignore[import-untyped]

from zoo_ops.cpu.blas import load_mkl

if TYPE_CHECKING:
    from paddle import Tensor

__all__ = ["array", "each", "empty", "one_blas_thread", "runs", "set_threads", "threads", "wanted"]

T = TypeVar("T")
_threads: int | None = None


def threads() -> int:
    """How many threads the CPU paths use: what `set_threads` said, else OMP_NUM_THREADS, else one."""
    if _threads is not None:
        return _threads
    said = os.environ.get("OMP_NUM_THREADS", "").split(",")[0]
    return max(1, min(int(said), os.cpu_count() or 1)) if said.isdigit() else 1


def set_threads(number: int | None) -> None:
    """Set the number of threads of the CPU paths; `None` goes back to OMP_NUM_THREADS."""
    global _threads
    _threads = number
    _pool.cache_clear()


def _mkl_threads_here(number: int) -> int:
    """Limit MKL in the calling thread, for a part that is itself one of several; returns the limit before."""
    limit = _mkl_limit()
    return int(limit(number)) if limit is not None else 0


@lru_cache(maxsize=1)
def _mkl_limit() -> Any:
    # `PyDLL` keeps the interpreter's lock, which a helper just started would take, and let this thread wait
    return load_mkl(ctypes.PyDLL, "MKL_Set_Num_Threads_Local")


@lru_cache(maxsize=1)
def _openblas() -> list[Any]:
    return list(ThreadpoolController().select(internal_api="openblas").lib_controllers)


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """Let numpy's matrix products run in the threads that call them.

    Those of its library wait for each other by spinning, also against paddle's. Where other processes want the cores,
    products of one row were then thirty times as slow as in one thread.
    """
    before = [(library, library.num_threads) for library in _openblas()]
    for library, number in before:
        if number != 1:
            library.set_num_threads(1)
    try:
        yield
    finally:
        for library, number in before:
            if number != 1:
                library.set_num_threads(number)


@lru_cache(maxsize=1)
def _pool(number: int) -> ThreadPoolExecutor:
    def start() -> None:
        _mkl_threads_here(1)

    return ThreadPoolExecutor(number, thread_name_prefix="zoo-cpu", initializer=start)


# A child of fork has none of its parent's threads.
os.register_at_fork(after_in_child=_pool.cache_clear)


def each(parts: int, do: Callable[[int], None]) -> None:
    """Call `do(0)` .. `do(parts - 1)`, side by side where there are threads; the first error is raised.

    The calling thread works too. Paddle operations inside `do` record no gradient.
    """
    number = min(threads(), parts)
    if number <= 1:
        with paddle.no_grad():
            for part in range(parts):
                do(part)
        return

    def some(first: int) -> None:
        with paddle.no_grad():
            for part in range(first, parts, number):
                do(part)

    pool = _pool(threads() - 1)
    waiting = [pool.submit(some, first) for first in range(1, number)]
    before = _mkl_threads_here(1)
    try:
        some(0)
    finally:
        _mkl_threads_here(before)
        for future in waiting:
            future.exception()
    for future in waiting:
        future.result()


def runs(total: int) -> list[slice]:
    """Cut `total` rows into one run for each thread."""
    number = max(1, min(threads(), total))
    cuts = [total * i // number for i in range(number + 1)]
    return [slice(a, b) for a, b in zip(cuts, cuts[1:], strict=False)]


def array(tensor: Tensor) -> np.ndarray:
    """Return a numpy view of a CPU tensor's memory; writing to it writes the tensor."""
    return np.from_dlpack(tensor.detach())


def empty(shape: Sequence[int], dtype: str = "float32") -> tuple[Tensor, np.ndarray]:
    """Return a new CPU tensor and a numpy view of its memory."""
    tensor = paddle.empty(list(shape), dtype=dtype)
    return tensor, np.from_dlpack(tensor)


def wanted(inputs: Sequence[Tensor], grads: Sequence[T]) -> tuple[T | None, ...]:
    """Return the gradients of a PyLayer's tensor inputs, `None` for the frozen ones: paddle insists on it."""
    return tuple(None if x.stop_gradient else grad for x, grad in zip(inputs, grads, strict=True))
