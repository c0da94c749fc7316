"""What completion offers: the flags of a run, and the names of models."""

from __future__ import annotations

from zoo_core.arguments._registry import SPECS
from zoo_core.registry import registry

__all__ = ["argument_flags", "model_names"]


def argument_flags() -> dict[str, str]:
    """Return every argument's flag and what it means."""
    return {f"--{name}": spec.help for name, spec in SPECS.items()}


def model_names() -> dict[str, str]:
    """Return every installed model's name and note."""
    return {entry.name: entry.note for _, entry in registry().models}
