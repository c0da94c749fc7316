"""Qwen's pipeline lists: the layers in order, each with its single-card prefix."""

from __future__ import annotations

from typing import Any

from zoo_core.pipeline import PipeLayer
from zoo_qwen.config import QwenConfig

__all__ = ["layers"]


def layers(config: QwenConfig) -> tuple[PipeLayer, ...]:
    """Return embedding, blocks, final norm and head; the factories import the model code when called."""

    def make(name: str) -> Any:
        from zoo_qwen import modeling

        return getattr(modeling, name)(config)

    base = config.model_type
    block, path, attention = ("QwenV1Block", "h", "attn") if config.is_v1 else ("QwenBlock", "layers", "self_attn")
    return (
        PipeLayer(lambda: make("QwenEmbedding"), base),
        *(
            PipeLayer(lambda: make(block), f"{base}.{path}.{i}", is_block=True, attention=attention)
            for i in range(config.num_hidden_layers)
        ),
        PipeLayer(lambda: make("QwenFinalNorm"), base),
        PipeLayer(lambda: make("QwenHead"), ""),
    )
