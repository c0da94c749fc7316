"""Keys and values of the tokens so far, one preallocated buffer a layer.

All rows end at the same column: a row with fewer tokens has columns on its left that are hidden by the batch's
`attention_mask`. So rows may join and leave while others go on (continuous batching), and no model code knows it.

Shape legend: B rows in use, S new tokens, K tokens so far, M kv heads (of this rank), D head width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import paddle

from zoo_ops.cpu.rows import is_plain, view

if TYPE_CHECKING:
    import numpy as np
    from paddle import Tensor

__all__ = ["Cache", "LayerCache"]


class LayerCache:
    """The keys and values of one layer.

    Args:
        batch_size: rows there is room for.
        max_length: tokens there is room for.

    `length` is the number of columns so far, `first_length` that of the first call, the prompt or its first piece.
    What else a model keeps, by name: `notes` are tensors whose first dim is the row (ChatGLM keeps where a prompt
    ended), and of `token_notes` the second dim is the column (GLM keeps the tokens themselves).
    """

    def __init__(self, batch_size: int, max_length: int) -> None:
        self.length = 0
        self.first_length = 0
        self.rows = 0
        self.notes: dict[str, Tensor] = {}
        self.token_notes: dict[str, Tensor] = {}
        self._room = (batch_size, max_length)
        self._k: Tensor | None = None
        self._v: Tensor | None = None

    def update(self, k_BSMD: Tensor, v_BSMD: Tensor) -> tuple[Tensor, Tensor]:
        """Append, and return all keys and values, [B, K, M, D]; `length` grows by S.

        The first call says how many rows there are. The buffers are made by it, so they have the heads and the type of
        this rank's projections. Gradients do not flow through the cache.

        Raises:
            ValueError: more rows than there is room for, or other than there are, or no room is left.
        """
        batch_size, max_length = self._room
        rows, new = k_BSMD.shape[:2]
        if self.length == 0:
            self.first_length = new
            self.rows = min(rows, batch_size)
        if rows != self.rows:
            raise ValueError(f"a cache for {self.rows} samples was given {rows}")
        end = self.length + new
        if end > max_length:
            raise ValueError(f"a cache for {max_length} tokens has no room for {end}")
        with paddle.no_grad():
            k, v = self._buffers(k_BSMD, v_BSMD)
            if is_plain(k, v, k_BSMD, v_BSMD):
                view(k)[:rows, self.length : end] = view(k_BSMD)
                view(v)[:rows, self.length : end] = view(v_BSMD)
            else:
                k[:rows, self.length : end] = k_BSMD
                v[:rows, self.length : end] = v_BSMD
            self.length = end
            return k[:rows, :end], v[:rows, :end]

    def first_row(self) -> tuple[np.ndarray, np.ndarray]:
        """Keys and values of the first row, [max_length, M, D], where they lie: float32 on CPU, once there are any.

        The views do not keep the buffers alive.
        """
        assert self._k is not None and self._v is not None
        return view(self._k)[0], view(self._v)[0]

    def truncate(self, length: int) -> None:
        """Forget all but the first `length` tokens."""
        self.length = min(self.length, length)
        self.token_notes = {name: note[:, : self.length] for name, note in self.token_notes.items()}

    def reorder(self, index_B: Tensor) -> None:
        """Let row i continue what row `index_B[i]` (integer) has said: one step of beam search.

        There may be more rows after it than before, or fewer.

        Raises:
            ValueError: there is no room for so many rows.
        """
        rows = int(index_B.shape[0])
        if rows > self._room[0]:
            raise ValueError(f"a cache for {self._room[0]} samples was given {rows}")
        with paddle.no_grad():
            if self._k is not None and self._v is not None:
                # Whole rows, unused ones and columns too: to write parts in place takes twenty times as long.
                unused = paddle.zeros([self._room[0] - rows], dtype=index_B.dtype)
                every = paddle.concat([index_B, unused]) if rows < self._room[0] else index_B
                self._k, self._v = paddle.gather(self._k, every), paddle.gather(self._v, every)
            self._gather_notes(index_B)
        self.rows = rows

    def keep(self, order: Sequence[int]) -> None:
        """Let row i be what row `order[i]` is now; rows that are not named are gone.

        Args:
            order: `order[i]` is i or above, so that rows are moved in place.
        """
        moves = [(to, row) for to, row in enumerate(order) if to != row]
        with paddle.no_grad():
            if self._k is not None and self._v is not None:
                for to, row in moves:
                    for buffer in (self._k, self._v):
                        buffer[to, : self.length] = buffer[row, : self.length].clone()
            if order and (moves or len(order) != self.rows):
                self._gather_notes(paddle.to_tensor(list(order), dtype="int64"))
        self.rows = len(order)
        if not order:
            self.length = self.first_length = 0
            self.notes, self.token_notes = {}, {}

    def shift(self, columns: int) -> None:
        """Move all columns to the right, which leaves hidden ones on the left; or, below 0, forget the first ones.

        Raises:
            ValueError: there is no room for as many.
        """
        length = self.length + columns
        if not 0 <= length <= self._room[1]:
            raise ValueError(f"a cache of {self._room[1]} columns, {self.length} of them in use, moves by {columns}")
        if not columns:
            return
        source, target = slice(max(-columns, 0), self.length), slice(max(columns, 0), length)
        if columns > 0:
            source = slice(0, self.length)
        with paddle.no_grad():
            for buffer in (self._k, self._v):
                if buffer is not None:
                    buffer[: self.rows, target] = buffer[: self.rows, source].clone()
            self.token_notes = {name: _moved(note, columns) for name, note in self.token_notes.items()}
        self.length, self.first_length = length, min(self.first_length, length)

    def join(self, other: LayerCache) -> None:
        """Append the rows of another cache, of no more columns than this one has, unless this one is empty.

        Raises:
            ValueError: there is no room for them.
        """
        rows = self.rows + other.rows
        if rows > self._room[0] or other.length > (self.length if self.rows else self._room[1]):
            raise ValueError(
                f"{other.rows} rows of {other.length} columns join {self.rows} of {self.length}, of {self._room}"
            )
        if not self.rows:
            self.length = other.length
        self.first_length = max(self.first_length, other.first_length)
        start = self.length - other.length
        with paddle.no_grad():
            if other._k is not None and other._v is not None:
                mine = self._buffers(other._k, other._v)
                for buffer, joining in zip(mine, (other._k, other._v), strict=True):
                    # What was there before is hidden, but a NaN would show through: 0 times it is no 0.
                    buffer[self.rows : rows, :start] = 0.0
                    buffer[self.rows : rows, start : self.length] = joining[: other.rows, : other.length]
            self.notes = _joined(self.notes, other.notes)
            self.token_notes = _joined(
                self.token_notes, {name: _moved(note, start) for name, note in other.token_notes.items()}
            )
        self.rows = rows

    def _buffers(self, like_k: Tensor, like_v: Tensor) -> tuple[Tensor, Tensor]:
        if self._k is None or self._v is None:
            self._k = paddle.zeros([*self._room, *like_k.shape[2:]], dtype=like_k.dtype)
            self._v = paddle.zeros([*self._room, *like_v.shape[2:]], dtype=like_v.dtype)
        return self._k, self._v

    def _gather_notes(self, index_B: Tensor) -> None:
        self.notes = {name: paddle.gather(note, index_B) for name, note in self.notes.items()}
        self.token_notes = {name: paddle.gather(note, index_B) for name, note in self.token_notes.items()}


def _moved(note_BK: Tensor, columns: int) -> Tensor:
    """The note of as many more columns on the left, zeros, or without the first ones."""
    if columns <= 0:
        return note_BK[:, -columns:]
    front = paddle.zeros([note_BK.shape[0], columns, *note_BK.shape[2:]], dtype=note_BK.dtype)
    return paddle.concat([front, note_BK], axis=1)


def _joined(mine: dict[str, Tensor], other: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: paddle.concat([mine[name], note]) if name in mine else note for name, note in other.items()}


class Cache:
    """The caches of all layers; `cache[i]` is that of layer i.

    Args:
        num_layers: layers of the model (of this stage).
        batch_size: rows there is room for.
        max_length: tokens there is room for, prompt included.

    `moves` counts what has been done to it but appending: as long as it is the same, what was there still is.
    """

    def __init__(self, num_layers: int, batch_size: int, max_length: int) -> None:
        self.batch_size, self.max_length, self.moves = batch_size, max_length, 0
        self._layers = [LayerCache(batch_size, max_length) for _ in range(num_layers)]

    def __len__(self) -> int:
        return len(self._layers)

    def __getitem__(self, layer: int) -> LayerCache:
        return self._layers[layer]

    @property
    def length(self) -> int:
        """Tokens so far; to be read before the layers of a step run, for they advance one after the other."""
        return max((layer.length for layer in self._layers), default=0)

    @property
    def rows(self) -> int:
        """Rows in use."""
        return max((layer.rows for layer in self._layers), default=0)

    def truncate(self, length: int) -> None:
        """Forget all but the first `length` tokens, in every layer."""
        self.moves += 1
        for layer in self._layers:
            layer.truncate(length)

    def reorder(self, index_B: Tensor) -> None:
        """Let row i continue what row `index_B[i]` has said, in every layer; see `LayerCache.reorder`."""
        self.moves += 1
        for layer in self._layers:
            layer.reorder(index_B)

    def keep(self, order: Sequence[int]) -> None:
        """Let row i be what row `order[i]` is now, in every layer; see `LayerCache.keep`."""
        self.moves += 1
        for layer in self._layers:
            layer.keep(order)

    def shift(self, columns: int) -> None:
        """Move all columns, in every layer; see `LayerCache.shift`."""
        self.moves += 1
        for layer in self._layers:
            layer.shift(columns)

    def join(self, other: Cache) -> None:
        """Append the rows of another cache, in every layer; see `LayerCache.join`."""
        self.moves += 1
        for layer, joining in zip(self._layers, other._layers, strict=True):
            layer.join(joining)
