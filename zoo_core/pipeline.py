"""The pipeline list: which layers make the model, in order, and the single-card prefix of each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

__all__ = ["PipeLayer"]


@dataclass(frozen=True)
class PipeLayer:
    """One element of the pipeline.

    The layer that `factory()` returns is called as `layer(x, batch, cache)` and returns the next `x`: a hidden state
    [batch, sequence, hidden] between layers, `None` into the first, logits out of the last. `batch` is a
    `zoo_ops.Batch`, which every stage has of its own; `cache` is a block's `zoo_ops.LayerCache`, and `None` in a pass
    without a cache and for every layer that is no block.

    Args:
        factory: builds the layer on one card; called with no arguments, it imports paddle inside.
        prefix: single-card name of the layer: parameter `weight` of the layer is `PREFIX.weight`. Layers may share a
            prefix, and it may be empty (a layer that holds `lm_head`).
        is_block: a repeated decoder block: recomputed as a whole, counted when stages are cut.
        attention: path inside the block of its attention (`self_attn`), for recompute `full_attn`.
    """

    factory: Callable[[], Any]
    prefix: str
    is_block: bool = False
    attention: str = ""

    def single(self, parameter: str) -> str:
        """The single-card name of the layer's parameter `parameter`."""
        return f"{self.prefix}.{parameter}" if self.prefix else parameter
