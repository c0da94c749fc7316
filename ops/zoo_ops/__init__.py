"""Building blocks for model code on PaddlePaddle.

`import zoo_ops` is cheap: each name is loaded, and paddle with it, when it is first used. What a plugin's
configuration needs (`RopeScaling`) and what the engine asks without a device (`Kernels`, `initial`) never load paddle.
No submodule has the name of an exported object: importing it would put the module in the object's place.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

_HOME = {
    "Batch": "batch",
    "Output": "batch",
    "Cache": "cache",
    "LayerCache": "cache",
    "Dropout": "dropout",
    "dropout_context": "dropout",
    "keep_dropout_context": "dropout",
    "set_dropout_state": "dropout",
    "alibi_bias": "alibi",
    "alibi_slopes": "alibi",
    "attach_loss": "auxiliary",
    "set_loss_weight": "auxiliary",
    "Router": "experts",
    "moe": "experts",
    "head_loss": "linear",
    "Kernels": "kernels",
    "set_kernels": "kernels",
    "LMHead": "linear",
    "project": "linear",
    "read_by_heads": "linear",
    "after_prefix": "prefix",
    "attach_prefix": "prefix",
    "virtual_entries": "prefix",
    "virtual_tokens": "prefix",
    "RMSNorm": "norm",
    "LayerNorm": "norm",
    "rms_norm": "norm",
    "RopeScaling": "rope_scaling",
    "apply_rope": "rope",
    "logn_scale": "rope",
    "rope_angles": "rope",
    "attention": "core_attention",
    "attention_reference": "core_attention",
    "cross_entropy": "loss",
    "fused_gated_mlp": "feed_forward",
    "gated_mlp": "feed_forward",
    "mlp": "feed_forward",
    "initial": "init",
    "initial_slice": "init",
}

__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return [*globals(), *__all__]
