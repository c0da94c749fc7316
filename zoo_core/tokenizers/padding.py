"""Rows of unequal length as one array."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from zoo_core.tokenizers.base import PaddingSide

__all__ = ["pad_batch"]


def pad_batch(
    ids: Sequence[Sequence[int]], pad_id: int, side: PaddingSide
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Fill up the shorter rows of `ids` with `pad_id`.

    Args:
        ids: B rows of token ids.
        pad_id: any id of the vocabulary will do, for the mask hides it; families without a pad token take eos.
        side: where the filling goes: "left" to generate, so that every row ends with its last token.

    Returns:
        ids and mask, both int64 [B, S] with S the longest row's length; the mask is 1 at tokens, 0 at filling.

    Raises:
        ValueError: `side` is neither "left" nor "right".
    """
    if side not in ("left", "right"):
        raise ValueError(f"side is {side!r}, it can be 'left' or 'right'")
    longest = max(map(len, ids), default=0)
    rows_BS = np.full((len(ids), longest), pad_id, np.int64)
    mask_BS = np.zeros((len(ids), longest), np.int64)
    for row, tokens in enumerate(ids):
        place = slice(longest - len(tokens), None) if side == "left" else slice(len(tokens))
        rows_BS[row, place] = tokens
        mask_BS[row, place] = 1
    return rows_BS, mask_BS
