"""Quantised weights: the rows of the table that they are, and (`pack`, with numpy) their arrays. No paddle."""

from __future__ import annotations

from zoo_core.quantized.bits import packed_rows
from zoo_core.quantized.rows import ROWS, quantised_layers, split_objection, with_quantised

__all__ = ["ROWS", "packed_rows", "quantised_layers", "split_objection", "with_quantised"]
