"""Products with quantised weights, a block of input features at a time: no whole weight is ever made of numbers.

An integer q stands for (q - zero) * scale. Integers of 3 and 4 bits are packed along the input features: 4 bits two to
a byte, the even feature low; 3 bits eight to three bytes, little-endian, the first feature lowest; both store
q + 2^(bits - 1).

Integer activations (Xiao et al. 2022, SmoothQuant, arXiv 2211.10438): x is divided by `smooth`, rounded to integers of
8 bits by a scale of each token or of the layer, and the products of integers are summed exactly. float32 sums integers
exactly below 2^24, and a product is at most 127 * 128, so 1024 input features at a time are multiplied in float32 and
the sums of these added as int32.

Shape legend: T tokens (all dims but the last, one or more), I/O in and out features, n in features of a block,
G groups, P packed bytes of the in features.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import paddle
from paddle import Tensor
from paddle.autograd import PyLayer

from zoo_ops.cpu.integers import dense_block_cpu
from zoo_ops.kernels import cpu_path

__all__ = ["Integers", "integer_product", "quantised_reference", "weight_product", "whole_weight"]

_BLOCK_VALUES = 1 << 20
"""Values of a weight that are numbers at one time, about: 4 MB of float32."""
_EXACT_FEATURES = 1024
_PACKED = {8: (1, 1), 4: (2, 1), 3: (8, 3)}
"""By bits: in features of a packed block, and its bytes."""
_LEAST_SCALE = 1e-8
"""Of activations: a token of zeros has integers of 0."""


@dataclass(frozen=True)
class Integers:
    """How a layer's integers are laid out.

    Args:
        features: input features that this rank holds.
        bits: of an integer: 3, 4 or 8.
        group: input features that share a scale; -1 is all.
        activations: the input is made integers too.
    """

    features: int
    bits: int = 8
    group: int = -1
    activations: bool = False

    def blocks(self, width: int) -> Iterator[tuple[int, int]]:
        """Runs [start, stop) of input features of about `_BLOCK_VALUES` values, cut between packed blocks."""
        step = max(1, _BLOCK_VALUES // width)
        if self.activations:
            step = min(step, _EXACT_FEATURES)
        unit = _PACKED[self.bits][0]
        if self.group > 0 and step >= self.group:
            unit = math.lcm(unit, self.group)
        step = max(unit, step // unit * unit)
        for start in range(0, self.features, step):
            yield start, min(start + step, self.features)


Tensors = Mapping[str, Tensor]
"""`quant_weight` [P, O], `quant_scale` [G, O], and perhaps `quant_zero` [G, O], `g_idx` [I], `smooth` [I], `act_scale`
[1]."""


def _traced_block(packed: Tensor, tensors: Tensors, form: Integers, start: int, stop: int) -> Tensor:
    """`dense_block` in paddle's operations, for other devices and for tracing."""
    if form.bits == 8:
        values = packed.astype("float32")
    else:
        width, bytes_ = packed.shape[1], _PACKED[form.bits][1]
        wide = packed.astype("int32")
        number = wide if bytes_ == 1 else wide[0::3] + wide[1::3] * 256 + wide[2::3] * 65536
        step = 1 << form.bits
        parts = [(number // step**place) % step for place in range(_PACKED[form.bits][0])]
        values = paddle.stack(parts, 1).reshape([-1, width])[: stop - start].astype("float32") - step // 2
    scale, zero = tensors["quant_scale"], tensors.get("quant_zero")
    if scale.shape[0] > 1:
        of_n = tensors["g_idx"][start:stop] if "g_idx" in tensors else paddle.arange(start, stop) // form.group
        scale = paddle.gather(scale, of_n)
        zero = None if zero is None else paddle.gather(zero, of_n)
    return (values if zero is None else values - zero.astype("float32")) * scale


def _dense_block(tensors: Tensors, form: Integers, start: int, stop: int) -> Tensor:
    """The numbers of input features [start, stop), float32 [n, O]."""
    unit, bytes_ = _PACKED[form.bits]
    packed = _cut(tensors["quant_weight"], start // unit * bytes_, -(-stop // unit) * bytes_)
    scale, zero, order = tensors["quant_scale"], tensors.get("quant_zero"), tensors.get("g_idx")
    if not cpu_path(scale):
        return _traced_block(packed, tensors, form, start, stop)
    order = None if order is None else order[start:stop]
    return _cut(dense_block_cpu(packed, scale, zero, order, form.bits, form.group, start), 0, stop - start)


def _cut(tensor: Tensor, start: int, stop: int, dim: int = 0) -> Tensor:
    """Elements [start, stop) of the first dim, or of the last (-1); all of them are the tensor itself, not a copy."""
    if start == 0 and stop == tensor.shape[dim]:
        return tensor
    return tensor[start:stop] if dim == 0 else tensor[..., start:stop]


def whole_weight(tensors: Tensors, form: Integers) -> Tensor:
    """The weight [I, O] that the layer stands for, float32: for model code that reads a weight."""
    dense = paddle.concat([_dense_block(tensors, form, *run) for run in form.blocks(_width(tensors))])
    return dense / tensors["smooth"].unsqueeze(-1) if "smooth" in tensors else dense


def _width(tensors: Tensors) -> int:
    return int(tensors["quant_weight"].shape[1])


def _product(x_TI: Tensor, tensors: Tensors, form: Integers) -> Tensor:
    y_TO = None
    for start, stop in form.blocks(_width(tensors)):
        part = paddle.matmul(_cut(x_TI, start, stop, -1), _dense_block(tensors, form, start, stop).astype(x_TI.dtype))
        y_TO = part if y_TO is None else y_TO + part
    assert y_TO is not None
    return y_TO


def _input_gradient(grad_TO: Tensor, tensors: Tensors, form: Integers) -> Tensor:
    parts = []
    for run in form.blocks(_width(tensors)):
        parts.append(paddle.matmul(grad_TO, _dense_block(tensors, form, *run).astype(grad_TO.dtype), transpose_y=True))
    return parts[0] if len(parts) == 1 else paddle.concat(parts, axis=-1)


class _WeightProduct(PyLayer):  # type: ignore[misc]
    @staticmethod
    def forward(ctx: Any, x_TI: Tensor, tensors: Tensors, form: Integers) -> Tensor:
        ctx.tensors, ctx.form = tensors, form
        return _product(x_TI, tensors, form)

    @staticmethod
    def backward(ctx: Any, grad_TO: Tensor) -> Tensor:
        return _input_gradient(grad_TO, ctx.tensors, ctx.form)


def weight_product(x: Tensor, tensors: Tensors, form: Integers) -> Tensor:
    """x times the weight, [..., O]; the gradient goes to x, there is none of the weight.

    Args:
        x: [..., I].
    """
    return _applied(_WeightProduct, _product, x, tensors, form)


def _applied(layer: Any, plain: Callable[..., Tensor], x_TI: Tensor, *more: Any) -> Tensor:
    """With its own gradient where gradients are taken; in a traced graph the plain operations."""
    return layer.apply(x_TI, *more) if paddle.in_dynamic_mode() else plain(x_TI, *more)


def _rounded(x_TI: Tensor, tensors: Tensors, largest: Callable[[Tensor], None] | None) -> tuple[Tensor, Tensor]:
    """The integers of the activations as float32 [T, I], and what one of them stands for, [T, 1] or [1]."""
    if "smooth" in tensors:
        x_TI = x_TI / tensors["smooth"]
    if "act_scale" in tensors:
        step = tensors["act_scale"]
    else:
        most_T1 = x_TI.abs().max(axis=-1, keepdim=True)
        if largest is not None:
            largest(most_T1)
        step = (most_T1 / 127).clip(min=_LEAST_SCALE)
    return (x_TI / step).round().clip(-127, 127), step


def _integer_sums(q_TI: Tensor, tensors: Tensors, form: Integers) -> Tensor:
    """The exact sums of products of integers, int32 [T, O]."""
    sums_TO = None
    for start, stop in form.blocks(_width(tensors)):
        block = _cut(tensors["quant_weight"], start, stop).astype("float32")
        part = paddle.matmul(_cut(q_TI, start, stop, -1), block).astype("int32")
        sums_TO = part if sums_TO is None else sums_TO + part
    assert sums_TO is not None
    return sums_TO


def _integer_forward(
    x_TI: Tensor, tensors: Tensors, form: Integers, largest: Callable[[Tensor], None] | None
) -> Tensor:
    q_TI, step = _rounded(x_TI.astype("float32"), tensors, largest)
    sums_TO = _integer_sums(q_TI, tensors, form).astype("float32")
    return (sums_TO * step * tensors["quant_scale"]).astype(x_TI.dtype)


class _IntegerProduct(PyLayer):  # type: ignore[misc]
    @staticmethod
    def forward(
        ctx: Any, x_TI: Tensor, tensors: Tensors, form: Integers, largest: Callable[[Tensor], None] | None
    ) -> Tensor:
        ctx.tensors, ctx.form = tensors, form
        return _integer_forward(x_TI, tensors, form, largest)

    @staticmethod
    def backward(ctx: Any, grad_TO: Tensor) -> Tensor:
        grad_TI = _input_gradient(grad_TO, ctx.tensors, ctx.form)
        return grad_TI / ctx.tensors["smooth"].astype(grad_TI.dtype) if "smooth" in ctx.tensors else grad_TI


def integer_product(
    x: Tensor, tensors: Tensors, form: Integers, largest: Callable[[Tensor], None] | None = None
) -> Tensor:
    """x, made integers of 8 bits, times the integers of the weight, [..., O].

    The gradient goes straight through the rounding (Bengio et al. 2013, arXiv 1308.3432): x gets what it would get of
    the product with the weight.

    Args:
        x: [..., I]; where other ranks hold the rest of a token's features, `largest` makes the largest value [T, 1] of
            each token the largest over all of them.
    """
    return _applied(_IntegerProduct, _integer_forward, x, tensors, form, largest)


def quantised_reference(x: Tensor, tensors: Tensors, form: Integers) -> Tensor:
    """The products by their definition: of the whole weight, integers summed in float64."""
    unit, bytes_ = _PACKED[form.bits]
    rows = [row.tolist() for row in tensors["quant_weight"]]
    weight = []
    for feature in range(form.features):
        block = rows[feature // unit * bytes_ : (feature // unit + 1) * bytes_]
        group = int(tensors["g_idx"][feature]) if "g_idx" in tensors else feature // max(form.group, 1)
        group = group if form.group > 0 else 0
        scale = tensors["quant_scale"][group]
        zero = tensors["quant_zero"][group].astype("float32") if "quant_zero" in tensors else 0.0
        values = []
        for column in range(len(block[0])):
            value = sum(byte[column] << 8 * place for place, byte in enumerate(block))
            if form.bits != 8:
                value = (value >> form.bits * (feature % unit)) % (1 << form.bits) - (1 << form.bits - 1)
            values.append(value)
        numbers = paddle.to_tensor(values, dtype="float32")
        weight.append(numbers if form.activations else (numbers - zero) * scale)
    weight_IO = paddle.stack(weight)
    if not form.activations:
        return paddle.matmul(x, weight_IO)
    q, step = _rounded(x.reshape([-1, form.features]), tensors, None)
    sums = paddle.matmul(q.astype("float64"), weight_IO.astype("float64"))
    y = sums * step.astype("float64") * tensors["quant_scale"].astype("float64")
    return y.astype(x.dtype).reshape([*x.shape[:-1], -1])
