"""A model for evaluation, from what a user names."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from zoo_core.environment import ready_device

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
    """Load a model; paddle is imported here. What there is to say of it goes to standard error.

    Args:
        path: as `zoo_core.generate.load_model` takes it, and the others.
        device: also "auto".

    Raises:
        ConfigError: `dtype` has no kernels on this device.
        ZooError: see `load_model`.
    """
    device = ready_device(device, dtype)
    from zoo_core.engine.quiet import import_paddle

    import_paddle(device)
    from zoo_core.generate.model import load_model

    adapters = {"adapter": lora_path} if lora_path is not None else None
    model = load_model(path, tokenizer, device, dtype, adapters, prefix_path)
    for note in model.notes:
        print(f"warning: {note}", file=sys.stderr)
    return model
