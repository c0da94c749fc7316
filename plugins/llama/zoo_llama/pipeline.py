"""Llama's pipeline list: the layers in order, each with its single-card prefix."""

from __future__ import annotations

from typing import Any

from zoo_core.pipeline import PipeLayer
from zoo_llama.config import LlamaConfig

__all__ = ["layers"]


def layers(config: LlamaConfig) -> tuple[PipeLayer, ...]:
    """Return embedding, blocks, final norm and head; the factories import the model code when called."""

    def make(name: str) -> Any:
        from zoo_llama import modeling

        return getattr(modeling, name)(config)

    return (
        PipeLayer(lambda: make("LlamaEmbedding"), "llama"),
        *(
            PipeLayer(lambda: make("LlamaBlock"), f"llama.layers.{i}", is_block=True, attention="self_attn")
            for i in range(config.num_hidden_layers)
        ),
        PipeLayer(lambda: make("LlamaFinalNorm"), "llama"),
        PipeLayer(lambda: make("LlamaHead"), ""),
    )
