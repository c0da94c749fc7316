"""Rows that decode together while others join and leave: continuous batching (Yu et al. 2022, Orca). No paddle.

All rows end at the same column of one cache; a mask hides what a shorter row has on its left. New rows are read in a
cache of their own, in pieces, one piece between two passes of the running rows, and their entries are then copied
beside those of the others. A row's text does not depend on the rows beside it: it has draws of its own, and what it
sees is its own tokens. One exception is the family's: dynamic rope scaling takes its base from the longest row, beyond
the trained context.

Shape legend: B rows, S tokens of a pass, K tokens so far, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from zoo_core.errors import ConfigError
from zoo_core.generate.chooser import Chooser
from zoo_core.generate.rules import Row, Rules, Step

__all__ = ["Passes", "Pool", "RowCache"]

Array = np.ndarray[Any, Any]

_SLACK = 64
"""Columns that no row uses before they are given back; below, moving the others costs more than reading them."""


class RowCache(Protocol):
    """What a pool does with a cache; `zoo_ops.Cache` is one."""

    def keep(self, order: Sequence[int]) -> None:
        """Let row i be what row `order[i]` >= i is now; the others are gone."""

    def shift(self, columns: int) -> None:
        """Move all columns to the right, or, below 0, to the left."""

    def join(self, other: Any) -> None:
        """Append the rows of another cache, ending at the same column."""


class Passes(Protocol):
    """A model that reads tokens into a cache."""

    reads_prompt_at_once: bool
    """Whether a prompt has to be read in one pass."""

    def cache(self, rows: int, room: int) -> Any:
        """Return an empty `RowCache` for so many rows of so many tokens."""

    def read(self, cache: Any, ids_BS: Array, mask_BK: Array | None, positions_BS: Array) -> Array:
        """Read tokens that follow those in the cache, and return the logits [B, V] after the last column.

        Args:
            ids_BS: int64.
            mask_BK: int64, 1 for what is real of all columns, these included; `None` where all is.
            positions_BS: int64.
        """


@dataclass
class _Running:
    """A row that has been read."""

    ticket: int
    chooser: Chooser
    length: int
    token: int


@dataclass
class _Joining:
    """Rows that are being read, with a cache of their own."""

    rows: list[tuple[int, Row, Rules]]
    cache: Any
    ids_BS: Array
    mask_BS: Array
    done: int = 0
    gone: set[int] = field(default_factory=set)


class Pool:
    """Rows in flight over one model; not to be used by two threads at once.

    Args:
        passes: the model.
        slots: most rows at a time.
        room: most tokens of a row, prompt and answer.
        chunk: about as many tokens of prompts are read between two passes of the running rows.
    """

    def __init__(self, passes: Passes, slots: int, room: int, chunk: int = 512) -> None:
        if slots < 1 or room < 2 or chunk < 1:
            raise ValueError(f"a pool of {slots} slots of {room} tokens, read {chunk} at a time")
        self.slots, self.room = slots, room
        self._passes, self._chunk = passes, chunk
        self._waiting: list[tuple[int, Row, Rules]] = []
        self._joining: _Joining | None = None
        self._running: list[_Running] = []
        self._dropped: set[int] = set()
        self._cache: Any = None
        self._columns = 0
        self._tickets = 0

    @property
    def free(self) -> int:
        """Slots nobody has."""
        joining = len(self._joining.rows) - len(self._joining.gone) if self._joining is not None else 0
        return self.slots - len(self._waiting) - joining - len(self._running) + len(self._dropped)

    def add(self, row: Row, rules: Rules) -> int:
        """Let a row join with the next steps; returns its ticket.

        Raises:
            ValueError: no slot is free, the prompt is empty, no token is asked for, or there is no room for them all.
        """
        need = len(row.ids) + row.max_new_tokens
        if not self.free:
            raise ValueError(f"all {self.slots} slots are taken")
        if not row.ids or row.max_new_tokens < 1:
            raise ValueError("a row has a prompt of at least one token, and at least one new token")
        if need > self.room:
            raise ValueError(f"a row of {need} tokens, prompt and answer, and room for {self.room}")
        self._tickets += 1
        self._waiting.append((self._tickets, row, rules))
        return self._tickets

    def drop(self, ticket: int) -> None:
        """Let a row leave at once; one that has left already is no error."""
        self._waiting = [entry for entry in self._waiting if entry[0] != ticket]
        if self._joining is not None and any(ticket == own for own, _, _ in self._joining.rows):
            self._joining.gone.add(ticket)
        if any(ticket == row.ticket for row in self._running):
            self._dropped.add(ticket)

    def step(self) -> dict[int, Step]:
        """Make one pass over the running rows, and read one piece of new prompts; returns what rows got, by ticket.

        A row whose step has a `finish` has left. Of a row whose prompt is still being read there is nothing.
        """
        if self._dropped:
            self._leave(self._dropped)
        found = self._decode() if self._running else {}
        return found | self._read_piece()

    def _read_piece(self) -> dict[int, Step]:
        """Read a piece of the prompts that join; when all is read, choose their first tokens and let them in."""
        if self._joining is None and self._waiting:
            self._joining, self._waiting = self._begin(self._waiting), []
        joining = self._joining
        if joining is None:
            return {}
        total, rows = joining.ids_BS.shape[1], len(joining.rows)
        columns = total if self._passes.reads_prompt_at_once else max(1, self._chunk // rows)
        start, stop = joining.done, min(total, joining.done + columns)
        positions_BK = np.maximum(joining.mask_BS.cumsum(axis=1) - 1, 0)
        mask_BK = joining.mask_BS[:, :stop]
        logits_BV = self._passes.read(
            joining.cache,
            joining.ids_BS[:, start:stop],
            None if mask_BK.all() else mask_BK,
            positions_BK[:, start:stop],
        )
        joining.done = stop
        if stop < total:
            return {}
        self._joining = None
        return self._let_in(joining, logits_BV)

    def _begin(self, rows: list[tuple[int, Row, Rules]]) -> _Joining:
        total = max(len(row.ids) for _, row, _ in rows)
        ids_BS = np.zeros((len(rows), total), np.int64)
        mask_BS = np.zeros((len(rows), total), np.int64)
        for at, (_, row, rules) in enumerate(rows):
            ids_BS[at, : total - len(row.ids)] = rules.filler
            ids_BS[at, total - len(row.ids) :] = row.ids
            mask_BS[at, total - len(row.ids) :] = 1
        return _Joining(rows, self._passes.cache(len(rows), total), ids_BS, mask_BS)

    def _let_in(self, joining: _Joining, logits_BV: Array) -> dict[int, Step]:
        found: dict[int, Step] = {}
        entering: list[_Running] = []
        kept: list[int] = []
        for at, (ticket, row, rules) in enumerate(joining.rows):
            if ticket in joining.gone:
                continue
            chooser = Chooser(row, rules)
            found[ticket] = step = _chosen(chooser, logits_BV[at])
            if not step.finish and step.token is not None:
                kept.append(at)
                entering.append(_Running(ticket, chooser, len(row.ids), step.token))
        if not entering:
            return found
        if len(kept) < len(joining.rows):
            joining.cache.keep(kept)
        if self._cache is None:
            self._cache = self._passes.cache(self.slots, self.room)
        self._give_back()
        longest = max(row.length for row in entering)
        joining.cache.shift(longest - joining.done)
        if longest > self._columns:
            if self._running:
                self._cache.shift(longest - self._columns)
            self._columns = longest
        self._cache.join(joining.cache)
        self._running += entering
        return found

    def _leave(self, tickets: set[int]) -> None:
        """Let rows leave; those at the end take the places of those that left."""
        order = list(range(len(self._running)))
        while any(self._running[at].ticket in tickets for at in order):
            at = next(at for at, place in enumerate(order) if self._running[place].ticket in tickets)
            last = order.pop()
            if at < len(order):
                order[at] = last
        self._cache.keep(order)
        self._running = [self._running[at] for at in order]
        self._columns = self._columns if order else 0
        self._dropped -= tickets

    def _give_back(self, at_least: int = _SLACK) -> None:
        """Forget the first columns, if no row uses them and they are many."""
        unused = self._columns - max((row.length for row in self._running), default=0)
        if self._running and unused >= at_least:
            self._cache.shift(-unused)
            self._columns -= unused

    def _decode(self) -> dict[int, Step]:
        self._give_back(_SLACK if self._columns < self.room else 1)
        running, columns = self._running, self._columns + 1
        self._columns = columns
        lengths_B1 = np.asarray([[row.length] for row in running], np.int64)
        mask_BK = None
        if int(lengths_B1.min()) + 1 < columns:
            mask_BK = (np.arange(columns)[None] >= columns - 1 - lengths_B1).astype(np.int64)
        ids_B1 = np.asarray([[row.token] for row in running], np.int64)
        logits_BV = self._passes.read(self._cache, ids_B1, mask_BK, lengths_B1)
        found: dict[int, Step] = {}
        ended: set[int] = set()
        for row, logits_V in zip(running, logits_BV, strict=True):
            found[row.ticket] = step = _chosen(row.chooser, logits_V)
            row.length += 1
            if step.finish or step.token is None:
                ended.add(row.ticket)
            else:
                row.token = step.token
        if ended:
            self._leave(ended)
        return found


def _chosen(chooser: Chooser, logits_V: Array) -> Step:
    """The row's next step; logits that are no numbers end this row alone."""
    try:
        return chooser.next(logits_V)
    except ConfigError:
        return Step(None, "error")
