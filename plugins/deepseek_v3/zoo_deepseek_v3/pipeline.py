"""DeepSeek-V3's pipeline list: the layers in order, each with its single-card prefix."""

from __future__ import annotations

from typing import Any

from zoo_core.pipeline import PipeLayer
from zoo_deepseek_v3.config import DeepseekV3Config

__all__ = ["layers"]


def layers(config: DeepseekV3Config) -> tuple[PipeLayer, ...]:
    """Return embedding, blocks, final norm, multi-token prediction and head; the factories import the model code."""

    def make(name: str, *numbers: int) -> Any:
        from zoo_deepseek_v3 import modeling

        return getattr(modeling, name)(config, *numbers)

    def block(number: int) -> PipeLayer:
        return PipeLayer(
            lambda: make("DeepseekV3Block", number),
            f"deepseek_v3.layers.{number}",
            is_block=True,
            attention="self_attn",
        )

    prediction = PipeLayer(lambda: make("DeepseekV3Prediction"), f"deepseek_v3.layers.{config.num_hidden_layers}")
    return (
        PipeLayer(lambda: make("DeepseekV3Embedding"), "deepseek_v3"),
        *(block(number) for number in range(config.num_hidden_layers)),
        PipeLayer(lambda: make("DeepseekV3FinalNorm"), "deepseek_v3"),
        *([prediction] if config.num_nextn_predict_layers else []),
        PipeLayer(lambda: make("DeepseekV3Head"), ""),
    )
