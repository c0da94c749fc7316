"""Model code as programs of fixed shapes; the model code is the same as ever.

All sizes that model code reads (`cache.length`, `x.shape`) are numbers, so it is run once with symbolic tensors, and
what it does becomes the program. The cache of a program is its input and its output: a decode program takes W columns,
the newest last, and gives W, the oldest gone. Columns that are not in use lie on the left and are hidden by the mask,
as in any batch of rows of unequal length.

Shape legend: B rows, S tokens of a pass, W cached columns, M kv heads, D head width, V vocabulary.
"""

from __future__ import annotations

import ctypes
import threading
import traceback
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, NamedTuple

import paddle
from paddle import Tensor
from paddle.base import framework, libpaddle
from paddle.base.dygraph.base import to_static_mode_guard
from paddle.jit.dy2static.parameter_recorder import _global_inplace_map, _global_parameter_recorder
from paddle.nn.layer import layers as paddle_layers
from paddle.pir.core import _convert_into_value, static_op_arg_cast_guard

from zoo_core.engine.engine import Engine
from zoo_core.replay.cached import Cached, Note
from zoo_ops import Batch, after_prefix

__all__ = ["Traced", "TracedModel", "as_traced", "cached_of", "inputs_of", "traced_decode"]


class TracedLayerCache:
    """What model code takes for the cache of one layer: a window of columns that is given, and recorded."""

    def __init__(self, k_BWMD: Tensor | None = None, v_BWMD: Tensor | None = None) -> None:
        self.length = 0 if k_BWMD is None else int(k_BWMD.shape[1])
        self.first_length = self.length
        self.notes: dict[str, Tensor] = {}
        self.token_notes: dict[str, Tensor] = {}
        self.k, self.v = k_BWMD, v_BWMD

    def update(self, k_BSMD: Tensor, v_BSMD: Tensor) -> tuple[Tensor, Tensor]:
        """Append, and return all keys and values, [B, W + S, M, D]."""
        if self.k is None or self.v is None:
            self.first_length = int(k_BSMD.shape[1])
            self.k, self.v = k_BSMD, v_BSMD
        else:
            self.k, self.v = paddle.concat([self.k, k_BSMD], axis=1), paddle.concat([self.v, v_BSMD], axis=1)
        self.length += int(k_BSMD.shape[1])
        return self.k, self.v

    def held(self) -> tuple[Tensor, Tensor]:
        """All keys and values; model code has updated them."""
        assert self.k is not None and self.v is not None
        return self.k, self.v


class TracedCache:
    """What model code takes for the cache of all layers."""

    def __init__(self, layers: Sequence[TracedLayerCache]) -> None:
        self._layers = layers

    def __len__(self) -> int:
        return len(self._layers)

    def __getitem__(self, layer: int) -> TracedLayerCache:
        return self._layers[layer]

    @property
    def length(self) -> int:
        """Columns so far."""
        return max(layer.length for layer in self._layers)


class TracedModel:
    """An engine's layers over a cache that goes in and comes out.

    Args:
        engine: of the model.
        cached: what its cache holds.
    """

    def __init__(self, engine: Engine, cached: Cached) -> None:
        self._layers, self._prefix, self._vocab_size = engine.layers, engine.prefix, engine.config.vocab_size
        self._cached = cached

    def prefill(self, ids_BS: Tensor, positions_BS: Tensor, mask_BS: Tensor) -> list[Tensor]:
        """Return the logits [B, V] after the last column, and what is cached then."""
        cache = TracedCache([TracedLayerCache() for _ in self._cached.entries])
        found = [self._logits(ids_BS, positions_BS, mask_BS, cache)]
        for layer in range(len(cache)):
            found += cache[layer].held()
        for note in self._cached.notes:
            held = cache[note.layers[0]]
            found.append((held.token_notes if note.by_token else held.notes)[note.name])
        return [paddle.assign(tensor) for tensor in found]

    def decode(self, ids_B1: Tensor, positions_B1: Tensor, mask_BK: Tensor, state: Sequence[Tensor]) -> list[Tensor]:
        """Return the logits [B, V], and what has columns of the state, the oldest gone; K = W + 1."""
        entries = 2 * len(self._cached.entries)
        cache = TracedCache([TracedLayerCache(*state[at : at + 2]) for at in range(0, entries, 2)])
        for note, tensor in zip(self._cached.notes, state[entries:], strict=True):
            for layer in note.layers:
                (cache[layer].token_notes if note.by_token else cache[layer].notes)[note.name] = tensor
        found = [self._logits(ids_B1, positions_B1, mask_BK, cache)]
        for layer in range(len(cache)):
            found += [entries_BKMD[:, 1:] for entries_BKMD in cache[layer].held()]
        # What is noted of a prompt stays as it is; only what is noted of each token grows.
        grown = [note for note in self._cached.notes if note.by_token]
        return found + [cache[note.layers[0]].token_notes[note.name][:, 1:] for note in grown]

    def _logits(self, ids: Tensor, positions: Tensor, mask: Tensor, cache: TracedCache) -> Tensor:
        batch = Batch(ids, position_ids=positions, attention_mask=mask)
        if self._prefix is not None:
            batch = after_prefix(batch, self._prefix.tokens, cache.length)
        out_B1V = self._layers.through(None, batch, cache, last_position=True)[:, -1:]
        return out_B1V[:, 0].astype("float32")[:, : self._vocab_size]


