"""The queue before the model: bounded, in order within an adapter, fair between adapters. No paddle, no HTTP."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping

from zoo_core.serve.jobs import Job

__all__ = ["Waiting"]


class Waiting:
    """Jobs that wait, in the order in which they came."""

    def __init__(self) -> None:
        self._queues: dict[str, deque[Job]] = {}

    def __len__(self) -> int:
        return sum(map(len, self._queues.values()))

    def __iter__(self) -> Iterator[Job]:
        for queue in self._queues.values():
            yield from queue

    def put(self, job: Job) -> None:
        """Append a job."""
        self._queues.setdefault(job.adapter, deque()).append(job)

    def remove(self, job: Job) -> bool:
        """Take a job out; say whether it was here."""
        queue = self._queues.get(job.adapter, deque())
        if job not in queue:
            return False
        queue.remove(job)
        self._forget(job.adapter)
        return True

    def next(self, running: Mapping[str, int]) -> Job:
        """Take the job whose turn it is: of the adapter with the fewest rows `running`, the one that came first.

        So an adapter with a thousand jobs waiting does not keep another's single one from the model.

        Raises:
            IndexError: nobody waits.
        """
        if not self._queues:
            raise IndexError("nobody waits")
        adapter = min(self._queues, key=lambda name: (running.get(name, 0), self._queues[name][0].arrived))
        job = self._queues[adapter].popleft()
        self._forget(adapter)
        return job

    def _forget(self, adapter: str) -> None:
        if not self._queues[adapter]:
            del self._queues[adapter]
