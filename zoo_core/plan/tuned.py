"""What a run trains, and beside what: all weights, adapters or a prefix; alone, or with a reference model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from zoo_core.arguments import Arguments
from zoo_core.config import ModelConfig
from zoo_core.peft import LoraSpec, PrefixSpec, prefix_from_arguments, spec_from_arguments

__all__ = ["EVERYTHING", "Tuned", "tuned_of"]


@dataclass(frozen=True)
class Tuned:
    """What a run trains.

    Args:
        lora: adapters, which alone are trained.
        prefix: of every block, the same.
        rows: sequences of a sample: two of a pair of answers.
        reference: who gives the log-probabilities that a policy is kept near: nobody, the same weights with adapters
            switched off, or a frozen copy of all of them.
    """

    lora: LoraSpec | None = None
    prefix: PrefixSpec | None = None
    rows: int = 1
    reference: Literal["none", "same", "copy"] = "none"

    @property
    def frozen(self) -> bool:
        """Whether the model's own weights are not trained."""
        return self.lora is not None or self.prefix is not None

    @property
    def virtual_tokens(self) -> int:
        """Keys and values that every query sees beside those of the sample."""
        return self.prefix.tokens if self.prefix is not None else 0


EVERYTHING = Tuned()
"""All weights, on samples of one sequence."""


def tuned_of(arguments: Arguments, config: ModelConfig) -> Tuned:
    """Return what the arguments train.

    Raises:
        ConfigError: adapters and a prefix at once.
    """
    lora, prefix = spec_from_arguments(arguments), prefix_from_arguments(arguments, config)
    if arguments.task != "dpo":
        return Tuned(lora, prefix)
    if arguments.finetune.reference_free:
        return Tuned(lora, prefix, 2)
    return Tuned(lora, prefix, 2, "same" if lora is not None else "copy")
