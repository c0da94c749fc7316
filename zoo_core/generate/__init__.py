"""Decoding: the next token, the loop with a cache for one prompt or many, and text as it comes."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from zoo_core.generate.batched import BatchLogits, Row, Rules, decode_batch, decode_steps
    from zoo_core.generate.choice import Sampling, choose, probabilities
    from zoo_core.generate.decoding import Logits, decode
    from zoo_core.generate.model import TextModel, load_model
    from zoo_core.generate.stream import TextStream

__all__ = [
    "BatchLogits",
    "Logits",
    "Row",
    "Rules",
    "Sampling",
    "TextModel",
    "TextStream",
    "choose",
    "decode",
    "decode_batch",
    "decode_steps",
    "load_model",
    "probabilities",
]

_HOMES = {
    "zoo_core.generate.batched": ("BatchLogits", "Row", "Rules", "decode_batch", "decode_steps"),
    "zoo_core.generate.choice": ("Sampling", "choose", "probabilities"),
    "zoo_core.generate.decoding": ("Logits", "decode"),
    "zoo_core.generate.model": ("TextModel", "load_model"),
    "zoo_core.generate.stream": ("TextStream",),
}


def __getattr__(name: str) -> Any:
    """Import what is asked for; only `model` needs paddle."""
    for module, names in _HOMES.items():
        if name in names:
            value = globals()[name] = getattr(import_module(module), name)
            return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
