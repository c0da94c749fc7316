"""Which model the arguments mean, and its configuration with every change asked for."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from zoo_core.arguments import Arguments
from zoo_core.config import ModelConfig
from zoo_core.errors import ConfigError, nearest
from zoo_core.registry import Found, Registry, registry

__all__ = ["chosen_model", "configured"]


def configured(found: Found, scale: str | None = None, overrides: Mapping[str, Any] | None = None) -> ModelConfig:
    """Return the model's configuration: published, then shrunk by `scale`, then with `overrides`.

    Raises:
        ConfigError: the family has no such scale or setting.
    """
    config = found.config
    if scale:
        scales = found.architecture.capabilities.scales
        if scale not in scales:
            near = nearest(scale, scales)
            raise ConfigError(
                f"{found.architecture.family} has no scale {scale!r}",
                "it has " + (", ".join(scales) or "none"),
                f"did you mean {near!r}?" if near else "leave --scale out",
            )
        config = config.replace(**scales[scale])
    changes = {name: value for name, value in (overrides or {}).items() if value is not None}
    unit = changes.pop("vocab_size_divisible_unit", 0) if not hasattr(config, "vocab_size_divisible_unit") else 0
    config = config.replace(**changes)
    if unit:
        config = config.replace(vocab_size=-(-config.vocab_size // unit) * unit)
    return config


def chosen_model(arguments: Arguments, plugins: Registry | None = None) -> tuple[Found, ModelConfig]:
    """Return what `--model` means and the configuration that the run has.

    Raises:
        UnknownModelError: nothing has that name.
        ConfigError: no model was given, or a setting does not exist.
    """
    model = arguments.model
    if not model.model_name_or_path:
        raise ConfigError("no model", "a run needs one", "--model NAME; `zoo models` lists them")
    found = (plugins or registry()).find(model.model_name_or_path)
    fields = {field.name for field in dataclasses.fields(found.config)}
    fused: dict[str, Any] = {
        name: getattr(model, name)
        for name in ("fuse_attention_qkv", "fuse_attention_ffn")
        if name in fields and getattr(model, name) is not None
    }
    return found, configured(found, model.scale, {**fused, **arguments.overrides})
