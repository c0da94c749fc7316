"""What a block may know of the mesh, and the collectives of tensor and sequence parallelism.

Nothing is parallel until the engine calls `configure`; until then every question is answered "rank 0 of 1" and every
collective is the identity, so model code and its building blocks read as on one card.

Tensor parallelism: Shoeybi et al. 2019, Megatron-LM, section 3. Sequence parallelism: Korthikanti et al. 2022,
Reducing Activation Recomputation, section 4.2.2: between blocks each rank holds its part of the sequence, dim 1.

Shape legend: B batch, S sequence, s part of the sequence on this rank, H features.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import paddle
import paddle.distributed as dist
from paddle import Tensor
from paddle.autograd import PyLayer

__all__ = [
    "Axis",
    "configure",
    "copies_group",
    "enter",
    "exchange_rows",
    "expert_axis",
    "expert_counts",
    "gather_features",
    "gathers_weights",
    "keep_axes",
    "leave",
    "placed_by",
    "reduce_max",
    "reduce_sum",
    "sequence_parallel",
    "sequence_shard",
    "tensor_axis",
    "whole_sequences",
]


T = TypeVar("T")


@dataclass(frozen=True)
class Axis:
    """One axis of the mesh as this rank sees it.

    Args:
        degree: number of ranks on the axis.
        rank: this rank's place on it.
        group: the `paddle.distributed` group; `None` when the degree is 1.
    """

    degree: int = 1
    rank: int = 0
    group: Any = None


def _nccl_reduce_scatter(out: Tensor, x: Tensor, group: Any) -> None:
    dist.reduce_scatter(out, x, group=group)


@dataclass
class _State:
    tensor: Axis = Axis()
    sequence_parallel: bool = False
    reduce_scatter: Callable[[Tensor, Tensor, Any], None] = _nccl_reduce_scatter
    copies: dict[int, Any] | None = None
    expert: Axis = Axis()
    all_to_all: Callable[[list[Tensor], list[Tensor], Any], None] | None = None
    gathers_weights: bool = False
    enter: Callable[[Tensor], Tensor] | None = None
    leave: Callable[[Tensor], Tensor] | None = None


_state = _State()


def configure(
    tensor: Axis = Axis(),  # noqa: B008  a frozen value
    sequence_parallel: bool = False,
    reduce_scatter: Callable[[Tensor, Tensor, Any], None] | None = None,
    copies: dict[int, Any] | None = None,
    expert: Axis = Axis(),  # noqa: B008  a frozen value
    all_to_all: Callable[[list[Tensor], list[Tensor], Any], None] | None = None,
    gathers_weights: bool = False,
) -> None:
    """Set what this process is of the mesh; called by the engine, and with no arguments to go back to one card.

    Args:
        tensor: the tensor axis.
        sequence_parallel: between blocks, activations are split over the tensor axis along the sequence.
        reduce_scatter: `f(out, x, group)` along dim 0, where the backend has none of its own (gloo).
        copies: for each number of copies of a key/value head, the group of the ranks that hold the same one.
        expert: the axis over which the experts of a layer are spread.
        all_to_all: `f(received, sent, group)`, where the backend has none of its own (gloo).
        gathers_weights: weights are gathered when a layer is called (sharding stage 3), so all ranks call the same.
    """
    _state.tensor = tensor
    _state.sequence_parallel = sequence_parallel and tensor.degree > 1
    _state.reduce_scatter = reduce_scatter or _nccl_reduce_scatter
    _state.copies = copies
    _state.expert = expert
    _state.all_to_all = all_to_all
    _state.gathers_weights = gathers_weights


def tensor_axis() -> Axis:
    """The tensor axis; rank 0 of 1 when nothing is parallel."""
    return _state.tensor


def sequence_parallel() -> bool:
    """Whether activations between blocks are split along the sequence."""
    return _state.sequence_parallel


@contextmanager
def whole_sequences() -> Iterator[None]:
    """Keep sequences whole between blocks within this, for passes of one token, which cannot be split."""
    before, _state.sequence_parallel = _state.sequence_parallel, False
    try:
        yield
    finally:
        _state.sequence_parallel = before


def keep_axes(function: Callable[..., T]) -> Callable[..., T]:
    """Bind what this process is of the mesh now to `function`, for recompute: it runs again outside of `placed_by`."""
    kept = _state

    def bound(*args: Any, **kwargs: Any) -> T:
        global _state
        before, _state = _state, kept
        try:
            return function(*args, **kwargs)
        finally:
            _state = before

    return bound


@contextmanager
def placed_by(enter: Callable[[Tensor], Tensor] | None, leave: Callable[[Tensor], Tensor] | None) -> Iterator[None]:
    """Answer as on one card within this, for tensors that a mesh of processes holds together.

    Args:
        enter, leave: what `enter` and `leave` do to such tensors; `None` is the identity.
    """
    global _state
    before, _state = _state, _State(gathers_weights=_state.gathers_weights, enter=enter, leave=leave)
    try:
        yield
    finally:
        _state = before


def expert_axis() -> Axis:
    """The axis over which the experts of a layer are spread; rank 0 of 1 when every rank has them all."""
    return _state.expert


def gathers_weights() -> bool:
    """Whether every rank has to call the same layers, because calling one gathers its weights."""
    return _state.gathers_weights


def copies_group(copies: int) -> Any:
    """The group of the ranks that hold the same copy of a key/value head."""
    return (_state.copies or {})[copies]


def sequence_shard(length: int) -> tuple[int, int]:
    """This rank's part [start, stop) of a sequence of `length` between blocks."""
    if not _state.sequence_parallel:
        return 0, length
    part = length // _state.tensor.degree
    return _state.tensor.rank * part, (_state.tensor.rank + 1) * part


