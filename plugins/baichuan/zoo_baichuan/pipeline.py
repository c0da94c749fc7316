"""Baichuan's pipeline list: the layers in order, each with its single-card prefix."""

from __future__ import annotations

from typing import Any

from zoo_baichuan.config import BaichuanConfig
from zoo_core.pipeline import PipeLayer

__all__ = ["layers"]


def layers(config: BaichuanConfig) -> tuple[PipeLayer, ...]:
    """Return embedding, blocks, final norm and head; the factories import the model code when called."""

    def make(name: str) -> Any:
        from zoo_baichuan import modeling

        return getattr(modeling, name)(config)

    return (
        PipeLayer(lambda: make("BaichuanEmbedding"), "baichuan"),
        *(
            PipeLayer(lambda: make("BaichuanBlock"), f"baichuan.layers.{i}", is_block=True, attention="self_attn")
            for i in range(config.num_hidden_layers)
        ),
        PipeLayer(lambda: make("BaichuanFinalNorm"), "baichuan"),
        PipeLayer(lambda: make("BaichuanHead"), ""),
    )
