"""Passes of one token over one row, replayed: the ordinary way to continue a text on CPU.

The engine's cache stays what all else takes it for: the keys and values of each replayed token are written into it. A
program has a copy of the columns that it reads, right-aligned as it was traced, and that copy is made anew whenever the
cache is not as the last replayed pass left it. Of a width there is one copy, whatever adapters take turns; those of all
widths together are twice as large as that of the widest.

Shape legend: W columns of a window, K columns so far with this pass's, V vocabulary.
"""

from __future__ import annotations

import logging
import threading
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import paddle

from zoo_core.engine.batches import MicroBatch
from zoo_core.engine.engine import Engine
from zoo_core.replay.cached import Cached, sizes_up_to
from zoo_core.replay.program import Array, Replay
from zoo_core.replay.tracing import TracedModel, as_traced, cached_of, traced_decode
from zoo_ops import Cache
from zoo_ops.cpu.threads import array

__all__ = ["BEFORE", "OneRow", "one_row"]

_log = logging.getLogger("zoo")

BEFORE = 32
"""Passes of one row before programs are made: making one takes as long as so many replayed passes save, so that
whoever asks for a few tokens does not wait for it, and nobody loses more than he would have won."""

_SLACK = 15
"""Columns by which a window moves on before its columns are moved back: a pass in `_SLACK` + 1 pays for it."""

_LEAST = 128
"""Columns of the narrowest window."""

_TOLERANCE = 1e-4
"""How far a logit of a new program's first pass may be off, as a part of the largest one (or of 1)."""


class _Window:
    """A program of W columns, with what it has of a row.

    Args:
        replay: the program; columns have `_SLACK` where they can.
        cached: what the model caches.
    """

    def __init__(self, replay: Replay, cached: Cached) -> None:
        self._replay, self._cached = replay, cached
        self._ids, self._positions, self._mask = replay.inputs[:3]
        self._width, self._used, self._offset = self._mask.shape[1] - 1, 0, 0
        self._state, changed = replay.inputs[3:], iter(replay.outputs[1:])
        self._grown = {number: next(changed) for number in range(len(self._state)) if cached.has_columns(number)}
        self._wide = {number - 3: buffer[0] for number, buffer in replay.buffers.items() if number - 3 in self._grown}
        self._kept: list[Array] = []

    def fill(self, cache: Cache, start: int) -> None:
        """Take over the columns of the cache's only row from `start` on."""
        held = [part for layer in range(len(cache)) for part in cache[layer].first_row()]
        self._kept = list(held)
        for note in self._cached.notes:
            layer = cache[note.layers[0]]
            held.append(array((layer.token_notes if note.by_token else layer.notes)[note.name])[0])
        self._used, self._offset = cache[0].length - start, 0
        first = self._width - self._used
        for number, (place, own) in enumerate(zip(self._state, held, strict=True)):
            if number in self._grown:
                place[0, :first] = 0
                place[0, first:] = own[start : start + self._used]
            else:
                place[0] = own
        self._mask[0] = np.arange(self._width + 1) >= first

    def move_on(self) -> None:
        """Count the newest column among those that are read."""
        self._offset = (self._offset + 1) % (_SLACK + 1)
        for buffer in () if self._offset else self._wide.values():
            buffer[: self._width] = buffer[_SLACK + 1 :].copy()
        for number in self._grown.keys() - self._wide.keys():
            self._state[number][0] = self._grown[number][0].copy()
        self._used += 1
        self._mask[0, self._width - self._used] = 1

    def compute(self, fields: MicroBatch) -> Array:
        """Read a token; returns the logits [1, V]."""
        np.copyto(self._ids, fields["input_ids"])
        np.copyto(self._positions, fields["position_ids"])
        self._replay.compute(self._offset)
        return self._replay.outputs[0].copy()

    def write_back(self, cache: Cache) -> None:
        """Append to the cache what the pass has made of the token."""
        at, entries = cache[0].length, len(self._kept)
        for number, kept in enumerate(self._kept):
            kept[at] = self._newest(number)
        for layer in range(len(cache)):
            cache[layer].length = at + 1
        for number, note in enumerate(self._cached.notes):
            if note.by_token:
                new = paddle.to_tensor(self._newest(entries + number)[None, None])
                grown = paddle.concat([cache[note.layers[0]].token_notes[note.name], new], axis=1)
                for layer in note.layers:
                    cache[layer].token_notes[note.name] = grown

    def _newest(self, number: int) -> Array:
        """The column that the pass has made of something cached."""
        if number in self._wide:
            return self._wide[number][self._offset + self._width]
        return np.asarray(self._grown[number][0, -1])


