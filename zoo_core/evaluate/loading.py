"""A model for evaluation, from what a user names."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from zoo_core.environment import apply_cpu_environment, device_of, require_paddle
from zoo_core.errors import ConfigError

if TYPE_CHECKING:
    from zoo_core.generate.model import TextModel

__all__ = ["load"]


def load(
    path: str,
    tokenizer: Path | None = None,
    lora_path: Path | None = None,
    prefix_path: Path | None = None,
    device: str = "auto",
    dtype: str = "float32",
) -> TextModel:
    """Load a model; paddle is imported here, with the environment that makes it quick.

    Args:
        path: as `zoo_core.generate.load_model` takes it, and the others.
        device: also "auto".

    Raises:
        ConfigError: `dtype` has no kernels on this device.
        ZooError: see `load_model`.
    """
    device = device_of(device)
    require_paddle(device)
    if device == "cpu":
        if dtype != "float32":
            raise ConfigError(
                f"dtype is {dtype}", "Paddle has no such kernels for CPUs", "leave it out, or run on a GPU"
            )
        apply_cpu_environment(1, os.environ)
    from zoo_core.engine.quiet import import_paddle

    import_paddle(device)
    from zoo_core.generate.model import load_model

    adapters = {"adapter": lora_path} if lora_path is not None else None
    return load_model(path, tokenizer, device, dtype, adapters, prefix_path)
