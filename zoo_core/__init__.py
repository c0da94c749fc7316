"""zoo: large language models on PaddlePaddle, each architecture a plugin, each parallel plan one command.

Everything here is imported when it is first used, so that `import zoo_core` costs nothing and never imports paddle.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from zoo_core._lazy import importer

if TYPE_CHECKING:
    from zoo_core.arguments import Arguments, load_arguments
    from zoo_core.capabilities import Capabilities, Exclusion, ModelEntry, Support
    from zoo_core.config import ModelConfig
    from zoo_core.data import open_corpus
    from zoo_core.engine.pretrained import from_pretrained
    from zoo_core.errors import ZooError
    from zoo_core.hookspecs import CONTRACT_VERSION, hookimpl
    from zoo_core.layout import Column, FusedColumn, Init, Part, Replicate, Row, Rule, Vocab
    from zoo_core.pipeline import PipeLayer
    from zoo_core.plan import Plan, Request, compose
    from zoo_core.registry import Architecture, Found, Registry, find
    from zoo_core.tokenizers import Tokenizer, load_tokenizer

__all__ = [
    "CONTRACT_VERSION",
    "Architecture",
    "Arguments",
    "Capabilities",
    "Column",
    "Exclusion",
    "Found",
    "FusedColumn",
    "Init",
    "ModelConfig",
    "ModelEntry",
    "Part",
    "PipeLayer",
    "Plan",
    "Registry",
    "Replicate",
    "Request",
    "Row",
    "Rule",
    "Support",
    "Tokenizer",
    "Vocab",
    "ZooError",
    "compose",
    "find",
    "from_pretrained",
    "hookimpl",
    "load_arguments",
    "load_tokenizer",
    "open_corpus",
]

_HOMES = {
    "zoo_core.arguments": ("Arguments", "load_arguments"),
    "zoo_core.capabilities": ("Capabilities", "Exclusion", "ModelEntry", "Support"),
    "zoo_core.config": ("ModelConfig",),
    "zoo_core.data": ("open_corpus",),
    "zoo_core.engine.pretrained": ("from_pretrained",),
    "zoo_core.errors": ("ZooError",),
    "zoo_core.hookspecs": ("CONTRACT_VERSION", "hookimpl"),
    "zoo_core.layout": ("Column", "FusedColumn", "Init", "Part", "Replicate", "Row", "Rule", "Vocab"),
    "zoo_core.pipeline": ("PipeLayer",),
    "zoo_core.plan": ("Plan", "Request", "compose"),
    "zoo_core.registry": ("Architecture", "Found", "Registry", "find"),
    "zoo_core.tokenizers": ("Tokenizer", "load_tokenizer"),
}

__getattr__ = importer(__name__, _HOMES)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
