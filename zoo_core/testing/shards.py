"""T1: what the ranks of a tensor axis give adds up to what one card gives, rank after rank in one process.

Shape legend: B batch, S sequence, H hidden.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import numpy as np
import paddle
from paddle import Tensor
from paddle.base.framework import EagerParamBase

from zoo_core.config import ModelConfig
from zoo_core.layout import is_norm, split
from zoo_core.registry import Architecture
from zoo_core.testing.models import random_weights
from zoo_ops import Batch, parallel

__all__ = ["check_parts"]


def _attend(layer: Any, x_BSH: Tensor) -> Tensor:
    return cast(Tensor, layer(x_BSH, Batch(paddle.zeros(x_BSH.shape[:2], "int64"))))


def check_parts(
    arch: Architecture,
    config: ModelConfig,
    sublayer: str,
    degree: int,
    run: Callable[[Any, Tensor], Tensor] = _attend,
) -> None:
    """A sublayer that ends in a `Row` layer gives a part of the output on each of `degree` ranks: 1e-5 + 1e-5 |whole|.

    Args:
        sublayer: its name in the single-card model (`llama.layers.0.self_attn`).
        run: calls it with x float32 [2, 9, H], always with the same other inputs; by default as attention is called.
    """
    prefix = f"{sublayer}."
    table = {name.removeprefix(prefix): rule for name, rule in arch.table(config).items() if name.startswith(prefix)}
    assert table, f"the table has nothing under {prefix}"
    # Three times the usual, so that attention is not even.
    weights = {name: value * (1 if is_norm(name) else 3) for name, value in random_weights(table).items()}
    x = paddle.to_tensor(np.random.default_rng(1).standard_normal([2, 9, config.hidden_size], np.float32))

    def output(of: int, rank: int) -> np.ndarray[Any, Any]:
        parallel.configure(parallel.Axis(of, rank))
        layer = _sublayer(arch, config, sublayer)
        for name, rule in table.items():
            value = split(weights[name], rule, of, rank)
            # The bias of a Row layer is added once, after the sum.
            value = value * 0 if rank and rule.dim is None and name.endswith("bias") else value
            path, _, own = name.rpartition(".")
            holder = dict(layer.named_sublayers(include_self=True))[path]
            holder._parameters[own] = EagerParamBase.from_tensor(paddle.to_tensor(value))
        layer.eval()
        with paddle.no_grad():
            return np.asarray(run(layer, x).numpy())

    try:
        whole = output(1, 0)
        total = np.sum([output(degree, rank) for rank in range(degree)], axis=0)
    finally:
        parallel.configure()
    worst = (np.abs(total - whole) - 1e-5 * np.abs(whole)).max()
    assert worst <= 1e-5, f"{sublayer} on {degree} ranks differs by {np.abs(total - whole).max():.2e}"


def _sublayer(arch: Architecture, config: ModelConfig, name: str) -> Any:
    for entry in arch.pipe_layers(config):
        if f"{name}.".startswith(f"{entry.prefix}."):
            for path, layer in entry.factory().named_sublayers():
                if entry.single(path) == name:
                    return layer
    raise AssertionError(f"the pipeline list has no {name}")
