"""The forward pass of training as a traced graph (`--to_static`); all else of a step stays as it is.

`paddle.jit.to_static` runs model code once with symbolic tensors and makes a program of what it does, and the program
of its gradient. Parameters keep their gradients, so accumulation, clipping, AdamW and checkpoints see no difference.

What model code leaves beside its result becomes an input or an output of the program: the keys of dropout masks, which
change with the step; losses that layers attach themselves; the loads of routers.

Shape legend: N dropout layers, E experts.
"""

from __future__ import annotations

import logging
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import paddle
from paddle import Tensor, nn

from zoo_core.errors import ConfigError, ZooError
from zoo_ops import Batch, Dropout, Router, attach_loss
from zoo_ops.auxiliary import collected_losses
from zoo_ops.dropout import dropout_keys, traced_dropout

__all__ = ["FIELDS", "TracedPass", "cannot_be_traced", "warn_if_many"]

_log = logging.getLogger("zoo")

FIELDS = ("input_ids", "position_ids", "segment_ids", "attention_mask", "labels")
"""Of a batch, those that a program may take."""

_MANY = 8
"""So many programs are worth a word: each takes its time to trace, and memory."""

Through = Callable[[Batch], Tensor]


class _Program(nn.Layer):  # type: ignore[misc]
    """One graph for micro batches of the same fields; Paddle keeps a program for each of their shapes.

    Args:
        model: the layers, whose parameters are those of the graph.
        through: runs them.
        names: of the fields.
        drops: names of the dropouts that are on.
    """

    def __init__(self, model: nn.Layer, through: Through, names: Sequence[str], drops: Sequence[str]) -> None:
        super().__init__()
        self.model, self.names, self.drops = model, tuple(names), tuple(drops)
        self.routers = [layer for layer in model.sublayers() if isinstance(layer, Router)]
        self.through = through
        self.attaches = False
        self.loaded: list[Router] = []

    def forward(self, fields: list[Tensor], keys_N2: Tensor, first_sample: Tensor) -> list[Tensor]:
        return _as_it_is(self, fields, keys_N2, first_sample)  # type: ignore[no-any-return]


@paddle.jit.not_to_static  # type: ignore[untyped-decorator]
def _as_it_is(own: _Program, fields: list[Tensor], keys_N2: Tensor, first_sample: Tensor) -> list[Tensor]:
    """Run the layers without a translation of their Python: all its branches are over numbers.

    Returns what they give, then the sum of the losses they attach, if any, then the load [E] of each router.
    """
    batch = Batch(**dict(zip(own.names, fields, strict=True)))
    keys = {name: keys_N2[number] for number, name in enumerate(own.drops)}
    before = [router.take_load() for router in own.routers]
    try:
        with traced_dropout(keys, first_sample), collected_losses() as losses:
            found = [own.through(batch)]
    finally:
        loads = [router.take_load() for router in own.routers]
        for router, load_E in zip(own.routers, before, strict=True):
            if load_E is not None:
                router.add_load(load_E)
    own.attaches = bool(losses)
    own.loaded = [router for router, load_E in zip(own.routers, loads, strict=True) if load_E is not None]
    attached = [sum(losses[1:], losses[0])] if losses else []
    return found + attached + [load_E for load_E in loads if load_E is not None]


class TracedPass:
    """Stands for the training pass of a model in one process.

    Args:
        model: its layers.
        through: runs them over a micro batch.
    """

    def __init__(self, model: nn.Layer, through: Through) -> None:
        self._model, self._through = model, through
        self._programs: dict[tuple[tuple[str, ...], tuple[str, ...]], Any] = {}
        self._shapes: set[tuple[Any, ...]] = set()

    def __call__(self, batch: Batch, first_sample: int) -> Tensor:
        """Return what the layers give for a micro batch whose first sample has this number in the step's global batch.

        Raises:
            ConfigError: the model does things that cannot be traced.
        """
        given = {name: getattr(batch, name) for name in FIELDS if getattr(batch, name) is not None}
        drops = [layer.name_ for layer in self._model.sublayers() if isinstance(layer, Dropout) and layer.is_on()]
        key = (tuple(given), tuple(drops))
        if key not in self._programs:
            program = _Program(self._model, self._through, *key)
            self._programs[key] = (program, paddle.jit.to_static(program, full_graph=True))
        program, static = self._programs[key]
        arguments = (list(given.values()), dropout_keys(drops), paddle.to_tensor([first_sample], dtype="int64"))
        with self._gradients_kept((key, *(tuple(tensor.shape) for tensor in given.values()))):
            found = _run(static, *arguments)
        out, rest = found[0], found[1:]
        if program.attaches:
            out, rest = attach_loss(out, rest[0]), rest[1:]
        for router, load_E in zip(program.loaded, rest, strict=True):
            router.add_load(load_E)
        return out

    @contextmanager
    def _gradients_kept(self, shapes: tuple[Any, ...]) -> Iterator[None]:
        """Paddle forgets the gradients there are when it makes a program: those of the step's other micro batches."""
        if shapes in self._shapes:
            yield
            return
        self._shapes.add(shapes)
        warn_if_many(len(self._shapes))
        kept = [(p, p.grad.detach()) for p in self._model.parameters() if p.grad is not None]
        yield
        for parameter, gradient in kept:
            parameter.grad = gradient


def _run(static: Any, *given: Any) -> list[Tensor]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what a traced tensor has not
            found = static(*given)
    except (ZooError, MemoryError):
        raise
    except Exception as error:
        raise cannot_be_traced(error) from error
    return list(found)


def warn_if_many(shapes: int) -> None:
    """Say once that so many shapes of micro batches have been traced."""
    if shapes == _MANY:
        _log.warning(
            "%d shapes of micro batches so far, and each is traced anew: pad_to_max_length or zero_padding gives all "
            "of them one shape", _MANY,
        )  # fmt: skip


def cannot_be_traced(error: Exception) -> ConfigError:
    """What a user is told when tracing has failed."""
    why = f"its code asks for what a tensor holds ({_what(error)})"
    return ConfigError("this model cannot be traced", why, "train it without --to_static")


def _what(error: Exception) -> str:
    """What went wrong: Paddle puts the code around it in front, and advice after it."""
    lines = [line.strip() for line in str(error).splitlines()]
    return next((line for line in lines if re.match(r"\w*Error: ", line)), type(error).__name__)
