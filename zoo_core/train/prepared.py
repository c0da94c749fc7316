"""Where a run begins: plain data, found by `prepare`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo_core.config import ModelConfig

if TYPE_CHECKING:
    from zoo_core.data.sft import TuningFiles
    from zoo_core.tokenizers import Tokenizer

__all__ = ["Prepared"]


@dataclass(frozen=True)
class Prepared:
    """Where a run begins.

    Args:
        config: of the model, with the vocabulary that the run has.
        weights: folder of the first weights; `None` for random ones.
        resume: checkpoint to go on from; `None` starts at step 0.
        state: the training state in `resume`.
        tokenizer: to be copied into checkpoints, if the run has one.
        said: what `--scale` changed, to be printed.
        tuning: the files that fine-tuning reads.
    """

    config: ModelConfig
    weights: Path | None = None
    resume: Path | None = None
    state: Mapping[str, Any] = field(default_factory=dict)
    tokenizer: Tokenizer | None = None
    said: tuple[str, ...] = ()
    tuning: TuningFiles | None = None

    @property
    def start(self) -> Path | None:
        """Folder that the weights are read from."""
        return self.resume or self.weights
