"""OPT's pipeline list: the layers in order, each with its single-card prefix."""

from __future__ import annotations

from typing import Any

from zoo_core.pipeline import PipeLayer
from zoo_opt.config import OptConfig

__all__ = ["layers"]


def layers(config: OptConfig) -> tuple[PipeLayer, ...]:
    """Return embeddings, blocks, what follows them, and head; the factories import the model code when called."""

    def make(name: str) -> Any:
        from zoo_opt import modeling

        return getattr(modeling, name)(config)

    return (
        PipeLayer(lambda: make("OptEmbeddings"), "opt.embeddings"),
        *(
            PipeLayer(lambda: make("OptBlock"), f"opt.decoder.layers.{i}", is_block=True, attention="self_attn")
            for i in range(config.num_hidden_layers)
        ),
        PipeLayer(lambda: make("OptTop"), "opt.decoder"),
        PipeLayer(lambda: make("OptHead"), ""),
    )
