"""Low-rank adapters: what they are, where they go, and their files. No paddle."""

from __future__ import annotations

from zoo_core.peft.spec import Adapter, LoraSpec, is_adapter, module_of, spec_from_arguments
from zoo_core.peft.targets import adapter_rows, chosen, linear_layers, with_adapters

__all__ = [
    "Adapter",
    "LoraSpec",
    "adapter_rows",
    "chosen",
    "is_adapter",
    "linear_layers",
    "module_of",
    "spec_from_arguments",
    "with_adapters",
]
