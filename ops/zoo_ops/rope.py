"""Rotary position embedding (arXiv 2104.09864) with every scaling, and log-n attention scaling.

Shape legend: B batch, S sequence, N heads, D rotated width of a head.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import paddle
from paddle.incubate.nn.functional import fused_rotary_position_embedding

from zoo_ops.cpu.elementwise import rope_cpu
from zoo_ops.cpu.rows import MOST, is_one_token, rope_rows
from zoo_ops.kernels import cpu_path, kernels, on_gpu, say_once
from zoo_ops.rope_scaling import RopeScaling

if TYPE_CHECKING:
    from paddle import Tensor

__all__ = ["apply_rope", "apply_rope_reference", "inverse_frequencies", "logn_scale", "rope_angles"]


def inverse_frequencies(
    dim: int,
    theta: float,
    scaling: RopeScaling,
    max_position_embeddings: int,
    seq_len: int,
    base_scale: float = 1.0,
) -> tuple[np.ndarray, float]:
    """Return the inverse frequencies, float32 [D / 2], and the factor that multiplies cos and sin.

    Rounded as Hugging Face rounds (float32 exponents, powers and quotients): at position 100,000 the last bit of a
    frequency is worth 1e-3 radians.
    """
    base = float(theta)
    if base_scale != 1.0:
        base *= base_scale ** (dim / (dim - 2))
    if scaling.kind == "dynamic":
        assert scaling.factor is not None
        length = max(seq_len, max_position_embeddings)
        base *= ((scaling.factor * length / max_position_embeddings) - (scaling.factor - 1)) ** (dim / (dim - 2))
    one = np.float32(1.0)
    exponent = np.arange(0, dim, 2, dtype=np.float32) / np.float32(dim)
    power = np.power(base, exponent.astype(np.float64)).astype(np.float32)
    plain = one / power
    if scaling.kind == "linear":
        return plain / np.float32(scaling.factor), 1.0
    if scaling.kind == "llama3":
        return _llama3(plain, scaling, max_position_embeddings), 1.0
    if scaling.kind == "yarn":
        return _yarn(power, base, dim, scaling, max_position_embeddings)
    return plain, 1.0


def _llama3(plain: np.ndarray, scaling: RopeScaling, max_position_embeddings: int) -> np.ndarray:
    original = scaling.original_max_position_embeddings or max_position_embeddings
    factor, low, high = np.float32(scaling.factor), scaling.low_freq_factor, scaling.high_freq_factor
    wavelength = np.float32(2 * math.pi) / plain
    blend = (np.float32(original) / wavelength - np.float32(low)) / np.float32(high - low)
    blended = (np.float32(1.0) - blend) * plain / factor + blend * plain
    stretched = np.where(wavelength > np.float32(original / low), plain / factor, plain)
    between = ~(wavelength < np.float32(original / high)) & ~(wavelength > np.float32(original / low))
    return np.where(between, blended, stretched).astype(np.float32)


def _yarn(
    power: np.ndarray, base: float, dim: int, scaling: RopeScaling, max_position_embeddings: int
) -> tuple[np.ndarray, float]:
    original = scaling.original_max_position_embeddings or max_position_embeddings
    factor = max_position_embeddings / original if scaling.factor is None else scaling.factor

    def magnitude(mscale: float) -> float:
        return 1.0 if factor <= 1 else 0.1 * mscale * math.log(factor) + 1.0

    attention = scaling.attention_factor
    if attention is None:
        both = scaling.mscale and scaling.mscale_all_dim
        attention = (
            magnitude(scaling.mscale) / magnitude(scaling.mscale_all_dim)  # type: ignore[arg-type]
            if both
            else magnitude(1.0)
        )

    def dim_of(rotations: float) -> float:
        return dim * math.log(original / (rotations * 2 * math.pi)) / (2 * math.log(base))

    low, high = dim_of(scaling.beta_fast), dim_of(scaling.beta_slow)
    if scaling.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, dim - 1)
    if low == high:
        high += 0.001
    ramp = np.clip((np.arange(dim // 2, dtype=np.float32) - np.float32(low)) / np.float32(high - low), 0, 1)
    kept = np.float32(1.0) - ramp
    stretched = np.float32(1.0) / (np.float32(factor) * power)
    inverse = stretched * (np.float32(1.0) - kept) + (np.float32(1.0) / power) * kept
    return inverse.astype(np.float32), float(attention)


def rope_angles(
    position_ids_BS: Tensor | None,
    seq_len: int,
    dim: int,
    theta: float = 10000.0,
    scaling: RopeScaling | None = None,
    max_position_embeddings: int = 2048,
    *,
    past: int = 0,
    base_scale: float = 1.0,
) -> tuple[Tensor, Tensor]:
    """Return (cos, sin), float32 [B or 1, S, D]; the second half of D repeats the first.

    Args:
        position_ids_BS: integer positions; `None` means `past` .. `seq_len` - 1 for every sample.
        seq_len: keys in sight, cached ones included; with dynamic scaling it sets the base when no positions are
            given (with positions, the largest of them does, as in Hugging Face) or none can be read, in tracing.
        dim: width D that is rotated, even.
        theta: base of the frequencies.
        scaling: `None` means none.
        max_position_embeddings: length from which dynamic scaling starts.
        past: cached keys before the first query; used when `position_ids_BS` is `None`.
        base_scale: multiplies the base by `base_scale ** (dim / (dim - 2))`: Qwen v1's own NTK rule.
    """
    scaling = scaling or RopeScaling()
    if scaling.kind == "dynamic" and position_ids_BS is not None and paddle.in_dynamic_mode():
        seq_len = int(position_ids_BS.max()) + 1
    inverse, magnitude = inverse_frequencies(dim, theta, scaling, max_position_embeddings, seq_len, base_scale)
    if position_ids_BS is None:
        position_BS = paddle.arange(past, seq_len, dtype="float32").unsqueeze(0)
    else:
        position_BS = position_ids_BS.astype("float32")
    angle = position_BS.unsqueeze(-1) * paddle.to_tensor(inverse)
    cos, sin = (paddle.concat([half, half], axis=-1) for half in (paddle.cos(angle), paddle.sin(angle)))
    return (cos, sin) if magnitude == 1.0 else (cos * magnitude, sin * magnitude)


def apply_rope_reference(
    x_BSND: Tensor, cos: Tensor, sin: Tensor, *, rotary_dim: int | None = None, interleaved: bool = False
) -> Tensor:
    """`apply_rope` by its definition."""
    width = x_BSND.shape[-1] if rotary_dim is None else rotary_dim
    x = x_BSND if width == x_BSND.shape[-1] else x_BSND[..., :width]
    wide = x if x.dtype == paddle.float64 else x.astype("float32")
    half = width // 2
    cos, sin = cos[..., :half].unsqueeze(2).astype(wide.dtype), sin[..., :half].unsqueeze(2).astype(wide.dtype)
    first, second = (wide[..., 0::2], wide[..., 1::2]) if interleaved else paddle.chunk(wide, 2, axis=-1)
    # of halves: products of whole heads would keep one more tensor of their size for the gradient
    turned = [first * cos - second * sin, second * cos + first * sin]
    out = paddle.stack(turned, axis=-1).reshape(x.shape) if interleaved else paddle.concat(turned, axis=-1)
    out = out.astype(x_BSND.dtype)
    return out if width == x_BSND.shape[-1] else paddle.concat([out, x_BSND[..., width:]], axis=-1)


def apply_rope(
    x_BSND: Tensor, cos: Tensor, sin: Tensor, *, rotary_dim: int | None = None, interleaved: bool = False
) -> Tensor:
    """Rotate queries or keys; computed in float32 (float64 for float64), returned in the type of `x_BSND`.

    Args:
        x_BSND: queries or keys.
        cos: [B or 1, S, rotated width] of `rope_angles`.
        sin: likewise.
        rotary_dim: only the first this many of D are rotated; `None` means all.
        interleaved: pairs are (0, 1), (2, 3), ... instead of (0, D/2), (1, D/2 + 1), ...
    """
    width = x_BSND.shape[-1] if rotary_dim is None else rotary_dim
    if kernels().fused_rope:
        if on_gpu(x_BSND) and width == x_BSND.shape[-1]:
            return _fused(x_BSND, cos, sin, interleaved)
        say_once("use_fused_rope", "there is no kernel for it here")
    if is_one_token(x_BSND, cos, sin):
        return rope_rows(x_BSND, cos, sin, width, interleaved)
    if math.prod(x_BSND.shape) >= MOST and cpu_path(x_BSND, cos, sin):
        return rope_cpu(x_BSND, cos, sin, width, interleaved)
    return apply_rope_reference(x_BSND, cos, sin, rotary_dim=rotary_dim, interleaved=interleaved)


def _fused(x_BSND: Tensor, cos: Tensor, sin: Tensor, interleaved: bool) -> Tensor:
    """Paddle's kernel; it wants tables of [1, S, 1, D], so each sample of a batch with its own positions is a call."""
    if cos.shape[0] > 1:
        rows = [_fused(x_BSND[b : b + 1], cos[b : b + 1], sin[b : b + 1], interleaved) for b in range(cos.shape[0])]
        return paddle.concat(rows, axis=0)
    if interleaved:
        half = cos.shape[-1] // 2
        cos, sin = (paddle.repeat_interleave(t[..., :half], 2, axis=-1) for t in (cos, sin))
    cos, sin = cos.unsqueeze(2).astype(x_BSND.dtype), sin.unsqueeze(2).astype(x_BSND.dtype)
    return fused_rotary_position_embedding(x_BSND, None, None, sin, cos, use_neox_rotary_style=interleaved)[0]


def logn_scale(position_ids: Tensor | None, seq_length: int, past: int = 0, *, query_len: int | None = None) -> Tensor:
    """Return what log-n attention multiplies the queries by, float32 [B or 1, S, 1, 1].

    Position i (from 0) beyond the trained `seq_length` has log(i + 1) / log(seq_length), the others 1.

    Args:
        position_ids: integer [B, S]; `None` means `past` .. `past` + `query_len` - 1.
        seq_length: trained length.
        past: cached keys before the first query.
        query_len: S; needed when `position_ids` is `None`.
    """
    if position_ids is None:
        if query_len is None:
            raise ValueError("logn_scale needs query_len when there are no position_ids")
        position_ids = paddle.arange(past, past + query_len).unsqueeze(0)
    count = (position_ids + 1).astype("float32")
    scale = paddle.where(count > seq_length, paddle.log(count) / math.log(seq_length), paddle.ones_like(count))
    return scale.unsqueeze(-1).unsqueeze(-1)
