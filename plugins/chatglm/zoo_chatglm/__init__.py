"""ChatGLM-6B (v1, v1.1) and ChatGLM2-6B for zoo: the five hooks."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo_chatglm.config import CAPABILITIES, ChatGLMConfig
from zoo_chatglm.layout import rules
from zoo_chatglm.pipeline import layers

# Imported here and not in the hook: the first import of a submodule sets the package's attribute of that name, which
# has to be the hook below.
from zoo_chatglm.tokenizer import load
from zoo_core.capabilities import Capabilities
from zoo_core.config import ModelConfig
from zoo_core.hookspecs import hookimpl
from zoo_core.layout import Rule
from zoo_core.pipeline import PipeLayer

if TYPE_CHECKING:
    from zoo_core.tokenizers import Tokenizer

__all__ = ["ChatGLMConfig", "build_model", "capabilities", "pipe_layers", "tokenizer", "tp_mappings"]


@hookimpl
def capabilities() -> Capabilities:
    return CAPABILITIES


@hookimpl
def build_model(config: ModelConfig) -> Any:
    from zoo_chatglm.modeling import ChatGLMForCausalLM

    return ChatGLMForCausalLM(_own(config))


@hookimpl
def tp_mappings(config: ModelConfig) -> tuple[Rule, ...]:
    return rules(_own(config))


@hookimpl
def pipe_layers(config: ModelConfig) -> tuple[PipeLayer, ...]:
    return layers(_own(config))


@hookimpl
def tokenizer(config: ModelConfig, path: Path | None) -> Tokenizer:
    return load(path, _own(config))


def _own(config: ModelConfig) -> ChatGLMConfig:
    if not isinstance(config, ChatGLMConfig):
        raise TypeError(f"a ChatGLMConfig is needed, not {type(config).__name__}")
    return config
