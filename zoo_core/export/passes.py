"""The passes of an exported model, as a pool of rows takes them.

Shape legend: B rows of the decode programs, b rows in use, S tokens of a pass, K columns so far, W columns of a window,
V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import paddle
from paddle import Tensor

from zoo_core.errors import ConfigError
from zoo_core.export.programs import Programs
from zoo_core.export.spec import Exported

__all__ = ["StaticCache", "StaticPasses"]

Array = np.ndarray[Any, Any]


class StaticCache:
    """What the rows so far have left in the model, as the next decode program takes it.

    The columns that are kept are the last ones, so hidden columns on the left are only counted.

    Args:
        spec: of the exported model.
    """

    def __init__(self, spec: Exported) -> None:
        self.rows = self.length = 0
        self.state: list[Tensor] = []
        self._spec = spec

    def keep(self, order: Sequence[int]) -> None:
        """Let row i be what row `order[i]` is now; rows that are not named are gone, and one may be named twice."""
        if not order:
            self.rows = self.length = 0
            self.state = []
        elif list(order) != list(range(self.rows)):
            index = paddle.to_tensor(list(order), dtype="int64")
            self.state = [paddle.gather(tensor, index) for tensor in self.state]
        self.rows = len(order)

    def shift(self, columns: int) -> None:
        """Move all columns to the right, or, below 0, to the left."""
        self.length += columns

    def join(self, other: StaticCache) -> None:
        """Append the rows of another cache, ending at the same column."""
        if not self.rows:
            self.rows, self.length, self.state = other.rows, other.length, other.state
            return
        window = max(self.window, other.window)
        self.fit(self.rows, window)
        other.fit(other.rows, window)
        self.state = [paddle.concat(pair) for pair in zip(self.state, other.state, strict=True)]
        self.rows += other.rows

    @property
    def window(self) -> int:
        """Columns that are kept."""
        return int(self.state[0].shape[1]) if self.state else 0

    def fit(self, rows: int, window: int) -> None:
        """Hold so many rows, those beyond `rows` empty, of so many columns, the last ones."""
        for number, tensor in enumerate(self.state):
            if self._spec.has_columns(number) and tensor.shape[1] > window:
                tensor = tensor[:, -window:]
            elif self._spec.has_columns(number) and tensor.shape[1] < window:
                missing = [tensor.shape[0], window - tensor.shape[1], *tensor.shape[2:]]
                tensor = paddle.concat([paddle.zeros(missing, dtype=tensor.dtype), tensor], axis=1)
            if tensor.shape[0] > rows:
                tensor = tensor[:rows]
            elif tensor.shape[0] < rows:
                missing = [rows - tensor.shape[0], *tensor.shape[1:]]
                tensor = paddle.concat([tensor, paddle.zeros(missing, dtype=tensor.dtype)])
            self.state[number] = tensor


class StaticPasses:
    """The programs of an exported model, see `zoo_core.generate.pool.Passes`.

    A prompt is read by itself, whatever rows come with it; a pass over single tokens is one over B rows, the rows that
    nobody has included.

    Args:
        programs: how they are run.
        spec: what they are.
    """

    reads_prompt_at_once = True

    def __init__(self, programs: Programs, spec: Exported) -> None:
        self._programs, self._spec = programs, spec

    def cache(self, rows: int, room: int) -> StaticCache:
        """Return an empty cache.

        Raises:
            ConfigError: the model was exported for fewer rows, or for shorter ones.
        """
        self._check(rows, room)
        return StaticCache(self._spec)

    def reorder(self, cache: StaticCache, order: Sequence[int]) -> None:
        """Let row i of a cache go on from what row `order[i]` is now: one step of beam search.

        Raises:
            ConfigError: the model was exported for fewer rows.
        """
        self._check(len(order), 0)
        cache.keep(order)

    def _check(self, rows: int, room: int) -> None:
        spec = self._spec
        if rows > spec.batch_size or room > spec.max_length:
            raise ConfigError(
                f"{rows} rows{f' of {room} tokens' if room else ''}",
                f"the model was exported for {spec.batch_size} of {spec.max_length}",
                "export it with a larger --batch_size or --max_length",
            )

    def read(self, cache: StaticCache, ids_bS: Array, mask_bK: Array | None, positions_bS: Array) -> Array:
        """Read tokens that follow those in the cache; returns the logits after the last column, float32 [b, V].

        Raises:
            ValueError: several tokens follow those in the cache, or more columns are in use than there is room for.
        """
        if cache.length == 0:
            return self._read_prompts(cache, ids_bS, mask_bK, positions_bS)
        if ids_bS.shape[1] != 1:
            raise ValueError(f"{ids_bS.shape[1]} tokens at once behind a prompt; an exported model takes one")
        return self._read_tokens(cache, ids_bS, mask_bK, positions_bS)

    def _read_prompts(self, cache: StaticCache, ids_bS: Array, mask_bS: Array | None, positions_bS: Array) -> Array:
        logits, states, spec = [], [], self._spec
        for row, ids_S in enumerate(ids_bS):
            real = len(ids_S) if mask_bS is None else max(1, int(mask_bS[row].sum()))
            size = _fitting(spec.prefill, real)
            left = size - real
            inputs = [
                np.concatenate([np.zeros(left, np.int64), values[len(values) - real :]])[None]
                for values in (ids_S, positions_bS[row], np.ones(len(ids_S), np.int64))
            ]
            out = self._programs.run(f"prefill_{size}", [paddle.to_tensor(values) for values in inputs])
            logits.append(out[0].numpy())
            states.append(out[1:])
        window = max(int(state[0].shape[1]) for state in states)
        rows = []
        for state in states:
            one = StaticCache(spec)
            one.rows, one.length, one.state = 1, window, state
            one.fit(1, window)
            rows.append(one.state)
        cache.state = rows[0] if len(rows) == 1 else [paddle.concat(parts) for parts in zip(*rows, strict=True)]
        cache.rows, cache.length = len(rows), int(ids_bS.shape[1])
        return np.concatenate(logits)

    def _read_tokens(self, cache: StaticCache, ids_b1: Array, mask_bK: Array | None, positions_b1: Array) -> Array:
        spec, b = self._spec, len(ids_b1)
        mask_bK = np.ones((b, cache.length + 1), np.int64) if mask_bK is None else mask_bK
        used = int(mask_bK.argmax(axis=1).min())
        # The program gives back as many columns as it takes, and the new one is among them.
        window = _fitting(spec.decode, mask_bK.shape[1] - used)
        cache.fit(spec.batch_size, window)
        mask_BW = np.zeros((spec.batch_size, window + 1), np.int64)
        columns = min(mask_bK.shape[1], window + 1)
        mask_BW[:b, -columns:] = mask_bK[:, -columns:]
        ids_B1, positions_B1 = np.zeros((spec.batch_size, 1), np.int64), np.zeros((spec.batch_size, 1), np.int64)
        ids_B1[:b], positions_B1[:b] = ids_b1, positions_b1
        inputs = [paddle.to_tensor(values) for values in (ids_B1, positions_B1, mask_BW)]
        out = self._programs.run(f"decode_{window}", [*inputs, *cache.state])
        changed = iter(out[1:])
        for number in range(len(cache.state)):
            if spec.has_columns(number):
                cache.state[number] = next(changed)
        cache.length += 1
        return np.asarray(out[0].numpy()[:b])


def _fitting(sizes: Sequence[int], wanted: int) -> int:
    """The smallest size that is enough.

    Raises:
        ValueError: none is.
    """
    for size in sizes:
        if size >= wanted:
            return size
    raise ValueError(f"{wanted} columns, and the model was exported for {sizes[-1]}")
