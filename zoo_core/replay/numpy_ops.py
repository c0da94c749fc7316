"""How numpy computes the operations of a traced program, over arrays that stay where they are.

A function of this file is given an operation's inputs, all at the places where they will always be, and says where its
results are and what is to be called, each time, to fill them. What only looks at its input in another way is a view,
made once, and costs nothing afterwards.

Shape legend: B rows, I/O in and out features.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from zoo_ops.cpu.rows import product

__all__ = ["CONSTANTS", "OPERATIONS", "VIEWS", "Operation", "Step"]

Array = np.ndarray[Any, Any]
Step: TypeAlias = "Callable[[], object]"


class Operation(NamedTuple):
    """One operation of a program.

    Args:
        attributes: by Paddle's names.
        inputs: arrays; of an operation that takes a list of tensors, those first.
        outputs: arrays to be filled.
    """

    attributes: Mapping[str, Any]
    inputs: Sequence[Array]
    outputs: Sequence[Array]


CONSTANTS: dict[str, Callable[[Mapping[str, Any], Sequence[Array], tuple[int, ...], Any], Array]] = {
    "full": lambda own, _, shape, dtype: np.full(shape, own["value"], dtype),
    "full_like": lambda _, given, shape, dtype: np.full(shape, given[1].reshape(-1)[0], dtype),
    "full_int_array": lambda own, _, __, dtype: np.asarray(own["value"], dtype),
    "assign_value_": lambda own, _, shape, dtype: np.asarray(own["values"], dtype).reshape(shape),
    "arange": lambda _, given, __, dtype: np.arange(*(part.reshape(-1)[0] for part in given), dtype=dtype),
}
"""(attributes, inputs, shape and type of the result) -> the result, which is the same in each run."""


def _slices(x: Array, axes: Sequence[int], starts: Array, ends: Array, steps: Array | None = None) -> Array:
    cut = [slice(None)] * x.ndim
    for number, axis in enumerate(axes):
        step = 1 if steps is None else int(steps[number])
        cut[axis] = slice(int(starts[number]), int(ends[number]), step)
    return x[tuple(cut)]


def _split(x: Array, sizes: Sequence[int], axis: int) -> list[Array]:
    known = sum(size for size in sizes if size >= 0)
    whole = [size if size >= 0 else x.shape[axis] - known for size in sizes]
    return np.split(x, np.cumsum(whole)[:-1], axis)


VIEWS: dict[str, Callable[[Mapping[str, Any], Sequence[Array], tuple[int, ...]], Array | list[Array]]] = {
    **dict.fromkeys(("reshape", "flatten", "unsqueeze", "squeeze"), lambda _, given, shape: given[0].reshape(shape)),
    "expand": lambda _, given, shape: np.broadcast_to(given[0], shape),
    "transpose": lambda own, given, _: given[0].transpose(own["perm"]),
    "flip": lambda own, given, _: np.flip(given[0], tuple(own["axis"])),
    "slice": lambda own, given, shape: _slices(given[0], own["axes"], *given[1:3]).reshape(shape),
    "strided_slice": lambda own, given, shape: _slices(given[0], own["axes"], *given[1:4]).reshape(shape),
    "split": lambda _, given, __: _split(given[0], given[1].tolist(), int(given[2].reshape(-1)[0])),
    "split_with_num": lambda own, given, _: np.split(given[0], int(own["num"]), int(given[1].reshape(-1)[0])),
    "unbind": lambda own, given, _: list(np.moveaxis(given[0], int(own["axis"]), 0)),
}
"""(attributes, inputs, shape of the result) -> the result, or several."""


def _ufunc(function: Any) -> Callable[[Operation], Step]:
    return lambda op: lambda: function(*op.inputs, out=op.outputs[0])


def _scale(op: Operation) -> Step:
    (x, factor), out = op.inputs, op.outputs[0]
    by, bias = out.dtype.type(factor.reshape(-1)[0]), out.dtype.type(op.attributes["bias"])
    if not op.attributes["bias_after_scale"]:
        bias = bias * by

    def step() -> None:
        np.multiply(x, by, out=out)
        np.add(out, bias, out=out)

    return step if bias else lambda: np.multiply(x, by, out=out)


def _rsqrt(op: Operation) -> Step:
    out, one = op.outputs[0], op.outputs[0].dtype.type(1)

    def step() -> None:
        np.sqrt(op.inputs[0], out=out)
        np.divide(one, out, out=out)

    return step


def _sum(op: Operation, mean: bool = False) -> Step:
    x, out = op.inputs[0], op.outputs[0]
    axes = tuple(axis % x.ndim for axis in op.inputs[1].tolist()) or tuple(range(x.ndim))
    whole = out if op.attributes["keepdim"] else np.expand_dims(out, axes)
    share = out.dtype.type(whole.size / x.size) if mean else None

    def step() -> None:
        np.add.reduce(x, axis=axes, keepdims=True, out=whole)
        if share is not None:
            np.multiply(whole, share, out=whole)

    return step


def _softmax(op: Operation) -> Step:
    x, out, axis = op.inputs[0], op.outputs[0], int(op.attributes["axis"])

    def step() -> None:
        np.subtract(x, np.maximum.reduce(x, axis=axis, keepdims=True), out=out)
        np.exp(out, out=out)
        np.divide(out, np.add.reduce(out, axis=axis, keepdims=True), out=out)

    return step


def _logistic(op: Operation) -> Array:
    """1 + exp(-x); from 80 on, 1 more or less is nothing, and exp would overflow."""
    below = np.minimum(-op.inputs[0], op.inputs[0].dtype.type(80))
    np.exp(below, out=below)
    below += below.dtype.type(1)
    return below


def _layer_norm(op: Operation) -> Step:
    x, scale, bias = op.inputs
    out = op.outputs[0]
    axes = tuple(range(int(op.attributes["begin_norm_axis"]), x.ndim))
    eps = x.dtype.type(op.attributes["epsilon"])
    scale, bias = (t.reshape(x.shape[axes[0] :]) for t in (scale, bias))

    def step() -> None:
        np.subtract(x, x.mean(axis=axes, keepdims=True), out=out)
        spread = np.sqrt(np.square(out).mean(axis=axes, keepdims=True) + eps)
        np.divide(out, spread, out=out)
        np.multiply(out, scale, out=out)
        np.add(out, bias, out=out)

    return step


def _clip(op: Operation) -> Step:
    x, out = op.inputs[0], op.outputs[0]
    low, high = (float(bound.reshape(-1)[0]) for bound in op.inputs[1:3])
    if x.dtype.kind == "i":  # of whole numbers a bound may be one that only a float can have
        low, high = max(low, np.iinfo(x.dtype).min), min(high, np.iinfo(x.dtype).max - 1)
    least, most = x.dtype.type(low), x.dtype.type(high)
    return lambda: np.clip(x, least, most, out=out)


def _matmul(op: Operation) -> Step:
    (x, y), out = op.inputs, op.outputs[0]
    x = x.swapaxes(-1, -2) if op.attributes["transpose_x"] else x
    y = y.swapaxes(-1, -2) if op.attributes["transpose_y"] else y
    if y.ndim == 2 and x.ndim > 1 and x.flags.c_contiguous:
        rows_BI, rows_BO = x.reshape(-1, x.shape[-1]), out.reshape(-1, out.shape[-1])
        if len(rows_BI) == 1:
            rows_BI, rows_BO = rows_BI[0], rows_BO[0]
        return lambda: product(rows_BI, y, rows_BO)
    return lambda: np.matmul(x, y, out=out)


def _where(op: Operation) -> Step:
    (condition, x, y), out = op.inputs, op.outputs[0]

    def step() -> None:
        np.copyto(out, y)
        np.copyto(out, x, where=condition)

    return step


def _cumsum(op: Operation) -> Step | None:
    if op.attributes["exclusive"] or op.attributes["reverse"] or op.attributes["flatten"]:
        return None
    x, axis, out = op.inputs[0], int(op.inputs[1].reshape(-1)[0]), op.outputs[0]
    return lambda: np.cumsum(x, axis=axis, out=out)


def _running(function: Any) -> Callable[[Operation], Step]:
    return lambda op: lambda: function.accumulate(op.inputs[0], axis=int(op.attributes["axis"]), out=op.outputs[0])


def _put_along_axis(op: Operation) -> Step | None:
    (x, index, values), out = op.inputs, op.outputs[0]
    if op.attributes["reduce"] != "assign":
        return None

    def step() -> None:
        np.copyto(out, x)
        np.put_along_axis(out, index, values, int(op.attributes["axis"]))

    return step


OPERATIONS: dict[str, Callable[[Operation], Step | None]] = {
    **{
        name: _ufunc(getattr(np, name))
        for name in "add subtract multiply divide minimum maximum equal not_equal greater_equal less_equal logical_and "
        "logical_or logical_not cos sin tanh exp sqrt square".split()
    },
    "greater_than": _ufunc(np.greater),
    "less_than": _ufunc(np.less),
    "relu": lambda op: lambda: np.maximum(op.inputs[0], op.inputs[0].dtype.type(0), out=op.outputs[0]),
    "cast": lambda op: lambda: np.copyto(op.outputs[0], op.inputs[0], casting="unsafe"),
    "scale": _scale,
    "rsqrt": _rsqrt,
    "mean": lambda op: _sum(op, mean=True),
    "sum": _sum,
    "softmax": _softmax,
    "swish": lambda op: lambda: np.divide(op.inputs[0], _logistic(op), out=op.outputs[0]),
    "sigmoid": lambda op: lambda: np.divide(op.inputs[0].dtype.type(1), _logistic(op), out=op.outputs[0]),
    "layer_norm": _layer_norm,
    "clip": _clip,
    "embedding": lambda op: lambda: np.take(op.inputs[1], op.inputs[0], axis=0, out=op.outputs[0]),
    "matmul": _matmul,
    "where": _where,
    "cumsum": _cumsum,
    "cummax": _running(np.maximum),
    "cummin": _running(np.minimum),
    "take_along_axis": lambda op: (
        lambda: np.copyto(op.outputs[0], np.take_along_axis(op.inputs[0], op.inputs[1], int(op.attributes["axis"])))
    ),
    "put_along_axis": _put_along_axis,
    "stack": lambda op: lambda: np.stack(op.inputs, axis=int(op.attributes["axis"]), out=op.outputs[0]),
}
"""What is called to fill the outputs; `None` where the operation has been given an attribute that is not known here."""
