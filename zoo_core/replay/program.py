"""Traced programs of fixed shapes as a list of numpy calls, for CPU: what a generated token costs, and nothing else.

A pass over one token is a thousand operations that compute next to nothing, between a few products that read all
weights. Paddle takes several microseconds to start each; here every array has its place from the beginning, so that
what only looks at another array costs nothing, and the others one numpy call.
"""

from __future__ import annotations

import math
from collections import ChainMap, Counter
from collections.abc import Mapping, MutableMapping, Sequence
from functools import partial
from typing import Any, NamedTuple, TypeAlias

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


_Values: TypeAlias = "MutableMapping[str, Array | _List]"
"""By the id of a value, where it lies."""


class _Operation(NamedTuple):
    """An operation of a program.

    Args:
        kind: its name.
        own: its attributes.
        given: ids of its inputs; of a list of tensors that are put together, each.
        made: ids of its results.
        results: themselves.
    """

    kind: str
    own: Mapping[str, Any]
    given: list[str]
    made: list[str]
    results: list[Any]


class Replay:
    """A program that can be run.

    Args:
        program: a `paddle.base.libpaddle.pir.Program` without control flow, over tensors of fixed sizes.
        inputs: ids of the values that it is given, in their order.
        outputs: likewise, of what it gives.
        weights: the parameters by name, float32; they are read where they lie, and what follows from them alone is
            computed once.
        shared: large arrays of all programs over the weights, to which this one's are added: those that follow from
            the weights alone, and `buffers`, which are for whichever of the programs is in use.
        slack: an input that is only put in front of something along axis 1 has so many columns more, see `buffers`.

    `inputs` are the arrays that `compute` reads, `outputs` those that it fills. Of the numbers of inputs, `buffers` has
    the arrays in which they lie with what comes behind them, and with the slack: a run at an offset reads and writes as
    many columns further on, so that what was the newest column is then the last of the input, and nothing is moved.

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
        slack: int = 0,
    ) -> None:
        self._program = program  # keeps its operations and values alive
        self._weights = dict(weights)  # keeps alive what the views show
        self._shared, self._slack = {} if shared is None else shared, slack
        self._names, self._inputs = list(inputs), dict[str, Array]()
        self._values: _Values = {}
        self._constant: set[str] = set()
        self._steps: list[Step] = []
        self._wide: dict[str, tuple[str, Array]] = {}
        self._moving: set[str] = set()
        self._again: list[tuple[slice, _Operation]] = []
        operations = program.global_block().ops
        self._uses = Counter(value.id for operation in operations for value in operation.operands_source())
        with one_blas_thread(), np.errstate(all="ignore"):
            for operation in operations:
                self._add(_read(operation))
        self._steps_at = {0: self._steps}
        self.inputs = [self._inputs[name] for name in inputs]
        self.outputs = _arrays(self._values, outputs)
        self.buffers = {inputs.index(name): buffer for name, (_, buffer) in self._wide.items()}

    def compute(self, offset: int = 0) -> None:
        """Fill the outputs; at an offset those that do not lie in `buffers`."""
        if offset not in self._steps_at:
            self._steps_at[offset] = self._further_on(offset)
        with one_blas_thread(), np.errstate(all="ignore"):
            for step in self._steps_at[offset]:
                step()

    def run(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        """Return the outputs, new tensors."""
        for place, given in zip(self.inputs, inputs, strict=True):
            np.copyto(place, array(given))
        self.compute()
        return [_tensor(found) for found in self.outputs]

    def _further_on(self, offset: int) -> list[Step]:
        """The steps, those that look at `buffers` at an offset."""
        steps, values = list(self._steps), ChainMap[str, "Array | _List"]({}, self._values)
        for made, buffer in self._wide.values():
            values[made] = buffer[:, offset : buffer.shape[1] - self._slack + offset]
        for which, do in self._again:
            steps[which] = self._built(do, values)
        return steps

    def _add(self, do: _Operation) -> None:
        """Give an operation's results their places; compute now what depends on nothing that changes."""
        steps = self._built(do, self._values)
        if do.kind not in ("data", *_ENDS) and all(name in self._constant for name in do.given):
            self._constant.update(do.made)
            for step in steps:
                step()
            return
        if not self._moving.isdisjoint([*do.given, *do.made]):
            self._again.append((slice(len(self._steps), len(self._steps) + len(steps)), do))
            self._moving.update(() if steps else do.made)  # another look at what moves
        self._steps += steps

    def _built(self, do: _Operation, values: _Values) -> list[Step]:
        """What is to be called for an operation; its results are added to the values where they are not among them."""
        if do.kind == "data":
            self._inputs[do.made[0]] = values[do.made[0]] = _empty(do.results[0])
        elif do.kind == "builtin.parameter":
            values[do.made[0]] = array(self._weights[do.own["parameter_name"]])
        elif do.kind in CONSTANTS:
            values[do.made[0]] = CONSTANTS[do.kind](do.own, _arrays(values, do.given), *_kind(do.results[0]))
            self._constant.update(do.made)
        elif do.kind == "builtin.combine":
            values[do.made[0]] = _List(_arrays(values, do.given))
        elif do.kind == "builtin.split":
            values.update(zip(do.made, _arrays(values, do.given), strict=True))
        elif do.kind == "concat":
            return self._concat(do, values)
        elif do.kind in VIEWS:
            return _view(do, values)
        elif do.kind in OPERATIONS:
            return self._computed(do, values)
        elif do.kind not in _ENDS:
            raise CannotReplay(do.kind)
        return []

    def _computed(self, do: _Operation, values: _Values) -> list[Step]:
        known = self._key(do)
        if known in self._shared:
            values[do.made[0]] = self._shared[known]
            return []
        for name, result in zip(do.made, do.results, strict=True):
            if name not in values:
                values[name] = _empty(result)
        outputs = _arrays(values, do.made)
        step = OPERATIONS[do.kind](Operation(do.own, _arrays(values, do.given), outputs))
        if step is None:
            raise CannotReplay(do.kind)
        if known:
            self._shared[known] = outputs[0]
        return [step]

    def _key(self, do: _Operation) -> str:
        """What a large array is that follows from the weights alone; empty for all else."""
        is_constant = len(do.made) == 1 and all(name in self._constant for name in do.given)
        return _said(do.results[0]) if is_constant and math.prod(do.results[0].shape) >= _LARGE else ""

    def _concat(self, do: _Operation, values: _Values) -> list[Step]:
        made, names = do.made[0], do.given[:-1]
        is_first = made not in values
        shape, dtype = _kind(do.results[0])
        axis = int(_arrays(values, do.given[-1:])[0].reshape(-1)[0]) % len(shape)
        alone = [name in self._inputs and self._uses[name] == 1 for name in names]
        if is_first and self._slack and axis == 1 and alone[0]:
            room = (shape[0], shape[1] + self._slack, *shape[2:])
            buffer = self._shared.setdefault(f"{self._names.index(names[0])} {room} {dtype}", np.zeros(room, dtype))
            values[made] = buffer[:, : shape[1]]
            self._wide[names[0]] = (made, buffer)
            self._moving.add(made)
        elif is_first:
            values[made] = np.empty(shape, dtype)
        (out,), start, steps = _arrays(values, [made]), 0, list[Step]()
        for name, lies_here in zip(names, alone, strict=True):
            (part,) = _arrays(values, [name])
            place = out[(slice(None),) * axis + (slice(start, start + part.shape[axis]),)]
            start += part.shape[axis]
            if not lies_here:
                steps.append(partial(np.copyto, place, part))
            elif is_first:
                self._inputs[name] = place  # what is read here alone can lie here
        return steps


