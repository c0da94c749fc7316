"""One thread owns the model: jobs wait, join the rows that run, and get an event for what they are given.

Each turn lets go of who has left, takes in who waits, and makes one pass over the rows of each adapter in turn
(Yu et al., "Orca", 2022: scheduling by iteration, not by request). No paddle, no HTTP: tests run it with a fake.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from zoo_core.serve.jobs import Event, Failure, Job, Rows, Score, Watch, Worker
from zoo_core.serve.waiting import Waiting

if TYPE_CHECKING:
    from zoo_core.generate.rules import Step

__all__ = ["Draining", "Full", "Scheduler"]

_LOG = logging.getLogger("zoo.serve")
_IDLE_SECONDS = 60.0
"""Rows of an adapter that nobody has asked for so long give their cache back, while others run."""


class Full(Exception):
    """No more jobs may wait.

    Args:
        retry_after: seconds after which it is worth another try.
    """

    def __init__(self, retry_after: int) -> None:
        super().__init__(f"try again in {retry_after} s")
        self.retry_after = retry_after


class Draining(Exception):
    """The server takes no new jobs: it is about to end."""


@dataclass
class _Running:
    job: Job
    joined: float
    last: float
    tokens: int = 0
    pieces: list[str] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)


@dataclass
class _Group:
    """The rows of one adapter."""

    rows: Rows
    running: dict[int, _Running] = field(default_factory=dict)
    used: float = 0.0


class Scheduler:
    """Takes jobs from any thread and runs them on one.

    Args:
        make: builds the model; called on the thread that will own it.
        max_batch: most rows that run at a time, over all adapters.
        max_queue: most jobs that wait beside those that run.
        watch: told of tokens and ends.
        clock: seconds.
    """

    def __init__(
        self,
        make: Callable[[], Worker],
        max_batch: int,
        max_queue: int,
        watch: Watch | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._make, self._watch, self.clock = make, watch, clock
        self.max_batch, self.max_queue = max_batch, max_queue
        self._changed = threading.Condition()
        self._waiting, self._groups = Waiting(), dict[str, _Group]()
        self._worker: Worker | None = None
        self._running = 0
        self._seconds = 1.0  # a running mean of how long a row runs
        self._draining = self._stopping = False
        self._thread = threading.Thread(target=self._run, name="zoo-model", daemon=True)
        self._failed: BaseException | None = None
        self._ready = threading.Event()

    @property
    def waiting(self) -> int:
        """How many jobs wait."""
        return len(self._waiting)

    @property
    def running(self) -> int:
        """How many jobs run."""
        return self._running

    @property
    def alive(self) -> bool:
        """Whether the thread that owns the model lives."""
        return self._thread.is_alive()

    def start(self) -> None:
        """Build the model and begin; raises what building it raised."""
        self._thread.start()
        self._ready.wait()
        if self._failed is not None:
            raise self._failed

    def submit(self, jobs: Sequence[Job]) -> None:
        """Take in all of these jobs, or none.

        Raises:
            Full: there is no place for so many.
            Draining: the server is about to end.
        """
        with self._changed:
            if self._draining or self._stopping:
                raise Draining("the server is shutting down")
            waiting = len(self._waiting)
            if waiting + self._running + len(jobs) > self.max_batch + self.max_queue:
                raise Full(min(60, max(1, math.ceil(self._seconds * (waiting + len(jobs)) / self.max_batch))))
            now = self.clock()
            for job in jobs:
                job.arrived = now
                self._waiting.put(job)
            self._changed.notify_all()

    def cancel(self, job: Job) -> None:
        """Give a job up: one that waits leaves at once, one that runs before the next pass. Twice does no harm."""
        with self._changed:
            if job.cancelled:
                return
            job.cancelled = True
            if self._waiting.remove(job):
                self._changed.notify_all()
                self._ended(job, 0, "cancelled")

    def drain(self) -> None:
        """Take no new jobs; those that wait or run go on."""
        with self._changed:
            self._draining = True

    def wait_idle(self, seconds: float) -> bool:
        """Wait until nothing waits or runs; say whether that came within so many seconds."""
        with self._changed:
            return self._changed.wait_for(lambda: not (self._waiting or self._running), seconds)

    def stop(self, seconds: float = 10.0) -> bool:
        """End: what waits or runs fails after the present pass. Say whether the thread ended within so many seconds."""
        with self._changed:
            self._draining = self._stopping = True
            self._changed.notify_all()
        if self._thread.is_alive():
            self._thread.join(seconds)
        return not self._thread.is_alive()

    def _run(self) -> None:
        try:
            self._worker = self._make()
        except BaseException as error:
            self._failed = error
            return
        finally:
            self._ready.set()
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._running or self._stopping)
                if self._stopping:
                    break
            self.turn(self._worker)
        self._fail_all(Failure("stopped", "the server was stopped before the answer was complete"))

    def turn(self, worker: Worker) -> None:
        """Let rows go, take rows in, make one pass for each adapter that has rows."""
        self._let_go()
        joining = self._admitted()
        for name in [*dict.fromkeys([*self._groups, *joining])]:
            group, jobs = self._groups.get(name), joining.get(name, [])
            if jobs or (group is not None and group.running):
                self._pass(worker, name, jobs)
        now = self.clock()
        if self._running:
            for name in [n for n, g in self._groups.items() if not g.running and now - g.used > _IDLE_SECONDS]:
                del self._groups[name]
        # Who came first last time comes last next time.
        if len(self._groups) > 1:
            first = next(iter(self._groups))
            self._groups[first] = self._groups.pop(first)
        self._count()

    def _let_go(self) -> None:
        """Let go of the cancelled and the late."""
        now = self.clock()
        late = Failure("timeout", "the answer took longer than the server allows (--request_timeout)")
        with self._changed:
            expired = [job for job in self._waiting if job.deadline <= now]
            for job in expired:
                self._waiting.remove(job)
        for job in expired:
            self._deliver(job, Event(failure=late), 0, "timeout")
        for group in self._groups.values():
            for ticket, one in list(group.running.items()):
                if one.job.cancelled or one.job.deadline <= now:
                    group.rows.drop(ticket)
                    del group.running[ticket]
                    if one.job.cancelled:
                        self._ended(one.job, one.tokens, "cancelled")
                    else:
                        self._deliver(one.job, Event(failure=late), one.tokens, "timeout")

    def _admitted(self) -> dict[str, list[Job]]:
        """Take in whom there is room for, by adapter."""
        running = {name: len(group.running) for name, group in self._groups.items()}
        joining: dict[str, list[Job]] = {}
        with self._changed:
            while self._waiting and sum(running.values()) < self.max_batch:
                job = self._waiting.next(running)
                running[job.adapter] = running.get(job.adapter, 0) + 1
                joining.setdefault(job.adapter, []).append(job)
            self._running = sum(running.values())
        return joining

    def _count(self) -> None:
        with self._changed:
            self._running = sum(len(group.running) for group in self._groups.values())
            self._changed.notify_all()

    def _pass(self, worker: Worker, name: str, joining: Sequence[Job]) -> None:
        """Make one pass over an adapter's rows. An error in the model is theirs alone: the server goes on."""
        pending = list(joining)
        try:
            worker.use(name)
            pending = self._scored(worker, pending)
            group = self._groups.get(name)
            if group is None and pending:
                group = self._groups[name] = _Group(worker.pool())
            if group is None:
                return
            for job in list(pending):
                now = self.clock()
                group.running[group.rows.add(job.row, job.rules)] = _Running(job, now, now)
                pending.remove(job)
            for ticket, step in group.rows.step().items() if group.running else ():
                self._give(group, ticket, step)
            group.used = self.clock()
        except Exception as error:
            _LOG.exception("the model failed")
            failure = Failure("model", f"the model failed: {type(error).__name__}; the server's log says more")
            # What the rows hold after a failure nobody knows: the next one gets new ones.
            broken = self._groups.pop(name, None)
            for one in broken.running.values() if broken else ():
                self._deliver(one.job, Event(failure=failure), one.tokens, "model")
            for job in pending:
                self._deliver(job, Event(failure=failure), 0, "model")

    def _scored(self, worker: Worker, jobs: list[Job]) -> list[Job]:
        """Score the prompts of those who ask for it; return the jobs that want new tokens."""
        asking = [job for job in jobs if job.score_top is not None]
        if asking:
            top = max(job.score_top or 0 for job in asking)
            for job, found in zip(asking, worker.scores([job.row.ids for job in asking], top), strict=True):
                scores = [Score(one.logprob, one.top[: job.score_top]) for one in found]
                if job.row.max_new_tokens:
                    self._deliver(job, Event(prompt=tuple(scores)))
                else:
                    jobs.remove(job)
                    self._deliver(job, Event(prompt=tuple(scores), finish="length"), 0, "length")
        return jobs

    def _give(self, group: _Group, ticket: int, step: Step) -> None:
        """Give a row what a pass brought it."""
        one = group.running.get(ticket)
        if one is None:
            return
        finish: str = step.finish
        if step.token is not None or step.logprob is not None:
            one.steps.append(step)  # that of an end token, too, for who asks how likely it was
        if step.token is not None:
            now = self.clock()
            if self._watch is not None:
                if one.tokens:
                    self._watch.following(now - one.last)
                else:
                    self._watch.first(now - one.job.arrived)
            one.last, one.tokens = now, one.tokens + 1
            one.pieces.append(one.job.text.add(step.token))
            if one.job.text.stopped and not finish:
                group.rows.drop(ticket)
            finish = "stop" if one.job.text.stopped else finish
        if finish:
            one.pieces.append(one.job.text.end())
            del group.running[ticket]
            self._seconds += 0.1 * (self.clock() - one.joined - self._seconds)
        text = "".join(one.pieces)
        if finish == "error":
            failure = Failure("model", "the model's logits are not numbers")
            self._deliver(one.job, Event(failure=failure), one.tokens, "model")
        elif finish or (one.job.stream and text):
            event = Event(text, tuple(one.steps), finish)
            one.pieces, one.steps = [], []
            self._deliver(one.job, event, one.tokens, finish)

    def _fail_all(self, failure: Failure) -> None:
        with self._changed:
            left = list(self._waiting)
            for job in left:
                self._waiting.remove(job)
        for job in left:
            self._deliver(job, Event(failure=failure), 0, failure.kind)
        for group in self._groups.values():
            for one in group.running.values():
                self._deliver(one.job, Event(failure=failure), one.tokens, failure.kind)
            group.running.clear()
        self._count()

    def _deliver(self, job: Job, event: Event, tokens: int = 0, how: str = "") -> None:
        if not job.cancelled:
            try:
                job.deliver(event)
            except Exception:
                # Who is to hear it is gone: the loop of a server that ends is closed.
                job.cancelled = True
        if how:
            self._ended(job, tokens, how)

    def _ended(self, job: Job, tokens: int, how: str) -> None:
        if self._watch is not None:
            self._watch.ended(job, tokens, how)
