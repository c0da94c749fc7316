"""How weights and activations are rounded in quantisation-aware training: plain data. No paddle."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

__all__ = ["QatSpec"]


@dataclass(frozen=True)
class QatSpec:
    """How weights and activations are rounded in training, as PaddleSlim has it.

    Args:
        weight_bits, activation_bits: of the integers that they are rounded to.
        per_channel: each output feature has its own span ("channel_wise_abs_max"); else the weight has one ("abs_max").
        moving_rate: share of the past in the moving average of the inputs' largest magnitudes.
    """

    weight_bits: int = 8
    activation_bits: int = 8
    per_channel: bool = True
    moving_rate: float = 0.9

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self)

    def describe(self) -> str:
        """In words."""
        whole = "of each output feature" if self.per_channel else "of each weight"
        return f"weights rounded to {self.weight_bits} bits by the span {whole}, inputs to {self.activation_bits} bits"
