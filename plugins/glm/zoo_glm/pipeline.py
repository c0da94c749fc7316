"""GLM's pipeline list: the layers in order, each with its single-card prefix."""

from __future__ import annotations

from typing import Any

from zoo_core.pipeline import PipeLayer
from zoo_glm.config import GLMConfig

__all__ = ["layers"]


def layers(config: GLMConfig) -> tuple[PipeLayer, ...]:
    """Return embedding, blocks, final norm and head; the factories import the model code when called.

    The positions come with the first block: they follow from the tokens so far, and only a block is given a cache that
    remembers those.
    """

    def make(name: str) -> Any:
        from zoo_glm import modeling

        return getattr(modeling, name)(config)

    return (
        PipeLayer(lambda: make("GLMEmbedding"), "glm"),
        PipeLayer(lambda: make("GLMFirstBlock"), "glm.transformer", is_block=True, attention="layers.0.attention"),
        *(
            PipeLayer(lambda: make("GLMBlock"), f"glm.transformer.layers.{i}", is_block=True, attention="attention")
            for i in range(1, config.num_hidden_layers)
        ),
        PipeLayer(lambda: make("GLMFinalNorm"), "glm.transformer.final_layernorm"),
        PipeLayer(lambda: make("GLMHead"), ""),
    )
