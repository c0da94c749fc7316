"""Saving beside training: one piece of work at a time in a thread, whose failure waits until somebody asks."""

from __future__ import annotations

import threading
from collections.abc import Callable

__all__ = ["Background"]


class Background:
    """Runs work in a thread, one piece after the other.

    The thread does not keep the process alive: a process that is ended at once leaves what a kill would leave.
    """

    def __init__(self) -> None:
        self._thread: threading.Thread | None = None
        self._failure: BaseException | None = None

    @property
    def busy(self) -> bool:
        """Whether work is going on."""
        return self._thread is not None and self._thread.is_alive()

    @property
    def failed(self) -> bool:
        """Whether the last work ended with an exception that `wait` has not raised yet."""
        return self._failure is not None

    def start(self, work: Callable[[], object]) -> None:
        """Begin `work` and return; waits for what is going on.

        Raises:
            BaseException: what the work before ended with; `work` is then not begun.
        """
        self.wait()
        self._thread = threading.Thread(target=self._run, args=(work,), name="zoo-save", daemon=True)
        self._thread.start()

    def _run(self, work: Callable[[], object]) -> None:
        try:
            work()
        except BaseException as error:
            self._failure = error

    def wait(self) -> None:
        """Wait for the end of what is going on.

        Raises:
            BaseException: what it ended with, once.
        """
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure
