"""Bloom's pipeline list: the layers in order, each with its single-card prefix."""

from __future__ import annotations

from typing import Any

from zoo_bloom.config import BloomConfig
from zoo_core.pipeline import PipeLayer

__all__ = ["layers"]


def layers(config: BloomConfig) -> tuple[PipeLayer, ...]:
    """Return embedding with its norm, blocks, final norm and head; the factories import the model code when called."""

    def make(name: str) -> Any:
        from zoo_bloom import modeling

        return getattr(modeling, name)(config)

    return (
        PipeLayer(lambda: make("BloomEmbedding"), "bloom"),
        *(
            PipeLayer(lambda: make("BloomBlock"), f"bloom.h.{i}", is_block=True, attention="self_attention")
            for i in range(config.num_hidden_layers)
        ),
        PipeLayer(lambda: make("BloomFinalNorm"), "bloom"),
        PipeLayer(lambda: make("BloomHead"), ""),
    )
