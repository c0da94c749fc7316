"""An exported model with its tokenizer: text in, text out, without model code."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from zoo_core.config import ModelConfig
from zoo_core.errors import ConfigError
from zoo_core.export.passes import StaticPasses
from zoo_core.export.programs import JitPrograms, PredictorPrograms, Programs, ReplayPrograms
from zoo_core.export.spec import Exported, read_exported
from zoo_core.generate.answering import TextBase
from zoo_core.registry import find
from zoo_core.tokenizers import Tokenizer

__all__ = ["Runner", "StaticModel", "load_static", "static_passes"]

Runner = Literal["replay", "jit", "inference"]
"""`paddle.jit.load`, with one copy of the weights; the same, with single tokens by numpy on CPU; or Paddle Inference,
with one copy for each program that is used."""


@dataclass(frozen=True)
class StaticModel(TextBase):
    """An exported model that continues text; made by `load_static`.

    Args:
        spec: what was exported.
        static: its programs, as passes.
    """

    spec: Exported
    static: StaticPasses

    @property
    def context(self) -> int:
        """Tokens of the longest text it was exported for."""
        return self.spec.max_length

    def passes(self) -> StaticPasses:
        """What reads tokens."""
        return self.static


def static_passes(folder: Path, spec: Exported, runner: Runner = "replay", device: str = "cpu") -> StaticPasses:
    """Return the programs in a folder as passes.

    Raises:
        ConfigError: Paddle cannot read them.
    """
    try:
        programs: Programs
        if runner == "inference":
            programs = PredictorPrograms(folder, device)
        else:
            loaded = JitPrograms(folder)
            programs = loaded if runner == "jit" else ReplayPrograms(loaded, device)
    except Exception as error:
        why = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise ConfigError(
            f"Paddle cannot read the programs in {folder}", f"{why} (they were written by Paddle {spec.paddle})",
            "export the model again",
        ) from error  # fmt: skip
    return StaticPasses(programs, spec)


def load_static(
    path: str | Path, tokenizer: Path | None = None, device: str = "cpu", runner: Runner = "replay"
) -> StaticModel:
    """Load a folder that `zoo export` wrote.

    Args:
        tokenizer: its file or folder; by default the one in the folder.
        device: "cpu", "gpu" or "xpu".
        runner: how programs are run.

    Raises:
        CheckpointError: it is no such folder, or is damaged.
        ConfigError: Paddle cannot read its programs.
        TokenizerError: there is no tokenizer.
    """
    folder = Path(path).expanduser()
    spec = read_exported(folder)
    found = find(str(folder))
    config: ModelConfig = found.config
    text: Tokenizer = found.architecture.tokenizer(config, folder if tokenizer is None else tokenizer)
    return StaticModel(config, text, folder, spec, static_passes(folder, spec, runner, device))
