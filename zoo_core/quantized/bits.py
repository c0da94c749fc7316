"""How many rows of bytes integers of a few bits take. No numpy: the table asks."""

from __future__ import annotations

__all__ = ["BLOCK", "limits", "packed_rows"]

BLOCK = {8: (1, 1), 4: (2, 1), 3: (8, 3)}
"""By bits: in features of a block, and the bytes it takes; see `zoo_core.quantized.pack`."""


def limits(bits: int) -> tuple[int, int]:
    """The least and the largest integer of so many bits: -128 and 127 of 8."""
    return -(1 << (bits - 1)), (1 << (bits - 1)) - 1


def packed_rows(features: int, bits: int) -> int:
    """Rows of bytes that so many input features take."""
    block, size = BLOCK[bits]
    return -(-features // block) * size
