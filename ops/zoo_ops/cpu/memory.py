"""Keep freed memory in the process. No paddle, so that it can be called before paddle is imported."""

from __future__ import annotations

import ctypes
import sys

__all__ = ["keep_freed_memory"]

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX = -1, -2, -4
_NEVER = (1 << 31) - 1
_STEP = 64 << 20


def keep_freed_memory() -> bool:
    """Tell glibc to reuse large freed blocks instead of handing them back; returns whether it was told.

    Paddle allocates and frees every activation, and by default each of more than 32 MB at most (less, at first) is
    a fresh mapping whose pages the kernel must clear again: elementwise operations on 16 MB took 3 to 10 times as
    long. The price is that the process keeps its peak.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    return all([mallopt(_MMAP_MAX, 0), mallopt(_TRIM_THRESHOLD, _NEVER), mallopt(_TOP_PAD, _STEP)])
