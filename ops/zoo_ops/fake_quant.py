"""Linear layers that compute with rounded weights and inputs, while they are trained (quantisation-aware training).

Jacob et al. 2017 (arXiv 1712.05877): what is rounded in use is rounded in training, and the gradient passes the
rounding as if it were not there. Weights are rounded to a grid that spans their largest magnitude, of each output
feature or of the whole weight; inputs to one that spans a moving average of theirs.

No layer asks another rank for anything in a pass. The spans of weights are found once a step, when weights have
changed; those of inputs follow from the steps before (as "delayed scaling" has it, Micikevicius et al. 2022, arXiv
2209.05433). So every layout rounds alike: the engine takes the maximum over ranks of what each layer saw in a step.

Shape legend: B batch, S sequence, I/O in and out features, i/o this rank's part.
"""

from __future__ import annotations

from typing import Any

import paddle
import paddle.nn.functional as F
from paddle import Tensor, nn

from zoo_ops import parallel
from zoo_ops.linear import ColumnLinear, RowLinear

__all__ = ["FakeQuantColumnLinear", "FakeQuantLinear", "FakeQuantRowLinear", "fake_quantise", "faked"]

_LEAST = 1e-8


def fake_quantise(x: Tensor, span: Tensor, bits: int) -> Tensor:
    """Round to the nearest of 2^bits - 1 values from -span to span; the gradient is that of the identity.

    Args:
        x: [..., O].
        span: largest magnitude, [O] or [1].
    """
    with paddle.no_grad():
        levels = float(2 ** (bits - 1) - 1)
        step = paddle.clip(span.astype("float32"), min=_LEAST) / levels
        wide = x.astype("float32")
        error = (paddle.clip(paddle.round(wide / step), -levels, levels) * step - wide).astype(x.dtype)
    return x + error


class _Faked(nn.Layer):  # type: ignore[misc]
    """What the layers share; the parameters keep the names `weight` and `bias`.

    Args:
        weight: [I, O], or this rank's part.
        bias: [O], this rank's part, or `None`.
        bits: of weights and of inputs.
        per_channel: each output feature has a span of its own; otherwise the weight has one.

    Attributes:
        span: largest magnitudes of the weight, [O] or [1]; `measure` finds this rank's.
        input_span: of the input; 0 leaves inputs as they are, until there is a step to go by.
        seen: largest magnitude of an input in training since it was last set to 0.
    """

    def __init__(self, weight: Any, bias: Any, bits: tuple[int, int], per_channel: bool) -> None:
        # a Column or Row layer registers `weight` and `bias`; here `weight` is a property, so they go past it
        nn.Layer.__init__(self)
        self._parameters["weight"], self._parameters["bias"] = weight, bias
        self.bits, self.per_channel = bits, per_channel
        self.span = self.measure()
        self.input_span = 0.0
        self.seen = paddle.zeros([1])

    def measure(self) -> Tensor:
        """The largest magnitudes of this rank's part of the weight, float32 [O] or [1]."""
        with paddle.no_grad():
            wide = self._parameters["weight"].astype("float32").abs()
            return wide.max(axis=0) if self.per_channel else wide.max().reshape([1])

    @property
    def weight(self) -> Tensor:
        """The weight that the layer multiplies by: rounded."""
        return fake_quantise(self._parameters["weight"], self.span, self.bits[0])

    def _linear(self, x: Tensor, bias: Tensor | None) -> Tensor:
        if self.training:
            with paddle.no_grad():
                self.seen = paddle.maximum(self.seen, x.detach().astype("float32").abs().max().reshape([1]))
        if self.input_span > 0:
            x = fake_quantise(x, paddle.full([1], self.input_span), self.bits[1])
        return F.linear(x, self.weight, bias)


class FakeQuantLinear(_Faked):
    """A whole Linear: [B, S, I] -> [B, S, O]."""

    def forward(self, x: Tensor) -> Tensor:
        return self._linear(x, self._parameters["bias"])


class FakeQuantColumnLinear(_Faked, ColumnLinear):
    """`ColumnLinear`, rounded: its output features have spans of their own, or share one with the other ranks'."""

    def forward(self, x: Tensor, entered: bool = False) -> Tensor:
        return self._linear(x if entered else parallel.enter(x), self._parameters["bias"])


class FakeQuantRowLinear(_Faked, RowLinear):
    """`RowLinear`, rounded: its spans go over the input features of all ranks."""

    def forward(self, x_BSi: Tensor, stays: bool = False) -> Tensor:
        y = self._linear(x_BSi, None)
        if stays:
            return y
        y, bias = parallel.leave(y), self._parameters["bias"]
        return y if bias is None else y + bias


def faked(layer: Any, bits: tuple[int, int], per_channel: bool) -> _Faked:
    """Return what stands in the place of a Linear, a `ColumnLinear` or a `RowLinear` in quantisation-aware training.

    Raises:
        TypeError: the layer is none of these.
    """
    kinds = ((ColumnLinear, FakeQuantColumnLinear), (RowLinear, FakeQuantRowLinear), (nn.Linear, FakeQuantLinear))
    for plain, kind in kinds:
        if isinstance(layer, plain):
            return kind(layer.weight, layer.bias, bits, per_channel)
    raise TypeError(f"a {type(layer).__name__} is not rounded")
