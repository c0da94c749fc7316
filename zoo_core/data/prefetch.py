"""Reading ahead in a thread, so that a cold page of a corpus does not hold up a step."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from typing import TypeVar

__all__ = ["prefetched"]

T = TypeVar("T")
_END = object()


def prefetched(items: Iterator[T], ahead: int) -> Iterator[T]:
    """Yield what `items` yields, up to `ahead` of them made beforehand by a thread; 0 makes none.

    An error of `items` is raised where its item would have been. Closing the iterator ends the thread.
    """
    if ahead < 1:
        yield from items
        return
    ready: queue.Queue[tuple[object, BaseException | None]] = queue.Queue(ahead)
    stopped = threading.Event()

    def put(item: object, error: BaseException | None = None) -> bool:
        while not stopped.is_set():
            try:
                ready.put((item, error), timeout=0.1)
                return True
            except queue.Full:
                continue
        return False

    def work() -> None:
        try:
            for item in items:
                if not put(item):
                    return
            put(_END)
        except BaseException as error:  # handed to the reader, whatever it is
            put(_END, error)

    threading.Thread(target=work, name="zoo-prefetch", daemon=True).start()
    try:
        while True:
            item, error = ready.get()
            if error is not None:
                raise error
            if item is _END:
                return
            yield item  # type: ignore[misc]
    finally:
        stopped.set()
