"""Feed-forward blocks: plain, gated (SwiGLU, arXiv 2002.05202), and gated with one fused projection.

Shape legend: B batch, S sequence, H hidden, F width of the block.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import paddle
import paddle.nn.functional as F

from zoo_ops.cpu.rows import gated_row
from zoo_ops.kernels import on_gpu

if TYPE_CHECKING:
    from paddle import Tensor
    from paddle.nn import Layer

__all__ = ["activate", "fused_gated_mlp", "gated", "gated_mlp", "gated_reference", "mlp"]


def _gelu_tanh(x: Tensor) -> Tensor:
    """The tanh form of GELU (Hendrycks and Gimpel 2016).

    A traced one is spelt out: paddle2onnx 2.1 writes the other form for Paddle's operation.
    """
    if paddle.in_dynamic_mode():
        return F.gelu(x, approximate=True)
    return 0.5 * x * (1.0 + paddle.tanh(math.sqrt(2.0 / math.pi) * (x + 0.044715 * x * x * x)))


# swish and silu are one function, but the gradient of paddle's `F.silu` on CPU is NaN below -88.
_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "silu": F.swish,
    "swish": F.swish,
    "relu": F.relu,
    "gelu": F.gelu,
    "gelu_tanh": _gelu_tanh,
    "gelu_new": _gelu_tanh,
    "gelu_pytorch_tanh": _gelu_tanh,
}


def activate(x: Tensor, activation: str) -> Tensor:
    """Apply an activation by its name, Hugging Face's spellings included.

    Raises:
        ValueError: the name is not known.
    """
    if activation not in _ACTIVATIONS:
        raise ValueError(f"activation {activation!r} is not known; known are " + ", ".join(_ACTIVATIONS))
    return _ACTIVATIONS[activation](x)


def gated_reference(gate: Tensor, up: Tensor, activation: str = "silu") -> Tensor:
    """`gated` by its definition."""
    return activate(gate, activation) * up


def gated(gate: Tensor, up: Tensor, activation: str = "silu") -> Tensor:
    """Return `activation(gate) * up`."""
    # On CPU the two plain kernels are faster than the fused one.
    if activation in ("silu", "swish") and on_gpu(gate):
        return F.swiglu(gate, up)
    return gated_reference(gate, up, activation)


def gated_mlp(x_BSH: Tensor, gate: Layer, up: Layer, down: Layer, activation: str = "silu") -> Tensor:
    """Return `down(activation(gate(x)) * up(x))`; gate and up share one gather of the input."""
    from zoo_ops.linear import project, whole_projections

    row = whole_projections(x_BSH, gate, up, down) if activation in ("silu", "swish") else None
    if row is not None:
        return gated_row(x_BSH, *row)
    gate_BSF, up_BSF = project(x_BSH, gate, up)
    return down(gated(gate_BSF, up_BSF, activation))


def fused_gated_mlp(x_BSH: Tensor, gate_up: Layer, down: Layer, activation: str = "silu") -> Tensor:
    """As `gated_mlp` with one projection whose output is the gate's columns, then as many of up's."""
    gate_BSF, up_BSF = paddle.chunk(gate_up(x_BSH), 2, axis=-1)
    return down(gated(gate_BSF, up_BSF, activation))


def mlp(x_BSH: Tensor, up: Layer, down: Layer, activation: str = "gelu") -> Tensor:
    """Return `down(activation(up(x)))`; activation is silu, relu, gelu or gelu_tanh."""
    return down(activate(up(x_BSH), activation))
