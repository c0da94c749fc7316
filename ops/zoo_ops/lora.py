"""Low-rank adapters (Hu et al. 2021, LoRA, arXiv 2106.09685) of Linear layers, on one card and in parallel regions.

An adapted layer gives x W + b + scale (dropout(x) A) B. The adapter takes no collective of its own, because each layer
adds it where the layer's own sum is still to be taken:

- A column-parallel layer holds A whole and columns of B. Its gradient with respect to x is one term of the sum that
  `parallel.enter` takes anyway, so the gradient of A is one term too; the engine sums those once a step.
- A row-parallel layer holds rows of A and B whole. What it gives is one term of the sum that `parallel.leave` takes,
  and so is the gradient of B.

That also makes an adapter right where the region is entered and left by the caller: `project`, and experts.

Shape legend: B batch, S sequence, I/O in and out features, i/o this rank's part, R rank of the adapter.
"""

from __future__ import annotations

from typing import Any

import paddle
from paddle import Tensor, nn

from zoo_ops import parallel
from zoo_ops.dropout import Dropout, dropped
from zoo_ops.linear import ColumnLinear, RowLinear, linear

__all__ = ["LoraColumnLinear", "LoraLinear", "LoraRowLinear", "adapted", "lora_reference"]


def lora_reference(
    x: Tensor, weight_IO: Tensor, bias_O: Tensor | None, lora_A_IR: Tensor, lora_B_RO: Tensor, scale: float
) -> Tensor:
    """An adapted Linear by its definition, without dropout: its weight is W + scale A B."""
    y = paddle.matmul(x, weight_IO + scale * paddle.matmul(lora_A_IR, lora_B_RO))
    return y if bias_O is None else y + bias_O


class _Adapted(nn.Layer):  # type: ignore[misc]
    """What the adapted layers share; the parameters keep the names `weight`, `bias`, `lora_A` and `lora_B`.

    Args:
        weight: [I, O], or this rank's part.
        bias: [O], this rank's part, or `None`.
        lora_A, lora_B: of the adapter, see `set_adapter`.
        scale: what multiplies the adapter's output.
        dropout: share of the input's values that the adapter does not see in training.
        name: single-card name of the layer; masks of dropout depend on it.
    """

    def __init__(
        self, weight: Any, bias: Any, lora_A: Any, lora_B: Any, scale: float, dropout: float = 0.0, name: str = ""
    ) -> None:
        # a Column or Row layer registers `weight` and `bias`; here `weight` is a property, so they go past it
        nn.Layer.__init__(self)
        self._parameters["weight"], self._parameters["bias"] = weight, bias
        self.dropout = Dropout(dropout, inside=isinstance(self, RowLinear))
        self.dropout.name_ = f"{name}.lora_dropout"
        self.set_adapter(lora_A, lora_B, scale)

    def set_adapter(self, lora_A: Any, lora_B: Any, scale: float) -> None:
        """Replace the adapter: [I, R] and [R, O], or this rank's parts; `None` leaves the plain layer."""
        self._parameters["lora_A"], self._parameters["lora_B"] = lora_A, lora_B
        self.scale = scale

    @property
    def weight(self) -> Tensor:
        """The weight that the layer multiplies by, [I, O] or this rank's part: the adapter's share included.

        Of a row-parallel layer, and of a column-parallel one, the product of this rank's parts is this rank's part.
        """
        base = self._base_weight()
        lora_A, lora_B = self._parameters["lora_A"], self._parameters["lora_B"]
        return base if lora_A is None else paddle.add(base, self.scale * paddle.matmul(lora_A, lora_B))

    def _linear(self, x: Tensor, bias: Tensor | None) -> Tensor:
        """This layer's product with `x`, the adapter's added; a term of the sum over ranks where there is one."""
        own = self._parameters
        y = self._base(x, bias)
        if own["lora_A"] is None:
            return y
        return y + paddle.matmul(paddle.matmul(self._dropped(x), own["lora_A"]), own["lora_B"]) * self.scale

    def _base(self, x: Tensor, bias: Tensor | None) -> Tensor:
        """The product without the adapter."""
        return linear(x, self._parameters["weight"], bias)

    def _base_weight(self) -> Tensor:
        return self._parameters["weight"]

    def _dropped(self, x: Tensor) -> Tensor:
        return self.dropout(x)


class LoraLinear(_Adapted):
    """A whole Linear with an adapter: [B, S, I] -> [B, S, O]."""

    def forward(self, x: Tensor) -> Tensor:
        return self._linear(x, self._parameters["bias"])


class LoraColumnLinear(_Adapted, ColumnLinear):
    """`ColumnLinear` with an adapter: lora_A is [I, R], lora_B [R, o]."""

    def forward(self, x: Tensor, entered: bool = False) -> Tensor:
        return self._linear(x if entered else parallel.enter(x), self._parameters["bias"])

    def _dropped(self, x: Tensor) -> Tensor:
        # the input was gathered: every rank has the whole sequence
        return dropped(x, self.dropout.name_, self.dropout.p) if self.dropout.is_on() else x


class LoraRowLinear(_Adapted, RowLinear):
    """`RowLinear` with an adapter: lora_A is [i, R], lora_B [R, O]."""

    def forward(self, x_BSi: Tensor, stays: bool = False) -> Tensor:
        y = self._linear(x_BSi, None)
        if stays:
            return y
        y, bias = parallel.leave(y), self._parameters["bias"]
        return y if bias is None else paddle.add(y, bias)  # not `+`: see `prefix.attach_prefix`


def adapted(layer: Any, lora_A: Any, lora_B: Any, scale: float, dropout: float, name: str) -> _Adapted:
    """Return what stands in the place of a Linear, a `ColumnLinear` or a `RowLinear` that has an adapter.

    Of a layer of `zoo_ops.quantized`, its own form.

    Raises:
        TypeError: the layer is none of these.
    """
    if hasattr(layer, "with_adapter"):
        return layer.with_adapter(lora_A, lora_B, scale, dropout, name)  # type: ignore[no-any-return]
    kinds = ((ColumnLinear, LoraColumnLinear), (RowLinear, LoraRowLinear), (nn.Linear, LoraLinear))
    for plain, kind in kinds:
        if isinstance(layer, plain):
            return kind(layer.weight, layer.bias, lora_A, lora_B, scale, dropout, name)
    raise TypeError(f"a {type(layer).__name__} takes no adapter")
