"""Low-rank adapters and prefixes: what they are, where they go, and their files. No paddle."""

from __future__ import annotations

from zoo_core.peft.prefix import PrefixSpec, prefix_from_arguments, prefix_rows, with_prefix
from zoo_core.peft.spec import Adapter, LoraSpec, is_adapter, module_of, spec_from_arguments
from zoo_core.peft.targets import adapter_rows, chosen, with_adapters
from zoo_core.tables import linear_layers

__all__ = [
    "Adapter",
    "LoraSpec",
    "PrefixSpec",
    "adapter_rows",
    "chosen",
    "is_adapter",
    "linear_layers",
    "module_of",
    "prefix_from_arguments",
    "prefix_rows",
    "spec_from_arguments",
    "with_adapters",
    "with_prefix",
]