def _read(operation: Any) -> _Operation:
    kind, own = operation.name().removeprefix("pd_op."), operation.attrs()
    operands, results = operation.operands_source(), operation.results()
    if kind == "concat":
        operands = [*operands[0].get_defining_op().operands_source(), operands[1]]
    return _Operation(kind, own, [value.id for value in operands], [value.id for value in results], results)


def _arrays(values: _Values, names: Sequence[str]) -> list[Array]:
    found: list[Array] = []
    for name in names:
        value = values[name]
        found += value if isinstance(value, _List) else [value]
    return found


def _view(do: _Operation, values: _Values) -> list[Step]:
    arrays, made = _arrays(values, do.given), do.made[0]
    shape = tuple(do.results[0].shape) if do.results[0].is_dense_tensor_type() else ()
    found = VIEWS[do.kind](do.own, arrays, shape)
    if isinstance(found, list):
        values[made] = _List(found)
        return []
    if not found.size or np.may_share_memory(found, arrays[0]):
        values[made] = found
        return []
    # The values lie in another order, so that they are to be copied each time.
    if made not in values:
        values[made] = found
    (out,) = _arrays(values, [made])
    return [lambda: np.copyto(out, VIEWS[do.kind](do.own, arrays, shape))]  # type: ignore[arg-type]


def _said(value: Any) -> str:
    """The operation that makes a value, with its attributes and all that it depends on, in words."""
    operation = value.get_defining_op()
    attributes = {name: own for name, own in operation.attrs().items() if name not in _NO_MATTER}
    return f"{operation.name()}{attributes}({', '.join(map(_said, operation.operands_source()))})"


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