def _all_reduce(x: Tensor) -> Tensor:
    y = x.clone()
    dist.all_reduce(y, group=_state.tensor.group)
    return y


def _all_gather(x: Tensor, dim: int) -> Tensor:
    parts: list[Tensor] = []
    dist.all_gather(parts, x.contiguous(), group=_state.tensor.group)
    return paddle.concat(parts, axis=dim)


def _reduce_scatter_sequence(x_BSH: Tensor) -> Tensor:
    axis = _state.tensor
    batch, length, *rest = x_BSH.shape
    part = length // axis.degree
    # reduce_scatter splits dim 0, so the ranks' parts of the sequence come first
    order = [1, 0, 2, *range(3, 2 + len(rest))]
    x = x_BSH.reshape([batch, axis.degree, part, *rest]).transpose(order).contiguous()
    out = paddle.empty([1, batch, part, *rest], dtype=x.dtype)
    _state.reduce_scatter(out, x, axis.group)
    return out[0]


class _Enter(PyLayer):  # type: ignore[misc]
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone() if x.stop_gradient else x * 1

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return _all_reduce(grad)


class _Leave(PyLayer):  # type: ignore[misc]
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return _all_reduce(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return grad


class _EnterSequence(PyLayer):  # type: ignore[misc]
    @staticmethod
    def forward(ctx: Any, x_BsH: Tensor) -> Tensor:
        return _all_gather(x_BsH, 1)

    @staticmethod
    def backward(ctx: Any, grad_BSH: Tensor) -> Tensor:
        return _reduce_scatter_sequence(grad_BSH)


class _LeaveSequence(PyLayer):  # type: ignore[misc]
    @staticmethod
    def forward(ctx: Any, x_BSH: Tensor) -> Tensor:
        return _reduce_scatter_sequence(x_BSH)

    @staticmethod
    def backward(ctx: Any, grad_BsH: Tensor) -> Tensor:
        return _all_gather(grad_BsH, 1)


class _GatherFeatures(PyLayer):  # type: ignore[misc]
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.width = x.shape[-1]
        return _all_gather(x, -1)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        start = _state.tensor.rank * ctx.width
        return grad[..., start : start + ctx.width].contiguous()


def enter(x: Tensor) -> Tensor:
    """Into a column-parallel region: [B, s, H] or [B, S, H] -> [B, S, H]; sums the gradients on the way back."""
    if _state.tensor.degree == 1:
        return x if _state.enter is None else _state.enter(x)
    return _EnterSequence.apply(x) if _state.sequence_parallel else _Enter.apply(x)


def leave(x: Tensor) -> Tensor:
    """Out of a row-parallel region: sums the ranks' partial [B, S, H], and keeps this rank's [B, s, H] if split."""
    if _state.tensor.degree == 1:
        return x if _state.leave is None else _state.leave(x)
    return _LeaveSequence.apply(x) if _state.sequence_parallel else _Leave.apply(x)


def reduce_sum(x: Tensor) -> None:
    """Put the sum over the tensor axis into `x`."""
    dist.all_reduce(x, group=_state.tensor.group)


def reduce_max(x: Tensor) -> None:
    """Put the maximum over the tensor axis into `x`."""
    dist.all_reduce(x, op=dist.ReduceOp.MAX, group=_state.tensor.group)


def gather_features(x: Tensor) -> Tensor:
    """Join the last dim of all ranks of the tensor axis; the gradient is this rank's part."""
    return x if _state.tensor.degree == 1 else _GatherFeatures.apply(x)


def expert_counts(counts_E: Tensor) -> Tensor:
    """Every rank's `counts_E`, in the order of the expert axis, [ranks, E]."""
    each: list[Tensor] = []
    dist.all_gather(each, counts_E, group=_state.expert.group)
    return paddle.stack(each)


def _all_to_all(x_RH: Tensor, counts: list[int], expected: list[int]) -> Tensor:
    """Send the rows of `x_RH`, `counts[i]` of them to rank i of the expert axis, and join what all ranks sent here."""
    sent = list(paddle.split(x_RH, counts)) if x_RH.shape[0] else [x_RH for _ in counts]
    received = [paddle.empty([rows, *x_RH.shape[1:]], dtype=x_RH.dtype) for rows in expected]
    if _state.all_to_all is not None:
        _state.all_to_all(received, sent, _state.expert.group)
    else:
        dist.alltoall(received, sent, group=_state.expert.group)
    return paddle.concat(received)


class _ExchangeRows(PyLayer):  # type: ignore[misc]
    @staticmethod
    def forward(ctx: Any, x_RH: Tensor, counts: list[int], expected: list[int]) -> Tensor:
        ctx.counts, ctx.expected = counts, expected
        return _all_to_all(x_RH, counts, expected)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return _all_to_all(grad, ctx.expected, ctx.counts)


def exchange_rows(x_RH: Tensor, counts: list[int], expected: list[int]) -> Tensor:
    """Send rows over the expert axis and receive others; the gradients go back the same way.

    Args:
        x_RH: [R, H], ordered by the rank they go to.
        counts: rows that go to each rank; their sum is R.
        expected: rows that come from each rank.

    Returns:
        [sum(expected), H], ordered by the rank they came from.
    """
    return _ExchangeRows.apply(x_RH, counts, expected)
