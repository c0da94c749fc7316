"""The jobs of one request: their events on the server's loop, and their end when the client has gone."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from typing import Any, TypeVar

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from zoo_core.serve.answers import DONE, Answer, sse
from zoo_core.serve.jobs import Event, Job
from zoo_core.serve.refusals import Refusal, of_failure
from zoo_core.serve.scheduler import Scheduler

__all__ = ["Call", "EventStream", "unless_gone"]

T = TypeVar("T")


class Call:
    """The jobs of one request.

    Args:
        scheduler: that runs them.
    """

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler
        self._loop = asyncio.get_running_loop()
        self._events: asyncio.Queue[tuple[int, Event]] = asyncio.Queue()
        self.jobs: list[Job] = []

    def deliver(self, index: int) -> Callable[[Event], None]:
        """Return what the job of this index calls, from its own thread."""

        def put(event: Event) -> None:
            self._loop.call_soon_threadsafe(self._events.put_nowait, (index, event))

        return put

    def submit(self, jobs: Sequence[Job]) -> None:
        """Let the jobs wait for the model; raises as `Scheduler.submit`."""
        self._scheduler.submit(jobs)
        self.jobs = list(jobs)

    def cancel(self) -> None:
        """Give up what has not ended."""
        for job in self.jobs:
            self._scheduler.cancel(job)

    async def events(self) -> AsyncIterator[tuple[int, Event]]:
        """Yield the events of all jobs as they come, until each has ended.

        Raises:
            Refusal: a job failed.
        """
        left = len(self.jobs)
        while left:
            index, event = await self._events.get()
            if event.failure is not None:
                raise of_failure(event.failure)
            left -= bool(event.finish)
            yield index, event

    async def whole(self) -> list[list[Event]]:
        """Return all events of each job; raises as `events`."""
        found: list[list[Event]] = [[] for _ in self.jobs]
        async for index, event in self.events():
            found[index].append(event)
        return found


async def unless_gone(receive: Receive, work: Coroutine[Any, Any, T]) -> T | None:
    """Return what `work` gives, or `None`, with the work cancelled, if the client goes away before."""
    task, gone = asyncio.ensure_future(work), asyncio.ensure_future(_gone(receive))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        return task.result() if task.done() else None
    finally:
        for one in (task, gone):
            one.cancel()
        await asyncio.gather(task, gone, return_exceptions=True)


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


class EventStream(Response):
    """An answer as server-sent events. Its first event is there before it begins, so that a failure can have a status.

    Args:
        call: whose events they are.
        answer: that writes them.
        first: the first event.
        rest: the others.
    """

    media_type = "text/event-stream"

    def __init__(
        self, call: Call, answer: Answer, first: tuple[int, Event], rest: AsyncIterator[tuple[int, Event]]
    ) -> None:
        self.status_code, self.background = 200, None
        self._call, self._answer, self._first, self._rest = call, answer, first, rest
        # No proxy is to keep pieces back until there are many.
        self.init_headers({"cache-control": "no-cache", "x-accel-buffering": "no"})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the events; give the jobs up when the client has gone."""
        try:
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            await unless_gone(receive, self._write(send))
        except OSError:
            pass  # the client went away between two events
        finally:
            self._call.cancel()

    async def _write(self, send: Send) -> None:
        async def put(pieces: Sequence[bytes]) -> None:
            if pieces:
                await send({"type": "http.response.body", "body": b"".join(pieces), "more_body": True})

        try:
            await put([*self._answer.begin(), *self._answer.chunks(*self._first)])
            async for index, event in self._rest:
                await put(self._answer.chunks(index, event))
            await put(self._answer.end())
        except Refusal as refusal:
            await put([sse(refusal.body), DONE])
        await send({"type": "http.response.body", "body": b"", "more_body": False})