def cached_of(engine: Engine) -> Cached:
    """Find out what the model caches, by reading two tokens."""
    engine.layers.eval()
    ids_12 = paddle.to_tensor([[0, 1]], dtype="int64")
    cache = TracedCache([TracedLayerCache() for _ in range(len(engine.new_cache(1, 2)))])
    with paddle.no_grad():
        batch = Batch(ids_12, position_ids=ids_12, attention_mask=paddle.ones_like(ids_12))
        if engine.prefix is not None:
            batch = after_prefix(batch, engine.prefix.tokens)
        engine.layers.through(None, batch, cache, last_position=True)
    entries = tuple(
        ((int(k.shape[2]), int(k.shape[3])), (int(v.shape[2]), int(v.shape[3])))
        for k, v in (cache[layer].held() for layer in range(len(cache)))
    )
    return Cached(engine.dtype, entries, tuple(_notes(cache)))


def _notes(cache: TracedCache) -> Iterator[Note]:
    """The notes, one that several blocks share once."""
    for by_token in (False, True):
        seen: dict[tuple[str, int], tuple[Tensor, list[int]]] = {}
        for layer in range(len(cache)):
            held = cache[layer].token_notes if by_token else cache[layer].notes
            for name, tensor in held.items():
                seen.setdefault((name, id(tensor)), (tensor, []))[1].append(layer)
        for (name, _), (tensor, layers) in seen.items():
            shape = tuple(int(size) for size in tensor.shape[2 if by_token else 1 :])
            yield Note(name, tuple(layers), by_token, shape, str(tensor.dtype).rsplit(".", 1)[-1])


def inputs_of(cached: Cached, rows: int, tokens: int, columns: int) -> list[Any]:
    """What a program takes: ids, positions and the mask of all columns, then a state, where there is one.

    Args:
        columns: W, 0 of a program that reads a prompt.
    """
    given: list[tuple[tuple[int, ...], str, str]] = [
        ((rows, tokens), "int64", "ids"), ((rows, tokens), "int64", "positions"),
        ((rows, columns + tokens), "int64", "mask"),
    ]  # fmt: skip
    state = cached.shapes(rows, columns) if columns else []
    given += [(shape, dtype, f"state_{number}") for number, (shape, dtype) in enumerate(state)]
    return [paddle.static.InputSpec(list(shape), dtype, name) for shape, dtype, name in given]


class Traced(NamedTuple):
    """A program.

    Args:
        program: a `paddle.base.libpaddle.pir.Program`.
        inputs: ids of the values that it is given, in their order.
        outputs: likewise, of what it gives.
        weights: the parameters by the names that it has for them.
    """

    program: Any
    inputs: list[str]
    outputs: list[str]
    weights: dict[str, Tensor]


def traced_decode(model: TracedModel, cached: Cached, rows: int, columns: int) -> Traced:
    """Trace a pass of one token a row behind W columns; the caller is in `as_traced`.

    Whatever model code raises, because it asks for what a tensor holds, is raised.
    """
    program, startup = paddle.static.Program(), paddle.static.Program()
    try:
        with (
            framework._dygraph_guard(None),
            paddle.static.program_guard(program, startup),
            to_static_mode_guard(is_to_static=True),
            static_op_arg_cast_guard(_convert_into_value),
        ):
            specs = inputs_of(cached, rows, 1, columns)
            given = [paddle.static.data(spec.name, spec.shape, spec.dtype) for spec in specs]
            made = model.decode(given[0], given[1], given[2], given[3:])
    finally:
        weights, _ = _global_parameter_recorder.pop(program)
        _global_inplace_map.pop(program)
    inputs, outputs = ([value.id for value in values] for values in (given, made))
    return Traced(program, inputs, outputs, {tensor.name: tensor for tensor in weights})


@contextmanager
def _without_warnings() -> Iterator[None]:
    """Keep Paddle's library from saying of its own Python how it calls operations that are traced."""
    warnings.simplefilter("ignore")  # and that of what a traced tensor has not
    try:
        level = ctypes.c_int.in_dll(ctypes.CDLL(libpaddle.__file__), "_ZN3fLI17FLAGS_minloglevelE")
    except (OSError, ValueError):  # another build has its log elsewhere
        yield
        return
    before, level.value = level.value, max(level.value, 2)
    try:
        yield
    finally:
        level.value = before


@contextmanager
def as_traced(engine: Engine) -> Iterator[None]:
    """Trace the engine's model within this: nothing is trained, and Paddle is told to be quick and quiet about it.

    Into each operation it writes where in Python it was made, and in which layer, of which nothing here makes use:
    three quarters of the time that tracing takes.
    """
    wanted = [(p, p.stop_gradient) for p in engine.layers.parameters()]
    engine.layers.eval()
    mine, usual, struct = threading.get_ident(), traceback.extract_stack, paddle_layers.name_struct

    def extract_stack(*args: Any, **kwargs: Any) -> Any:
        return [] if threading.get_ident() == mine else usual(*args, **kwargs)

    traceback.extract_stack = extract_stack
    paddle_layers.name_struct = lambda *_: nullcontext()
    try:
        with paddle.no_grad(), warnings.catch_warnings(), _without_warnings():
            yield
    finally:
        traceback.extract_stack, paddle_layers.name_struct = usual, struct
        for parameter, stops in wanted:
            parameter.stop_gradient = stops
