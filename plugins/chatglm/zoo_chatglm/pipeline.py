"""ChatGLM's pipeline lists: the layers in order, each with its single-card prefix."""

from __future__ import annotations

from typing import Any

from zoo_chatglm.config import ChatGLMConfig
from zoo_core.pipeline import PipeLayer

__all__ = ["layers"]


def layers(config: ChatGLMConfig) -> tuple[PipeLayer, ...]:
    """Return embedding, blocks, final norm and head; the factories import the model code when called."""

    def make(name: str) -> Any:
        from zoo_chatglm import modeling

        return getattr(modeling, name)(config)

    if config.is_v1:
        embedding = norm = "chatglm.transformer"
        block, attention, head = "ChatGLMBlock", "attention", ""
    else:
        embedding, norm = "chatglm_v2.embedding", "chatglm_v2.encoder"
        block, attention, head = "ChatGLM2Block", "self_attention", "chatglm_v2"
    return (
        PipeLayer(lambda: make("ChatGLMEmbedding"), embedding),
        *(
            PipeLayer(lambda: make(block), f"{norm}.layers.{i}", is_block=True, attention=attention)
            for i in range(config.num_hidden_layers)
        ),
        PipeLayer(lambda: make("ChatGLMFinalNorm"), norm),
        PipeLayer(lambda: make("ChatGLMHead"), head),
    )
