"""What a run trains, and beside what: all weights, adapters or a prefix; alone, or with a reference model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from zoo_core.layout import Rule
from zoo_core.pipeline import PipeLayer

__all__ = ["EVERYTHING", "AddedRows", "Tuned"]

AddedRows = Callable[[Mapping[str, Rule], Sequence[PipeLayer]], Mapping[str, Rule]]
"""From a model's table and pipeline list to the rows of what is trained in its place, in the order it is built."""


@dataclass(frozen=True)
class Tuned:
    """What a run trains.

    Args:
        added: the rows of adapters or of a prefix, which alone are trained; `None` trains all of the model.
        dropout: adapters drop some of their input.
        virtual_tokens: keys and values that every query sees beside those of the sample: a prefix.
        projected: width within the projection that makes a prefix; 0 without one.
        rows: sequences of a sample: two of a pair of answers.
        reference: who gives the log-probabilities that a policy is kept near: nobody, the same weights with adapters
            switched off, or a frozen copy of all of them.
    """

    added: AddedRows | None = None
    dropout: bool = False
    virtual_tokens: int = 0
    projected: int = 0
    rows: int = 1
    reference: Literal["none", "same", "copy"] = "none"

    @property
    def frozen(self) -> bool:
        """Whether the model's own weights are not trained."""
        return self.added is not None


EVERYTHING = Tuned()
"""All weights, on samples of one sequence."""
