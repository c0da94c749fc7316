"""The training pass of a placed model by Paddle's static engine (`dist.to_static`); all else of a step stays as it is.

The static engine makes one program of the model, its loss and their gradients, places what lies between the layers, and
puts in the exchanges that follow. Where it would put an optimizer it gets one that only keeps the gradients: so
accumulation, clipping, AdamW, sharded states and checkpoints are those of placed training, and see no difference.

Shape legend: B rows, S sequence, V vocabulary, N dropout layers.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import paddle
import paddle.distributed as dist
from paddle import Tensor, nn
from paddle.base.framework import EagerParamBase
from paddle.distributed.auto_parallel.static.dist_input_spec import DistributedInputSpec

from zoo_core.engine import cpu
from zoo_core.engine.auto.moving import REPLICA, TENSOR, as_global, move, moved, placed, placements_of
from zoo_core.engine.traced import FIELDS, cannot_be_traced, warn_if_many
from zoo_core.errors import ZooError
from zoo_ops import Batch, Dropout, cross_entropy
from zoo_ops.dropout import dropout_keys, traced_dropout

__all__ = ["StaticPass"]

Through = Callable[[Batch], Tensor]

_LOSS = "zoo/loss"


def _gradient(name: str) -> str:
    return f"zoo/gradient/{name}"


@dataclass(frozen=True)
class _Kind:
    """What micro batches of one program have in common.

    Args:
        fields: names of those they have.
        drops: names of the dropouts that are on.
        shapes: of the fields.
    """

    fields: tuple[str, ...]
    drops: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]


class _Program(nn.Layer):  # type: ignore[misc]
    """The model and its loss over micro batches of a kind.

    Args:
        model: the layers, whose parameters are those of the program.
        through: runs them.
        kind: of the micro batches.
        rows: the dim of the logits that the replicas cut, if there are several.
        amp: what `paddle.amp.auto_cast` is given.
    """

    def __init__(
        self, model: nn.Layer, through: Through, kind: _Kind, rows: int | None, amp: Mapping[str, Any]
    ) -> None:
        super().__init__()
        self.model, self.through, self.kind, self.rows, self.amp = model, through, kind, rows, amp

    def forward(self, *given: Tensor) -> Tensor:
        return _as_it_is(self, *given)


@paddle.jit.not_to_static  # type: ignore[untyped-decorator]
def _as_it_is(own: _Program, weight_1: Tensor, *given: Tensor) -> Tensor:
    """Return the sum of the tokens' losses times a weight; Python is not translated, its branches are over numbers."""
    names, rest = own.kind.fields, given[len(own.kind.fields) :]
    batch = Batch(**dict(zip(names, given, strict=False)))
    first_1, keys_N2 = rest if rest else (None, ())
    keys = {name: keys_N2[number] for number, name in enumerate(own.kind.drops)}
    with paddle.amp.auto_cast(**own.amp), traced_dropout(keys, first_1):
        logits_BSV = own.through(batch)
        logits_BSV = move(move(logits_BSV, TENSOR, None), REPLICA, own.rows)
        loss_1 = moved(cross_entropy(logits_BSV, batch.labels).sum() * weight_1, placed())
    paddle._C_ops.set_persistable_value(loss_1, _LOSS)
    return loss_1


class _Keeper(paddle.optimizer.SGD):  # type: ignore[misc]
    """Stands for an optimizer: gives out the gradient of each parameter, placed as the parameter is."""

    def _apply_optimize(self, loss: Any, startup_program: Any, params_grads: Sequence[tuple[Any, Any]]) -> list[Any]:
        self.kept = []
        for parameter, gradient in params_grads:
            if gradient is not None:
                paddle._C_ops.set_persistable_value(
                    moved(gradient, placements_of(parameter)), _gradient(parameter.name)
                )
                self.kept.append(parameter.name)
        return []