class OneRow:
    """The programs of an engine, made when they are first worth it.

    Its weights do not change, except that `in_use` says which adapter there is.

    Args:
        engine: on one process, plain.
        context: tokens of the longest text: a window is no wider, or the model would take a text for a longer one.
        in_use: names the adapter in use.
        before: passes that are made without them, at first.

    `replayed` counts the passes that were.
    """

    def __init__(self, engine: Engine, context: int, in_use: Callable[[], str], before: int = BEFORE) -> None:
        self._engine, self._in_use, self._left, self.replayed = engine, in_use, before, 0
        self._sizes = [size for size in sizes_up_to(context - 1, _LEAST) if size > 0]
        self._windows: dict[tuple[str, int], _Window] = {}
        self._shared: dict[str, Array] = {}
        self._cached: Cached | None = None
        self._now: tuple[Any, ...] = ()
        self._alone = threading.Lock()

    def next_logits(self, fields: MicroBatch, cache: Cache) -> Array:
        """Read one token of one row, see `Engine.next_logits`."""
        with self._alone:
            return self._next_logits(fields, cache)

    def _next_logits(self, fields: MicroBatch, cache: Cache) -> Array:
        mask_1K, length = fields.get("attention_mask"), cache.length
        start = 0 if mask_1K is None else int(mask_1K[0].argmax())
        fits = cache.rows == 1 and 0 < length < cache.max_length and (mask_1K is None or bool(mask_1K[0, start:].all()))
        size = next((size for size in self._sizes if size >= length - start), None) if fits else None
        if size is None or self._left > 0:
            self._left -= 1
            return self._engine.next_logits(fields, cache)
        key = (self._in_use(), size)
        if key not in self._windows:
            return self._first(key, fields, cache, start)
        window = self._windows[key]
        if self._now == (key, weakref.ref(cache), cache.moves, length, start):
            window.move_on()
        else:
            window.fill(cache, start)
        found_1V = window.compute(fields)
        window.write_back(cache)
        self._now = (key, weakref.ref(cache), cache.moves, length + 1, start)
        self.replayed += 1
        return found_1V

    def _first(self, key: tuple[str, int], fields: MicroBatch, cache: Cache, start: int) -> Array:
        """Make a program, and compare its first pass with the model's; without one, wider ones are not tried either."""
        found_1V: Array | None = None
        try:
            window = self._windows[key] = self._made(key[1])
            window.fill(cache, start)
            found_1V, why = window.compute(fields), "its logits are others"
        except MemoryError:
            raise
        except Exception as error:  # model code may raise anything when it meets no numbers
            why = f"{type(error).__name__}: {error}"
        wanted_1V = self._engine.next_logits(fields, cache)
        if found_1V is None or not _near(found_1V, wanted_1V):
            _log.info("windows of %d tokens are not replayed by numpy: %s", key[1], why)
            self._windows.pop(key, None)
            self._sizes = [size for size in self._sizes if size < key[1]]
        return wanted_1V

    def _made(self, columns: int) -> _Window:
        if self._cached is None:
            self._cached = cached_of(self._engine)
        with as_traced(self._engine):
            traced = traced_decode(TracedModel(self._engine, self._cached), self._cached, 1, columns)
        return _Window(Replay(*traced, self._shared, slack=_SLACK), self._cached)


def _near(found: Array, wanted: Array) -> bool:
    return bool(np.abs(found - wanted).max() <= _TOLERANCE * max(1.0, float(np.abs(wanted).max())))


def one_row(engine: Engine, context: int, in_use: Callable[[], str]) -> OneRow | None:
    """Return what replays this engine's passes, see `OneRow`; `None` where it cannot."""
    plan = engine.mesh.plan
    is_whole = plan.tensor == plan.pipeline == plan.expert == 1
    has_numbers = engine.config.quantization_config is None  # integers would become numbers once for all, in memory
    return OneRow(engine, context, in_use) if engine.is_plain and is_whole and has_numbers else None
