"""The layers with integers for a weight, in the place of Linear layers whose rows of the table say so."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import paddle
from paddle import nn

from zoo_core.errors import LayoutError
from zoo_core.layout import Column, FusedColumn, Row, Rule, local_shape
from zoo_core.quantization import QuantSpec
from zoo_core.quantized import ROWS
from zoo_ops.dequantise import Integers
from zoo_ops.quantized import QuantColumnLinear, QuantLinear, QuantRowLinear

__all__ = ["integer_rows", "quantised", "say_how"]

_log = logging.getLogger("zoo")


def integer_rows(table: Mapping[str, Rule], module: str) -> dict[str, Rule]:
    """The rows of a quantised weight, by the last word of their names."""
    return {own: table[f"{module}.{own}"] for own in ROWS if f"{module}.{own}" in table}


def quantised(
    module: nn.Layer, rules: Mapping[str, Rule], made: Mapping[str, Any], spec: QuantSpec, degree: int
) -> nn.Layer:
    """Return what stands in the place of a Linear whose weight is held as integers.

    Args:
        rules: the rows of its parameters, by the last word of their names.
        made: this rank's tensors, likewise.
        degree: of the tensor axis.

    Raises:
        LayoutError: it is no Linear.
    """
    weight = rules["quant_weight"].weight
    if not isinstance(module, nn.Linear) or weight is None:
        raise LayoutError(
            f"{rules['quant_weight'].name} cannot be integers",
            f"it belongs to a {type(module).__name__}",
            "leave the layer out of the quantised ones (modules_to_not_convert)",
        )
    form = Integers(local_shape(weight, degree)[0], spec.bits, spec.group_size, spec.method == "w8a8")
    kind = QuantLinear
    if degree > 1 and weight.dim is not None:
        kind = {Column: QuantColumnLinear, FusedColumn: QuantColumnLinear, Row: QuantRowLinear}[type(weight)]
    return kind({own: made[own] for own in ROWS if own in made}, form, made.get("bias"))


def say_how(spec: QuantSpec, layers: int) -> None:
    """Say, once a model, how its integers are multiplied."""
    how = "activations are rounded too, products summed exactly" if spec.method == "w8a8" else "multiplied as numbers"
    why = "the CPU has no kernel for integers"
    if not paddle.get_device().startswith("cpu"):
        why = "but by Paddle's kernel where it does the layer (half precision, a scale for each output feature)"
    _log.info("integers   %d layers (%s): %s, a block of a weight at a time; %s", layers, spec.describe(), how, why)
