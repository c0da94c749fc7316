"""The cells of one family or model, a line each."""

from __future__ import annotations

import shutil
import sys
import textwrap
from collections.abc import Mapping

from zoo_core.cli._text import table
from zoo_core.matrix import Standing

__all__ = ["evidence_lines", "standing_table"]

_NARROW = 24  # columns that a reason has at least, however narrow the terminal


def _shown(one: Standing) -> str:
    if one.record is not None:
        tests = "1 test" if one.record.tests == 1 else f"{one.record.tests} tests"
        said = f"{one.record.tier}, {one.record.date}, {tests}: {one.record.test}"
        return f"{said}; changed since: {', '.join(one.changed)}" if one.changed else said
    if one.state == "declared":
        return f"missing {one.why}"
    return f"{one.why} ({one.owner})" if one.owner else one.why


def _wrapped(cell: str, state: str, said: str, width: int) -> list[tuple[str, str, str]]:
    # the name of a test stays whole, to be copied
    first, *more = textwrap.wrap(said, width, break_on_hyphens=False, break_long_words=False) or [""]
    return [(cell, state, first), *(("", "", line) for line in more)]


def standing_table(row: Mapping[str, Standing]) -> str:
    """Return a table of cells with their states, and where each comes from or why it is so, as wide as a terminal.

    Lines into a file or a pipe stay whole: one for each cell.
    """
    rows: list[tuple[str, str, str]] = [(cell, one.state, _shown(one)) for cell, one in row.items()]
    if sys.stdout.isatty() and rows:
        taken = sum(max(len(one[column]) for one in rows) + 2 for column in (0, 1))
        width = max(shutil.get_terminal_size().columns - taken, _NARROW)
        rows = [line for one in rows for line in _wrapped(*one, width)]
    return table(("TASK OR STRATEGY", "STATE", "SHOWN BY, OR WHY"), rows)


def evidence_lines(row: Mapping[str, Standing]) -> list[str]:
    """Return what the evidence was recorded with, a line for each set of versions."""
    records = [one.record for one in row.values() if one.record is not None]
    sets = sorted({(record.device, tuple(sorted(record.versions.items()))) for record in records})
    return [
        f"recorded on {device} with {', '.join(f'{name} {version}' for name, version in versions)}"
        for device, versions in sets
    ]
