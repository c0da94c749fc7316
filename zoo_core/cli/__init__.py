"""The command line: `main` parses, runs one command, and turns every failure into a message and an exit status."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence

from zoo_core.cli._commands import COMMANDS, overview

__all__ = ["main"]

_HELP: tuple[list[str], ...] = ([], ["--help"], ["-h"], ["help"])
_TRACEBACK = "--traceback"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status.

    0 is success; 2 is a failure that the user can cure, said in three lines; 1 is a bug; 130 is an interrupt.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    completing = "_ZOO_COMPLETE" in os.environ
    if words in _HELP and not completing:
        print(overview())
        return 0
    # Imported here so that help needs none of it, and click (which takes as long to load as all the rest) only by the
    # commands that declare options to it.
    from zoo_core.cli._failures import guarded

    with_traceback = _TRACEBACK in words
    words = [word for word in words if word != _TRACEBACK]
    entry = COMMANDS.get(words[0]) if words else None
    if entry is not None and entry.direct and not completing:
        module = importlib.import_module(entry.module)
        return guarded(lambda: int(module.main(words[1:], with_traceback)), with_traceback)
    from zoo_core.cli._app import run

    return guarded(lambda: run(words), with_traceback)
