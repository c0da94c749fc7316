"""Where a run begins: plain data, found by `prepare`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo_core.config import ModelConfig

if TYPE_CHECKING:
    from zoo_core.data.sft import TuningFiles
    from zoo_core.engine.qat import QatSpec
    from zoo_core.peft import LoraSpec, PrefixSpec
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
        lora: the adapters that are trained, if not all weights are; then `weights` are the base model's.
        lora_path: folder of the adapters' first values; `None` for random ones.
        prefix, prefix_path: the same of a prefix.
        trained: what is trained, in words, if not all weights are.
        qat: how weights and activations are rounded in training, if they are.
    """

    config: ModelConfig
    weights: Path | None = None
    resume: Path | None = None
    state: Mapping[str, Any] = field(default_factory=dict)
    tokenizer: Tokenizer | None = None
    said: tuple[str, ...] = ()
    tuning: TuningFiles | None = None
    lora: LoraSpec | None = None
    lora_path: Path | None = None
    prefix: PrefixSpec | None = None
    prefix_path: Path | None = None
    trained: str = ""
    qat: QatSpec | None = None

    @property
    def freezes(self) -> bool:
        """Whether the model stays as it is, and adapters or a prefix are trained."""
        return self.lora is not None or self.prefix is not None

    @property
    def start(self) -> Path | None:
        """Folder that the model's weights are read from."""
        return self.weights if self.freezes else self.resume or self.weights

    @property
    def adapters(self) -> Path | None:
        """Folder that the adapters or the prefix are read from."""
        return (self.resume or self.lora_path or self.prefix_path) if self.freezes else None
