"""Building models with given weights, and running them; shared by the T1 checks.

Shape legend: B batch, S sequence, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import paddle
import paddle.nn.functional as F
from paddle import Tensor, nn

from zoo_core.config import ModelConfig
from zoo_core.layout import Rule, is_norm
from zoo_core.registry import Architecture

__all__ = [
    "Weights",
    "build",
    "gradients",
    "next_token_loss",
    "random_ids",
    "random_weights",
    "set_weights",
]

Weights = Mapping[str, np.ndarray[Any, Any]]


def random_weights(table: Mapping[str, Rule], seed: int = 0) -> Weights:
    """Weights that let no part of a model hide: norms about 1, and everything else large enough to matter."""
    random = np.random.default_rng(seed)
    found = {}
    for name, rule in table.items():
        if rule.single == rule.name:
            values = random.standard_normal(rule.shape, np.float32)
            found[name] = values * 0.1 + (1.0 if is_norm(name) and name.endswith("weight") else 0.0)
    return found


def random_ids(config: ModelConfig, batch: int, length: int, seed: int = 0) -> Tensor:
    """Token ids, int64 [B, S]."""
    return paddle.to_tensor(np.random.default_rng(seed).integers(0, config.vocab_size, [batch, length]))


def set_weights(
    layer: nn.Layer, table: Mapping[str, Rule], weights: Weights, single: Callable[[str], str] = str
) -> None:
    """Set all that `layer` saves, parameters and buffers; `single` turns its name for it into the single-card name.

    Raises:
        AssertionError: the table has no row for one of them.
    """
    for name, tensor in layer.state_dict().items():
        assert single(name) in table, f"parameter {single(name)} has no row in the table; add one, or correct its name"
        tensor.set_value(weights[table[single(name)].single])


def build(arch: Architecture, config: ModelConfig, weights: Weights) -> Any:
    """The single-card model in training mode, with these weights."""
    model = arch.build_model(config)
    set_weights(model, arch.table(config), weights)
    return model


def next_token_loss(logits_BSV: Tensor, labels_BS: Tensor) -> Tensor:
    """Mean cross entropy of position t against label t + 1; -100 is ignored. `labels_BS` are not shifted."""
    logits_NV, labels_N = logits_BSV[:, :-1].flatten(0, 1), labels_BS[:, 1:].flatten()
    # Paddle's own mean divides by all tokens when the ignored label is negative.
    total = F.cross_entropy(logits_NV, labels_N, ignore_index=-100, reduction="sum")
    return total / (labels_N != -100).sum().astype(total.dtype)


def gradients(layer: nn.Layer, single: Callable[[str], str] = str) -> dict[str, np.ndarray[Any, Any]]:
    """The gradient of every parameter, by single-card name.

    Raises:
        AssertionError: a parameter has none.
    """
    found = {}
    for name, parameter in layer.named_parameters():
        assert parameter.grad is not None, f"{single(name)} has no gradient"
        found[single(name)] = parameter.grad.numpy()
    return found
