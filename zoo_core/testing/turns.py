"""The ranks of a tensor axis as threads of one process that take turns: real collectives, no second process."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import paddle
from paddle import Tensor

from zoo_ops import parallel

__all__ = ["Turns"]

T = TypeVar("T")


class _Stopped(Exception):
    """Another rank failed."""


class _Collectives:
    """What `zoo_ops.parallel` asks of `paddle.distributed`, for ranks that take turns."""

    class ReduceOp:
        SUM, MAX = "sum", "max"

    def __init__(self, turns: Turns) -> None:
        self._turns = turns

    def all_reduce(self, x: Tensor, op: str = "sum", group: Any = None) -> None:
        """Put the sum or the maximum of all ranks' `x` into `x`."""
        each = paddle.stack(self._turns.exchange(x))
        paddle.assign(each.max(0) if op == "max" else each.sum(0), x)

    def all_gather(self, parts: list[Tensor], x: Tensor, group: Any = None) -> None:
        """Append every rank's `x` to `parts`."""
        parts.extend(self._turns.exchange(x))

    def reduce_scatter(self, out: Tensor, x: Tensor, group: Any = None) -> None:
        """Put this rank's part, along dim 0, of the sum of all ranks' `x` into `out`."""
        total = paddle.stack(self._turns.exchange(x)).sum(0)
        paddle.assign(paddle.chunk(total, self._turns.degree)[self._turns.current], out)


class Turns:
    """Run a function as every rank of a tensor axis; one rank runs at a time, until it needs the others.

    Args:
        degree: number of ranks.
        sequence_parallel: activations between blocks are split along the sequence.
    """

    def __init__(self, degree: int, sequence_parallel: bool = False) -> None:
        self.degree, self.current = degree, 0
        self._sequence_parallel = sequence_parallel
        self._baton = threading.Condition()
        self._running = set(range(degree))
        self._rounds: list[dict[int, Tensor]] = []
        self._round = [0] * degree
        self._failure: BaseException | None = None
        self._collectives = _Collectives(self)

    def run(self, work: Callable[[int], T]) -> list[T]:
        """Return what `work(rank)` gives on each rank.

        Raises:
            AssertionError: the ranks do not call the same collectives.
            Exception: what the first rank that failed raised.
        """
        found: dict[int, T] = {}

        def body(rank: int) -> None:
            try:
                self._wait(rank)
                found[rank] = work(rank)
            except _Stopped:
                pass
            except BaseException as error:
                self._failure = self._failure or error
            finally:
                with self._baton:
                    self._running.discard(rank)
                    self._pass_on()

        threads = [threading.Thread(target=body, args=(rank,), daemon=True) for rank in range(self.degree)]
        with self._in_place():
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        if self._failure is not None:
            raise self._failure
        return [found[rank] for rank in range(self.degree)]

    def exchange(self, x: Tensor) -> list[Tensor]:
        """Give this rank's tensor and return every rank's, in order."""
        rank = self.current
        number = self._round[rank]
        self._round[rank] += 1
        if number == len(self._rounds):
            self._rounds.append({})
        self._rounds[number][rank] = x.detach().clone()
        with self._baton:
            self._pass_on()
        self._wait(rank)
        given = self._rounds[number]
        shapes = {tuple(tensor.shape) for tensor in given.values()}
        assert len(given) == self.degree and len(shapes) == 1, (
            f"the ranks do not call the same collectives: at number {number + 1} of rank {rank} the tensors have the "
            f"shapes {sorted(shapes)}, and {self.degree - len(given)} ranks have none"
        )
        return [given[other] for other in range(self.degree)]

    def _pass_on(self) -> None:
        """Hand the baton to the next rank that still runs."""
        for step in range(1, self.degree + 1):
            if (self.current + step) % self.degree in self._running:
                self.current = (self.current + step) % self.degree
                break
        self._baton.notify_all()

    def _wait(self, rank: int) -> None:
        """Wait for this rank's turn, and be that rank."""
        with self._baton:
            self._baton.wait_for(lambda: self.current == rank or self._failure is not None)
        if self._failure is not None:
            raise _Stopped
        axis = parallel.Axis(self.degree, rank, self)
        parallel.configure(axis, self._sequence_parallel, self._collectives.reduce_scatter)

    @contextmanager
    def _in_place(self) -> Iterator[None]:
        """Put these collectives in the place of `paddle.distributed`'s."""
        names = vars(parallel)
        real, names["dist"] = names["dist"], self._collectives
        try:
            yield
        finally:
            names["dist"] = real
            parallel.configure()
