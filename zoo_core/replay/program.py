"""Traced programs of fixed shapes as a list of numpy calls, for CPU: what a generated token costs, and nothing else.

A pass over one token is a thousand operations that compute next to nothing, between a few products that read all
weights. Paddle takes several microseconds to start each; here every array has its place from the beginning, so that
what only looks at another array costs nothing, and the others one numpy call.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import paddle
from paddle import Tensor

from zoo_core.replay.numpy_ops import CONSTANTS, OPERATIONS, VIEWS, Operation, Step
from zoo_ops.cpu.rows import fresh
from zoo_ops.cpu.threads import array, one_blas_thread

__all__ = ["CannotReplay", "Replay"]

Array = np.ndarray[Any, Any]

_ENDS = ("builtin.shadow_output", "fetch")
_NO_MATTER = ("op_callstack", "struct_name", "stop_gradient", "persistable")
_LARGE = 1 << 18
"""Values of an array that is not to be there once for each program."""

_TYPES = ("float32", "float64", "int32", "int64", "bool")


class CannotReplay(Exception):
    """A program does what is not known here.

    Args:
        operation: its name.
    """

    def __init__(self, operation: str) -> None:
        super().__init__(operation)
        self.operation = operation


class _List(list[Array]):
    """A value that is a list of tensors."""


class Replay:
    """A program that can be run.

    Args:
        program: a `paddle.base.libpaddle.pir.Program` without control flow, over tensors of fixed sizes.
        inputs: ids of the values that it is given, in their order.
        outputs: likewise, of what it gives.
        weights: the parameters by name, float32; they are read where they lie, and what follows from them alone is
            computed once.
        shared: large arrays that follow from the weights alone, of all programs over them; this one's are added.

    `inputs` are the arrays that `compute` reads, `outputs` those that it fills.

    Raises:
        CannotReplay: the program has an operation that is not known.
    """

    def __init__(
        self,
        program: Any,
        inputs: Sequence[str],
        outputs: Sequence[str],
        weights: Mapping[str, Tensor],
        shared: dict[str, Array] | None = None,
    ) -> None:
        self._weights = dict(weights)  # keeps alive what the views show
        self._shared = {} if shared is None else shared
        self._inputs: dict[str, Array] = {}
        self._values: dict[str, Array | _List] = {}
        self._constant: set[str] = set()
        self._steps: list[Step] = []
        operations = program.global_block().ops
        self._uses = Counter(value.id for operation in operations for value in operation.operands_source())
        with one_blas_thread(), np.errstate(all="ignore"):
            for operation in operations:
                self._add(operation)
        self.inputs = [self._inputs[name] for name in inputs]
        self.outputs = [self._array(name) for name in outputs]

    def compute(self) -> None:
        """Fill the outputs."""
        with one_blas_thread(), np.errstate(all="ignore"):
            for step in self._steps:
                step()

    def run(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        """Return the outputs, new tensors."""
        for place, given in zip(self.inputs, inputs, strict=True):
            np.copyto(place, array(given))
        self.compute()
        return [_tensor(found) for found in self.outputs]

    def _array(self, name: str) -> Array:
        found = self._values[name]
        if isinstance(found, _List):
            raise CannotReplay("a list of tensors")
        return found

    def _arrays(self, names: Sequence[str]) -> list[Array]:
        found: list[Array] = []
        for name in names:
            value = self._values[name]
            found += value if isinstance(value, _List) else [value]
        return found

    def _add(self, operation: Any) -> None:
        kind = operation.name().removeprefix("pd_op.")
        given = [value.id for value in operation.operands_source()]
        made = [value.id for value in operation.results()]
        if kind == "data":
            self._inputs[made[0]] = self._values[made[0]] = _empty(operation.results()[0])
            return
        if kind in _ENDS:
            return
        if kind == "builtin.parameter":
            self._values[made[0]] = array(self._weights[operation.attrs()["parameter_name"]])
        elif kind in CONSTANTS:
            shape, dtype = _kind(operation.results()[0])
            self._values[made[0]] = CONSTANTS[kind](operation.attrs(), self._arrays(given), shape, dtype)
        elif kind == "builtin.combine":
            self._values[made[0]] = _List(self._array(name) for name in given)
        elif kind == "builtin.split":
            self._values.update(zip(made, self._arrays(given), strict=True))
        elif kind == "concat":
            self._values[made[0]] = self._concat(operation, given)
        elif kind in VIEWS:
            self._values[made[0]] = self._view(kind, operation, given)
        elif kind in OPERATIONS:
            known = self._key(operation, given)
            outputs = [self._shared[known]] if known in self._shared else list(map(_empty, operation.results()))
            self._values.update(zip(made, outputs, strict=True))
            if known not in self._shared:
                self._do(given, OPERATIONS[kind](Operation(operation.attrs(), self._arrays(given), outputs)), kind)
            if known:
                self._shared[known] = outputs[0]
        else:
            raise CannotReplay(kind)
        if kind in CONSTANTS or all(name in self._constant for name in given):
            self._constant.update(made)

    def _key(self, operation: Any, given: Sequence[str]) -> str:
        """What a large array is that follows from the weights alone; empty for all else."""
        size = math.prod(operation.results()[0].shape)
        is_large = size >= _LARGE and len(operation.results()) == 1 and all(name in self._constant for name in given)
        return _said(operation) if is_large else ""

    def _do(self, given: Sequence[str], step: Step | None, kind: str) -> None:
        """Compute now what depends on nothing that changes, else in each run."""
        if step is None:
            raise CannotReplay(kind)
        if all(name in self._constant for name in given):
            step()
        else:
            self._steps.append(step)

    def _view(self, kind: str, operation: Any, given: Sequence[str]) -> Array | _List:
        arrays, attributes, result = self._arrays(given), operation.attrs(), operation.results()[0]
        shape = tuple(result.shape) if result.is_dense_tensor_type() else ()
        found = VIEWS[kind](attributes, arrays, shape)
        if isinstance(found, list):
            return _List(found)
        if found.size and not np.may_share_memory(found, arrays[0]):
            # the values lie in another order, so that they are to be copied each time
            out = found
            self._do(given, lambda: np.copyto(out, VIEWS[kind](attributes, arrays, shape)), kind)  # type: ignore[arg-type]
        return found

    def _concat(self, operation: Any, given: Sequence[str]) -> Array:
        out = _empty(operation.results()[0])
        axis = int(self._array(given[1]).reshape(-1)[0]) % out.ndim
        names = [value.id for value in operation.operands_source()[0].get_defining_op().operands_source()]
        start = 0
        for name in names:
            part = self._array(name)
            place = out[(slice(None),) * axis + (slice(start, start + part.shape[axis]),)]
            start += part.shape[axis]
            if name in self._inputs and self._uses[name] == 1:
                self._inputs[name] = place  # what is read here alone can lie here
            else:
                self._do([name], partial(np.copyto, place, part), "concat")
        return out


def _said(operation: Any) -> str:
    """An operation with its attributes and all that it depends on, in words."""
    attributes = {name: own for name, own in operation.attrs().items() if name not in _NO_MATTER}
    before = (_said(value.get_defining_op()) for value in operation.operands_source())
    return f"{operation.name()}{attributes}({', '.join(before)})"


def _kind(value: Any) -> tuple[tuple[int, ...], Any]:
    """Shape and numpy type of a dense tensor.

    Raises:
        CannotReplay: a size is not known, or numpy has no such type.
    """
    shape, dtype = tuple(value.shape), str(value.dtype).rpartition(".")[2].split(":")[0].strip("<> ").lower()
    if min(shape, default=0) < 0 or dtype not in _TYPES:
        raise CannotReplay(f"a tensor {list(shape)} of {dtype}")
    return shape, np.dtype(dtype)


def _empty(value: Any) -> Array:
    shape, dtype = _kind(value)
    return np.empty(shape, dtype)


def _tensor(found: Array) -> Tensor:
    """A tensor of its own with these values."""
    if found.dtype != np.float32 or not found.size:
        return paddle.to_tensor(np.ascontiguousarray(found))
    tensor, place = fresh(list(found.shape))
    np.copyto(place, found)
    return tensor
