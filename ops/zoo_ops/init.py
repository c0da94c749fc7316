"""Initial values as a function of (seed, parameter name), so that they do not depend on the parallel layout.

A parameter is made in blocks of whole rows. Each block has a random stream of its own, so any rank can make just the
blocks it needs, in threads. No paddle.
"""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

__all__ = ["initial", "initial_slice"]

_BLOCK = 1 << 18
"""Values in a block, about: small enough for a core's cache, large enough that starting a stream costs nothing."""


def initial(seed: int, name: str, shape: Sequence[int], kind: str, std: float = 0.02) -> np.ndarray:
    """Return the initial values of a parameter, float32.

    Args:
        seed: the run's seed.
        name: single-card name of the parameter.
        shape: its global shape.
        kind: "normal" or "uniform" (mean 0), "zeros" or "ones".
        std: standard deviation of "normal" and of "uniform", which reaches std x sqrt(3) either way.

    Raises:
        ValueError: the kind is not known.
    """
    return initial_slice(seed, name, shape, kind, std, ())


def initial_slice(
    seed: int, name: str, shape: Sequence[int], kind: str, std: float, index: Sequence[slice]
) -> np.ndarray:
    """Return `initial(...)[index]` in memory for the slice and a few blocks.

    Args:
        seed: see `initial`.
        name: see `initial`.
        shape: the global shape.
        kind: see `initial`.
        std: see `initial`.
        index: one slice of step 1 for each of the first dims; dims without one are whole.

    Raises:
        ValueError: the kind is not known.
    """
    full = [*index, *[slice(None)] * (len(shape) - len(index))]
    bounds = [part.indices(size)[:2] for part, size in zip(full, shape, strict=True)]
    local = tuple(max(stop - start, 0) for start, stop in bounds)
    if kind == "zeros":
        return np.zeros(local, np.float32)
    if kind == "ones":
        return np.ones(local, np.float32)
    if kind not in ("normal", "uniform"):
        raise ValueError(f"initialiser {kind!r} is not known; known are normal, uniform, zeros, ones")
    out = np.empty(local, np.float32)
    if not out.size:
        return out
    if kind == "uniform":
        # drawn whole: it is what adapters start with, which are small
        made = _stream(seed, name, 0).random(tuple(shape), dtype=np.float32)
        out[...] = (2 * made[tuple(slice(*part) for part in bounds)] - 1) * np.float32(std * math.sqrt(3))
        return out
    if not shape:
        out[()] = _stream(seed, name, 0).standard_normal(dtype=np.float32) * np.float32(std)
        return out
    rest = tuple(shape[1:])
    rows = max(1, _BLOCK // math.prod(rest))
    columns = tuple(slice(start, stop) for start, stop in bounds[1:])
    first, last = bounds[0]

    def fill(block: int) -> None:
        top = block * rows
        bottom = min(top + rows, shape[0])
        start, stop = max(top, first), min(bottom, last)
        stream = _stream(seed, name, block)
        target = out[start - first : stop - first]
        if target.shape == (bottom - top, *rest):
            stream.standard_normal(dtype=np.float32, out=target)
        else:
            made = stream.standard_normal((bottom - top, *rest), dtype=np.float32)
            target[...] = made[(slice(start - top, stop - top), *columns)]
        target *= np.float32(std)

    blocks = range(first // rows, -(-last // rows))
    threads = min(len(blocks), os.cpu_count() or 1)
    if threads < 2:
        for block in blocks:
            fill(block)
    else:
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(fill, blocks))
    return out


def _stream(seed: int, name: str, block: int) -> np.random.Generator:
    key = hashlib.blake2b(f"{seed}\0{name}\0{block}".encode(), digest_size=16).digest()
    return np.random.Generator(np.random.Philox(key=np.frombuffer(key, "<u8").astype(np.uint64)))
