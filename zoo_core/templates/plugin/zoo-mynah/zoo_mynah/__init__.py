"""Mynah for zoo: the five hooks."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo_core.capabilities import Capabilities
from zoo_core.config import ModelConfig
from zoo_core.hookspecs import hookimpl
from zoo_core.layout import Rule
from zoo_core.pipeline import PipeLayer

from zoo_mynah.config import CAPABILITIES, MynahConfig
from zoo_mynah.layout import rules
from zoo_mynah.pipeline import layers

# Imported here and not in the hook: the first import of a submodule sets the package's attribute of that name, which
# has to be the hook below.
from zoo_mynah.tokenizer import load

if TYPE_CHECKING:
    from zoo_core.tokenizers import Tokenizer

__all__ = ["MynahConfig", "build_model", "capabilities", "pipe_layers", "tokenizer", "tp_mappings"]

contract_version = 1


@hookimpl
def capabilities() -> Capabilities:
    return CAPABILITIES


@hookimpl
def build_model(config: ModelConfig) -> Any:
    from zoo_mynah.modeling import MynahForCausalLM

    return MynahForCausalLM(_own(config))


@hookimpl
def tp_mappings(config: ModelConfig) -> tuple[Rule, ...]:
    return rules(_own(config))


@hookimpl
def pipe_layers(config: ModelConfig) -> tuple[PipeLayer, ...]:
    return layers(_own(config))


@hookimpl
def tokenizer(config: ModelConfig, path: Path | None) -> Tokenizer:
    return load(path)


def _own(config: ModelConfig) -> MynahConfig:
    if not isinstance(config, MynahConfig):
        raise TypeError(f"MynahConfig is needed, not {type(config).__name__}")
    return config