class StaticPass:
    """Stands for the forward and the backward pass of a model over a mesh.

    Args:
        model: its layers.
        through: runs them over a micro batch.
        over: the mesh.
        replicas: how many cut the rows.
        amp: what `paddle.amp.auto_cast` is given.
    """

    def __init__(self, model: nn.Layer, through: Through, over: Any, replicas: int, amp: Mapping[str, Any]) -> None:
        self._model, self._through, self._over, self._replicas, self._amp = model, through, over, replicas, amp
        self._programs: dict[_Kind, tuple[Any, list[str]]] = {}
        self._parameters = {tensor.name: tensor for tensor in _parameters_of(model)}

    def __call__(self, batch: Batch, first_sample: int, weight: float) -> Tensor:
        """Leave gradients at the parameters, and return what the loss is on an average replica.

        Args:
            batch: placed.
            first_sample: number, in the step's global batch, of the first sample of the micro batch.
            weight: what the sum of the tokens' losses is multiplied by.

        Raises:
            ConfigError: the model does things that cannot be traced.
        """
        fields = {name: getattr(batch, name) for name in FIELDS if getattr(batch, name) is not None}
        drops = tuple(layer.name_ for layer in self._model.sublayers() if isinstance(layer, Dropout) and layer.is_on())
        given = [paddle.to_tensor([weight], dtype="float32"), *fields.values()]
        if drops:
            given += [paddle.to_tensor([first_sample], dtype="int64"), dropout_keys(drops)]
        given = [value if value.is_dist() else as_global(value, self._over, placed()) for value in given]
        kind = _Kind(tuple(fields), drops, tuple(tuple(tensor.shape) for tensor in fields.values()))
        if kind not in self._programs:
            self._programs[kind] = self._traced(kind, given)
            warn_if_many(len(self._programs))
        model, trained = self._programs[kind]
        scope = paddle.static.global_scope()
        for name, tensor in self._parameters.items():
            scope.var(name).get_tensor()._share_data_with(tensor._local_value().get_tensor())
        cpu.before_program()
        model(*given)
        found, model.outs = model.outs, {}
        for name in trained:
            tensor = self._parameters[name]
            gradient = paddle.to_tensor(found[_gradient(name)], place=tensor._local_value().place)
            tensor.grad = as_global(gradient, self._over, placements_of(tensor))
        return paddle.to_tensor(found[_LOSS]).reshape([]) / self._replicas

    def _traced(self, kind: _Kind, given: Sequence[Tensor]) -> tuple[Any, list[str]]:
        """Make the program of a kind; returns it with the names of the parameters that have a gradient."""
        program = _Program(self._model, self._through, kind, 0 if self._replicas > 1 else None, self._amp)
        program.train()
        specs = [DistributedInputSpec.from_dtensor(tensor, f"given_{i}") for i, tensor in enumerate(given)]
        try:
            with _as_parameters(program), cpu.static_engine(), warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of what a traced tensor has not
                keeper = _Keeper(parameters=program.parameters())
                model = dist.to_static(program, loss=_itself, optimizer=keeper, input_spec=[specs, []])
                model.train()
        except (ZooError, MemoryError):
            raise
        except Exception as error:
            raise cannot_be_traced(error) from error
        model._engine._strategy.return_numpy = False
        made = model._engine._pir_dense_main_progs["train"]
        cpu.exchange_among_all(made)
        for name in (_LOSS, *map(_gradient, keeper.kept)):
            model._fetch_value(made.get_output_value_by_name(name), name)
        return model, keeper.kept


@paddle.jit.not_to_static  # type: ignore[untyped-decorator]
def _itself(loss: Tensor) -> Tensor:
    return loss


def _parameters_of(layer: nn.Layer) -> Iterator[Any]:
    for sub in layer.sublayers(include_self=True):
        yield from (tensor for tensor in sub._parameters.values() if tensor is not None)


@contextmanager
def _as_parameters(layer: nn.Layer) -> Iterator[None]:
    """Let tracing see parameters: it takes no placed tensor for one, and Paddle empties those that it sees."""
    kept = [(sub, dict(sub._parameters)) for sub in layer.sublayers(include_self=True)]
    made: dict[int, Any] = {}
    for sub, own in kept:
        for name, tensor in own.items():
            if tensor is None:
                continue
            if id(tensor) not in made:
                seen = as_global(tensor._local_value().detach(), tensor.process_mesh, placements_of(tensor))
                made[id(tensor)] = EagerParamBase(tensor.shape, tensor.dtype, name=tensor.name)
                made[id(tensor)]._set_impl(seen)
                made[id(tensor)].stop_gradient = tensor.stop_gradient
            sub._parameters[name] = made[id(tensor)]
    try:
        yield
    finally:
        for sub, own in kept:
            sub._parameters.update(own)
