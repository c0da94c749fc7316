"""Mynah's pipeline list: the layers in order, each with its single-card prefix."""

from __future__ import annotations

from typing import Any

from zoo_core.pipeline import PipeLayer

from zoo_mynah.config import MynahConfig

__all__ = ["layers"]


def layers(config: MynahConfig) -> tuple[PipeLayer, ...]:
    """Return embedding, blocks, final norm and head; the factories import the model code when called."""

    def make(name: str) -> Any:
        from zoo_mynah import modeling

        return getattr(modeling, name)(config)

    return (
        PipeLayer(lambda: make("MynahEmbedding"), "mynah"),
        *(
            PipeLayer(
                lambda: make("MynahBlock"),
                f"mynah.layers.{i}",
                is_block=True,
                attention="attention",
            )
            for i in range(config.num_hidden_layers)
        ),
        PipeLayer(lambda: make("MynahFinalNorm"), "mynah"),
        PipeLayer(lambda: make("MynahHead"), ""),
    )
