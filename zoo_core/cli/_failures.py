"""One handler for every failure: a message for people, an exit status for programs."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable

from zoo_core.errors import ZooError

__all__ = ["UsageFailure", "guarded"]


class UsageFailure(ZooError):
    """The words of a command line do not make sense."""


def guarded(action: Callable[[], int], with_traceback: bool) -> int:
    """Run `action` and return its exit status, or that of its failure after saying what it was."""
    try:
        status = action()
        sys.stdout.flush()
        return status
    except ZooError as error:
        return _failed(error, str(error), 2, with_traceback)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader went away (`zoo models | head`): nothing is left to say, not even by the interpreter's last flush.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 141
    except Exception as error:
        text = f"{type(error).__name__}: {' '.join(str(error).split())}"
        hint = "" if with_traceback else "; --traceback shows where"
        lines = f"{text}\n  why: this is a bug in zoo or in a plugin\n  do:  report it{hint}"
        return _failed(error, lines, 1, with_traceback)


def _failed(error: BaseException, text: str, status: int, with_traceback: bool) -> int:
    sys.stdout.flush()
    if with_traceback:
        traceback.print_exception(error)
    label = "\x1b[1;31merror:\x1b[0m" if sys.stderr.isatty() and "NO_COLOR" not in os.environ else "error:"
    print(f"{label} {text}", file=sys.stderr)
    return status
