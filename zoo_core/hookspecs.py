"""The contract between the core and a plugin: five hooks, one sentence each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pluggy

from zoo_core.capabilities import Capabilities
from zoo_core.config import ModelConfig
from zoo_core.layout import Rule
from zoo_core.pipeline import PipeLayer

if TYPE_CHECKING:
    from zoo_core.tokenizers import Tokenizer

__all__ = ["CONTRACT_CHANGES", "CONTRACT_VERSION", "hookimpl", "hookspec"]

CONTRACT_VERSION = 1
"""The version that this core speaks; a plugin says its own, `contract_version = 1`, beside its hooks."""

CONTRACT_CHANGES: Mapping[int, Sequence[str]] = {1: ()}
"""Version -> what the author of a plugin for the one before has to change, each in a line; nothing where such a plugin
keeps working. A plugin that says no version was written for the first."""

hookspec = pluggy.HookspecMarker("zoo")
hookimpl = pluggy.HookimplMarker("zoo")


@hookspec(firstresult=True)
def capabilities() -> Capabilities:  # type: ignore[empty-body]
    """Say what the family is called, which named models and sizes it has, and what it supports."""


@hookspec(firstresult=True)
def build_model(config: ModelConfig) -> Any:
    """Build the single-card causal language model, an `nn.Layer` with `forward(batch, cache=None) -> Output`."""


@hookspec(firstresult=True)
def tp_mappings(config: ModelConfig) -> Sequence[Rule]:  # type: ignore[empty-body]
    """Return the parameter table: for every single-card name, its shape, its split and its Hugging Face name."""


@hookspec(firstresult=True)
def pipe_layers(config: ModelConfig) -> Sequence[PipeLayer]:  # type: ignore[empty-body]
    """Return the layers of the model in order, each with its single-card prefix, for cutting into stages."""


@hookspec(firstresult=True)
def tokenizer(config: ModelConfig, path: Path | None) -> Tokenizer:  # type: ignore[empty-body]
    """Return the family's tokenizer from the files in `path`."""
