"""The model that a command answers with, on one process: trained or exported, perhaps with an adapter or a prefix."""

from __future__ import annotations

import os
from pathlib import Path

from zoo_core.environment import ready_device
from zoo_core.errors import ConfigError
from zoo_core.evaluate.loading import load
from zoo_core.export.spec import is_exported
from zoo_core.generate.answering import TextBase

__all__ = ["loaded_model"]


def loaded_model(
    path: str, tokenizer: Path | None, device: str, dtype: str, lora_path: Path | None, prefix_path: Path | None
) -> TextBase:
    """Import paddle and load a model; what there is to say of it goes to standard error.

    Args:
        path: as `zoo_core.generate.load_model` takes it, or a folder that `zoo export` wrote.
        device: "auto", "cpu", "gpu" or "xpu".

    Raises:
        MachineError: Paddle is missing, or built for another device.
        ConfigError: a type that CPUs do not have; an adapter or a prefix for an exported model, or both for any.
        CheckpointError: there are no weights, or they do not fit.
        TokenizerError: there is no tokenizer.
    """
    from zoo_core.engine.quiet import import_paddle, quiet_environment

    quiet_environment(os.environ)
    if not is_exported(Path(path).expanduser()):
        return load(path, tokenizer, lora_path, prefix_path, device, dtype)
    device = ready_device(device, dtype)
    import_paddle(device)
    if lora_path is not None or prefix_path is not None:
        raise ConfigError(
            f"{path} is an exported model", "its adapters and its prefix are part of it, or it has none",
            "export the model with --lora_path or --prefix_path",
        )  # fmt: skip
    from zoo_core.export.static import load_static

    return load_static(path, tokenizer, device)
