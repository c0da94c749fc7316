"""GPT's pipeline list: the layers in order, each with its single-card prefix."""

from __future__ import annotations

from typing import Any

from zoo_core.pipeline import PipeLayer
from zoo_gpt3.config import GPTConfig

__all__ = ["layers"]


def layers(config: GPTConfig) -> tuple[PipeLayer, ...]:
    """Return embeddings, blocks, final norm and head; the factories import the model code when called."""

    def make(name: str) -> Any:
        from zoo_gpt3 import modeling

        return getattr(modeling, name)(config)

    return (
        PipeLayer(lambda: make("GPTEmbeddings"), "gpt.embeddings"),
        *(
            PipeLayer(lambda: make("GPTBlock"), f"gpt.decoder.layers.{i}", is_block=True, attention="self_attn")
            for i in range(config.num_hidden_layers)
        ),
        PipeLayer(lambda: make("GPTFinalNorm"), "gpt.decoder"),
        PipeLayer(lambda: make("GPTHead"), ""),
    )
