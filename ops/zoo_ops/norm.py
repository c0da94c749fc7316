"""RMSNorm (arXiv 1910.07467) and LayerNorm.

Shape legend: H hidden.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import paddle
import paddle.nn.functional as F
from paddle import nn

from zoo_ops.cpu.elementwise import rms_norm_cpu
from zoo_ops.cpu.rows import MOST, is_one_token, rms_norm_rows
from zoo_ops.kernels import cpu_path, kernels, on_gpu, say_once

if TYPE_CHECKING:
    from paddle import Tensor

__all__ = ["LayerNorm", "RMSNorm", "rms_norm", "rms_norm_reference"]


def rms_norm_reference(x: Tensor, weight_H: Tensor, eps: float) -> Tensor:
    """`rms_norm` by its definition."""
    wide = x if x.dtype == paddle.float64 else x.astype("float32")
    scaled = wide * paddle.rsqrt((wide * wide).mean(axis=-1, keepdim=True) + eps)
    return weight_H * scaled.astype(weight_H.dtype)


def rms_norm(x: Tensor, weight_H: Tensor, eps: float) -> Tensor:
    """Return `weight * x / sqrt(mean(x ** 2) + eps)` over the last dim; the statistics are float32 or wider."""
    if kernels().fused_rms_norm:
        if on_gpu(x):
            return F.rms_norm(x, weight_H.shape, weight_H, eps)
        say_once("use_fused_rms_norm", "this device has no kernel for it")
    if is_one_token(x, weight_H):
        return rms_norm_rows(x, weight_H, eps)
    if math.prod(x.shape) >= MOST and cpu_path(x, weight_H):
        return rms_norm_cpu(x, weight_H, eps)
    return rms_norm_reference(x, weight_H, eps)


class LayerNorm(nn.LayerNorm):
    """`paddle.nn.LayerNorm` whose input has its gradient also where the weight is not trained.

    The gradient that Paddle 3.3.1 gives the input on CPU is another one when the weight wants none.
    """

    def forward(self, x: Tensor) -> Tensor:
        weight, bias = self.weight, self.bias
        frozen = weight is not None and weight.stop_gradient and not x.stop_gradient
        if frozen and not paddle.in_dynamic_mode():
            y = F.layer_norm(x, self._normalized_shape, epsilon=self._epsilon) * weight
            return y if bias is None else y + bias
        if frozen and x.place.is_cpu_place():
            weight = weight.detach()
            weight.stop_gradient = False
        return F.layer_norm(x, self._normalized_shape, weight, bias, self._epsilon)


class RMSNorm(nn.Layer):
    """RMSNorm with a weight of [H], ones at first.

    Args:
        hidden_size: H, the last dim of the input.
        eps: added to the mean square.
    """

    def __init__(self, hidden_size: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.eps = eps
        self.weight = self.create_parameter([hidden_size], default_initializer=nn.initializer.Constant(1.0))

    def forward(self, x: Tensor) -> Tensor:
        return rms_norm(x, self.weight, self.eps)
