"""Dropout whose mask is a function of (seed, step, name, global position), whatever the device and the layout.

Shape legend: B batch, S sequence, F features (all dims after S, flattened).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar

import paddle
from paddle import nn

from zoo_ops import parallel

if TYPE_CHECKING:
    from paddle import Tensor

__all__ = [
    "Dropout",
    "dropout_context",
    "dropout_keys",
    "dropped",
    "keep_dropout_context",
    "keep_mask",
    "set_dropout_state",
    "traced_dropout",
]

T = TypeVar("T")
_BITS32 = 0xFFFFFFFF
_APART = 1 << 20
"""How far apart the numbers of two values are that are neighbours in the third dim of four: at least its last size."""


@dataclass(frozen=True)
class _State:
    seed: int = 0
    step: int = 0
    training: bool = True
    sample_base: int = 0
    sequence_offset: int = 0
    keys: Mapping[str, Tensor] | None = None
    first_sample: Tensor | None = None


_state = _State()


def set_dropout_state(seed: int, step: int, training: bool = True) -> None:
    """Say which optimizer step of which run this is; `training` False makes every `Dropout` the identity."""
    global _state
    _state = replace(_state, seed=seed, step=step, training=training)


@contextmanager
def _within(state: _State) -> Iterator[None]:
    global _state
    before, _state = _state, state
    try:
        yield
    finally:
        _state = before


@contextmanager
def dropout_context(sample_base: int = 0, sequence_offset: int = 0) -> Iterator[None]:
    """Say where the tensors of this block lie in the global batch.

    Args:
        sample_base: number, in the step's global batch, of the first sample of the micro batch.
        sequence_offset: position of the first token (of a sequence shard, or after a cache).
    """
    with _within(replace(_state, sample_base=sample_base, sequence_offset=sequence_offset)):
        yield


@contextmanager
def traced_dropout(keys: Mapping[str, Tensor], first_sample: Tensor) -> Iterator[None]:
    """Say, while a graph is traced, which of its inputs give the masks what changes from step to step.

    Args:
        keys: for each name, int64 [2]: its row of `dropout_keys`.
        first_sample: int64 [1], the `sample_base` of `dropout_context`.
    """
    with _within(replace(_state, sample_base=0, keys=keys, first_sample=first_sample)):
        yield


def _key(name: str) -> tuple[int, int]:
    """Two 32-bit numbers that stand for the run, the step and the layer."""
    digest = hashlib.blake2b(f"{_state.seed}\0{_state.step}\0{name}".encode(), digest_size=8).digest()
    return int.from_bytes(digest[:4], "little"), int.from_bytes(digest[4:], "little")


def dropout_keys(names: Sequence[str]) -> Tensor:
    """Return what the masks of these layers are made from in this step, int64 [N, 2]."""
    return paddle.to_tensor([_key(name) for name in names], dtype="int64").reshape([len(names), 2])


def keep_dropout_context(function: Callable[..., T]) -> Callable[..., T]:
    """Bind the present state to `function`, for recompute: it runs again when another micro batch is current.

    Where it stands on the mesh is bound, too (see `zoo_ops.parallel.keep_axes`).
    """
    state, function = _state, parallel.keep_axes(function)

    def bound(*args: Any, **kwargs: Any) -> T:
        with _within(state):
            return function(*args, **kwargs)

    return bound


def _mix(x: Tensor) -> Tensor:
    """Scramble 32-bit integers held in int64.

    Both factors are below 2 ** 31, so no product overflows: the result is the same on every device.
    """
    x = paddle.bitwise_xor(x, x // _exact(65536))
    x = (x * _exact(0x21F0AAAD)) % _exact(_BITS32 + 1)
    x = paddle.bitwise_xor(x, x // _exact(32768))
    x = (x * _exact(0x735A2D97)) % _exact(_BITS32 + 1)
    return paddle.bitwise_xor(x, x // _exact(32768))


def _exact(value: int) -> int | Tensor:
    """A factor for integers: a traced graph would round a number to float32, and not a tensor."""
    return value if paddle.in_dynamic_mode() else _int(value)


def keep_mask(name: str, shape: Sequence[int], p: float, sequence_start: int = 0, feature_start: int = 0) -> Tensor:
    """Return bool `shape` ([B, S, ...] or [B, S]), true where a value is kept.

    The part begins at `sequence_start` after the context's offset, and at `feature_start` of the third dim.
    """
    state = _state
    low, high = (_int(value) for value in _key(name)) if state.keys is None else state.keys[name].split(2)
    sample_B = paddle.arange(state.sample_base, state.sample_base + shape[0], dtype="int64")
    if state.first_sample is not None:
        sample_B = sample_B + state.first_sample
    first = state.sequence_offset + sequence_start
    position_S = paddle.arange(first, first + shape[1], dtype="int64")
    feature_F = paddle.arange(feature_start, feature_start + math.prod(shape[2:3]), dtype="int64")
    for size in shape[3:]:
        # not `size` apart: keys behind a longer padding are the same keys
        feature_F = (feature_F.unsqueeze(-1) * _exact(_APART) + paddle.arange(size, dtype="int64")).flatten()
    row_BS = _mix(paddle.bitwise_xor(_mix(paddle.bitwise_xor(sample_B, low)).unsqueeze(1), position_S))
    column_F = _mix(paddle.bitwise_xor(feature_F, high))
    hashed = _mix(paddle.bitwise_xor(row_BS.unsqueeze(-1), column_F))
    return (hashed >= _exact(int(p * (_BITS32 + 1)))).reshape(shape)


def _int(value: int) -> Tensor:
    return paddle.full([1], value, dtype="int64")


class Dropout(nn.Layer):
    """Zero a share `p` of the values of [B, S, ...] and scale the rest by 1 / (1 - p); in `eval()`, the identity.

    Args:
        p: probability that a value is dropped.
        inside: the layer sits inside a tensor-parallel region, between a column and a row projection: its last dims,
            not its sequence, are this rank's part.

    `name_` is the single-card name, which the engine sets: two layers of one name would drop alike.
    """

    def __init__(self, p: float, inside: bool = False) -> None:
        super().__init__()
        if not 0.0 <= p < 1.0:
            raise ValueError(f"dropout must be in [0, 1), not {p}")
        self.p = p
        self.inside = inside
        self.name_ = ""

    def is_on(self) -> bool:
        """Whether a call would drop anything now."""
        return self.p > 0.0 and self.training and _state.training

    def forward(self, x: Tensor) -> Tensor:
        if not self.is_on():
            return x
        rank = parallel.tensor_axis().rank
        sequence_start = rank * x.shape[1] if parallel.sequence_parallel() and not self.inside else 0
        feature_start = rank * math.prod(x.shape[2:3]) if self.inside else 0
        return dropped(x, self.name_, self.p, sequence_start, feature_start)


def dropped(x: Tensor, name: str, p: float, sequence_start: int = 0, feature_start: int = 0) -> Tensor:
    """Zero the values of [B, S, ...] that `keep_mask` drops, and scale the others by 1 / (1 - p)."""
    mask = keep_mask(name, x.shape, p, sequence_start, feature_start)
    return paddle.where(mask, x * (1.0 / (1.0 - p)), paddle.zeros_like(x))
