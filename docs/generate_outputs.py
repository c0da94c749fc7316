"""What commands print, in the pages: a `console` block after `<!-- run -->` is run again, and its output put under it.

`<!-- run 8 -->` keeps the first 8 lines and `<!-- run 3+4 -->` the first 3 and the last 4, with `...` for the rest.
Commands run in a folder that holds the argument files of `tests/user-configs`, without paddle being needed.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import shlex
import shutil
import tempfile
from functools import cache
from pathlib import Path

from zoo_core.cli import main

__all__ = ["with_outputs"]

ROOT = Path(__file__).parents[1]

_BLOCK = re.compile(
    r"(<!-- run ?(\d*)(?:\+(\d+))? -->\n+```console\n)\$ (.*?)\n(?:.*?\n)??```$", re.DOTALL | re.MULTILINE
)


@cache
def _folder() -> tempfile.TemporaryDirectory[str]:
    folder = tempfile.TemporaryDirectory(prefix="zoo-docs-")
    for path in sorted((ROOT / "tests" / "user-configs").glob("*/*")):
        shutil.copy(path, folder.name)
    return folder


@cache
def _output(line: str) -> list[str]:
    """What a command prints, on either stream; run in this process, because a dozen interpreters take their time."""
    name, *words = shlex.split(line)
    assert name == "zoo", line
    said, where, home = io.StringIO(), os.getcwd(), os.environ.pop("ZOO_HOME", None)
    os.chdir(_folder().name)
    try:
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            status = main(words)
    finally:
        os.chdir(where)
        if home is not None:
            os.environ["ZOO_HOME"] = home
    assert status in (0, 2), f"{line}\n{said.getvalue()}"
    return [line.rstrip() for line in said.getvalue().rstrip().splitlines()]


def _shown(found: re.Match[str]) -> str:
    head, first, last, line = found.groups()
    lines = _output(line)
    if first and len(lines) > int(first) + int(last or 0) + 1:
        lines = [*lines[: int(first)], "...", *lines[len(lines) - int(last or 0) :]]
    return "\n".join([f"{head}$ {line}", *lines, "```"])


def with_outputs(text: str) -> str:
    """Return a page with the output of its commands made anew."""
    return _BLOCK.sub(_shown, text)
