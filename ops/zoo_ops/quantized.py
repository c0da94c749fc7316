"""Linear layers whose weight is held as integers, on one card and in parallel regions, with adapters and without.

The engine puts them in the place of a Linear, following the rows of the table. Nothing of the weight is trained; the
gradient passes through to the input, and to an adapter.

Shape legend: B batch, S sequence, I/O in and out features, i/o this rank's part.
"""

from __future__ import annotations

from typing import Any

import paddle
from paddle import Tensor, nn

from zoo_ops import parallel
from zoo_ops.dequantise import Integers, Tensors, integer_product, weight_product, whole_weight
from zoo_ops.linear import ColumnLinear, RowLinear
from zoo_ops.lora import LoraColumnLinear, LoraLinear, LoraRowLinear

__all__ = ["QuantColumnLinear", "QuantLinear", "QuantRowLinear", "kernel_product"]

_KERNEL_ROWS = 64
"""Input features that are added to put the largest integer in every column; kernels want multiples of it."""


def kernel_product(x: Tensor, prepared: tuple[Tensor, Tensor], bias: Tensor | None, bits: int) -> Tensor:
    """The product by Paddle's GPU kernel, which multiplies by integers as they are: [..., I] -> [..., O].

    Args:
        prepared: what `_prepared` made of the weight.
    """
    from paddle.nn.quant import weight_only_linear

    weight, scale_O = prepared
    filled = paddle.concat([x, paddle.zeros([*x.shape[:-1], _KERNEL_ROWS], x.dtype)], axis=-1)
    return weight_only_linear(filled, weight, bias, scale_O.astype(x.dtype), f"int{bits}")


def _prepared(tensors: Tensors, form: Integers, dtype: Any) -> tuple[Tensor, Tensor]:
    """The integers in the order that the kernel wants, and the scales.

    `weight_quantize` is the one way to that order, and it rounds: to keep the integers as they are, they are given with
    rows that have the largest integer in every column, so that its own scales are 1.
    """
    from paddle.nn.quant import weight_quantize

    ones = {"quant_weight": tensors["quant_weight"], "quant_scale": paddle.ones_like(tensors["quant_scale"])}
    integers_IO = whole_weight(ones, form).astype(dtype)
    largest = paddle.full([_KERNEL_ROWS, integers_IO.shape[1]], (1 << form.bits - 1) - 1, dtype)
    weight, _ = weight_quantize(paddle.concat([integers_IO, largest]), algo=f"weight_only_int{form.bits}")
    return weight, tensors["quant_scale"][0]


def _has_kernel(x: Tensor, tensors: Tensors, form: Integers) -> bool:
    """Whether the GPU kernel does this layer: half precision, 4 or 8 bits, one scale an output feature."""
    plain = set(tensors) == {"quant_weight", "quant_scale"} and form.bits in (4, 8) and not form.activations
    half = x.dtype in (paddle.float16, paddle.bfloat16)
    return plain and half and form.group < 0 and form.features % _KERNEL_ROWS == 0 and x.place.is_gpu_place()


class _Quantised(nn.Layer):  # type: ignore[misc]
    """What the layers share; the tensors are buffers named `quant_weight`, `quant_scale` ... as in the table.

    Args:
        tensors: by these names, see `zoo_ops.dequantise`; this rank's parts.
        form: how the integers are laid out.
        bias: [O], this rank's part, or `None`.
    """

    def __init__(self, tensors: Tensors, form: Integers, bias: Any) -> None:
        nn.Layer.__init__(self)
        self._hold(tensors, form)
        self._parameters["bias"] = bias

    def _hold(self, tensors: Tensors, form: Integers) -> None:
        self.form = form
        self._prepared: tuple[Tensor, Tensor] | None = None
        self._names = tuple(tensors)
        for name, tensor in tensors.items():
            self.register_buffer(name, tensor)

    @property
    def tensors(self) -> dict[str, Tensor]:
        """The integers, the scales and what else there is, by name; as attributes, which tracing knows."""
        return {name: getattr(self, name) for name in self._names}

    @property
    def weight(self) -> Tensor:
        """The weight that the integers stand for, [I, O] or this rank's part, made anew at each reading."""
        return whole_weight(self.tensors, self.form)

    def _linear(self, x: Tensor, bias: Tensor | None) -> Tensor:
        """This layer's product with `x`; a term of the sum over ranks where there is one."""
        tensors, form = self.tensors, self.form
        if form.activations:
            y = integer_product(x, tensors, form, self._largest())
        elif _has_kernel(x, tensors, form):
            self._prepared = self._prepared or _prepared(tensors, form, x.dtype)
            return kernel_product(x, self._prepared, bias, form.bits)
        else:
            y = weight_product(x, tensors, form)
        return y if bias is None else y + bias

    def _largest(self) -> Any:
        """What makes a token's largest value that of all ranks; `None` where this rank has all its features."""
        split = isinstance(self, RowLinear) and parallel.tensor_axis().degree > 1
        return parallel.reduce_max if split else None


class QuantLinear(_Quantised):
    """A whole Linear: [B, S, I] -> [B, S, O]."""

    def forward(self, x: Tensor) -> Tensor:
        return self._linear(x, self._parameters["bias"])

    def with_adapter(self, *adapter: Any) -> nn.Layer:
        """The layer with an adapter; `adapter` as `zoo_ops.lora` takes it after the bias."""
        return _LoraQuantLinear(self, *adapter)


class QuantColumnLinear(_Quantised, ColumnLinear):
    """`ColumnLinear` with integers [I, o]."""

    def forward(self, x: Tensor, entered: bool = False) -> Tensor:
        return self._linear(x if entered else parallel.enter(x), self._parameters["bias"])

    def with_adapter(self, *adapter: Any) -> nn.Layer:
        """As `QuantLinear.with_adapter`."""
        return _LoraQuantColumnLinear(self, *adapter)


class QuantRowLinear(_Quantised, RowLinear):
    """`RowLinear` with integers [i, O]."""

    def forward(self, x_BSi: Tensor, stays: bool = False) -> Tensor:
        y = self._linear(x_BSi, None)
        if stays:
            return y
        y, bias = parallel.leave(y), self._parameters["bias"]
        return y if bias is None else y + bias

    def with_adapter(self, *adapter: Any) -> nn.Layer:
        """As `QuantLinear.with_adapter`."""
        return _LoraQuantRowLinear(self, *adapter)


class _OnIntegers:
    """What the layers of `zoo_ops.lora` ask of their base, answered by a quantised one; first in the order of classes.

    Args:
        layer: the base.
        adapter: as they take it after the bias.
    """

    def __init__(self, layer: _Quantised, *adapter: Any) -> None:
        super().__init__(None, layer._parameters["bias"], *adapter)  # type: ignore[call-arg]
        del self._parameters["weight"]  # type: ignore[attr-defined]
        self._hold(layer.tensors, layer.form)  # type: ignore[attr-defined]

    def _base(self, x: Tensor, bias: Tensor | None) -> Tensor:
        return _Quantised._linear(self, x, bias)  # type: ignore[arg-type]

    def _base_weight(self) -> Tensor:
        return whole_weight(self.tensors, self.form)  # type: ignore[attr-defined]


class _LoraQuantLinear(_OnIntegers, LoraLinear, _Quantised):
    pass


class _LoraQuantColumnLinear(_OnIntegers, LoraColumnLinear, _Quantised):
    pass


class _LoraQuantRowLinear(_OnIntegers, LoraRowLinear, _Quantised):
    pass
