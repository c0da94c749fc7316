"""`zoo matrix`: what every installed family can do, and how far that is proved."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence

from zoo_core.capabilities import STRATEGIES, TASKS, Cell
from zoo_core.cli._standings import evidence_lines, standing_table
from zoo_core.cli._text import print_json, table
from zoo_core.cli._words import nothing_left, take_option, take_switch
from zoo_core.errors import UnknownModelError
from zoo_core.matrix import Note, Standing, markdown, notes, standings
from zoo_core.registry import Architecture, registry

__all__ = ["complete", "main"]

_OWN = {"--family": "only this family, a line for each cell", "--markdown": "print Markdown", "--json": "print JSON"}

_HELP = """Usage: zoo matrix [--family NAME] [--markdown|--json]

Show what every installed family can do: a line for each task and strategy, and below the table the reasons.

  verified   recorded tests proved it, and the files that they exercised are unchanged
  stale      recorded tests proved it, and those files changed since
  declared   the plugin says so; what is missing for a proof is below
  refused    a request for it ends before anything starts, with the reason
  n/a        it does not apply to the family
  untested   the plugin says nothing of it

Options:
"""

_WIDTH = 118
_SHORT = {"not applicable": "n/a"}


def complete(words: Sequence[str], incomplete: str) -> dict[str, str]:
    """Return the options."""
    return _OWN


def main(words: Sequence[str], with_traceback: bool) -> int:
    """Print the matrix; return 0.

    Raises:
        UnknownModelError: no plugin is installed, or none has the family.
        PluginError: a plugin's evidence cannot be read.
    """
    wants_help, rest = take_switch(words, "--help", "-h")
    as_json, rest = take_switch(rest, "--json")
    as_markdown, rest = take_switch(rest, "--markdown")
    family, rest = take_option(rest, "--family")
    if wants_help:
        print(_HELP + "\n".join(f"  {name:<12}{text}" for name, text in _OWN.items()))
        return 0
    nothing_left(rest, "matrix", _OWN)
    chosen = [registry().family(family)] if family else list(registry().architectures)
    if not chosen:
        raise UnknownModelError("the matrix is empty", "no plugin is installed, or all are broken", "`zoo plugins`")
    matrix = {architecture: standings(architecture) for architecture in chosen}
    if as_json:
        print_json({"families": {a.family: _cells(row) for a, row in matrix.items()}})
    elif as_markdown:
        print(markdown(matrix))
    elif family:
        print("\n".join([standing_table(matrix[chosen[0]]), *evidence_lines(matrix[chosen[0]])]))
    else:
        print(_text(matrix))
    return 0


def _cells(row: Mapping[str, Standing]) -> dict[str, object]:
    return {cell: one.as_dict() for cell, one in row.items()}


def _text(matrix: Mapping[Architecture, Mapping[str, Standing]]) -> str:
    parts = []
    for some in _fitting(list(matrix)):
        head = ("TASK OR STRATEGY", *(architecture.family for architecture in some))
        columns = [matrix[architecture] for architecture in some]
        rows = [_row(cell, columns) for cell in TASKS] + [[""] * len(head)]
        parts.append(table(head, rows + [_row(cell, columns) for cell in STRATEGIES]))
    said = [line for note in notes(matrix) for line in _said(note)]
    return "\n\n".join([*parts, "\n".join(said)]).rstrip()


def _row(cell: Cell, columns: Sequence[Mapping[str, Standing]]) -> list[str]:
    return [cell.name, *(_SHORT.get(state := column[cell.name].state, state) for column in columns)]


def _fitting(families: Sequence[Architecture]) -> list[list[Architecture]]:
    """As many families side by side as a terminal of 120 columns has room for."""
    first = max(len(cell.name) for cell in (*TASKS, *STRATEGIES))
    found: list[list[Architecture]] = []
    left = 0
    for architecture in families:
        width = 2 + max(len(architecture.family), len("verified"))
        if not found or left < width:
            found.append([])
            left = _WIDTH - first
        found[-1].append(architecture)
        left -= width
    return found


def _said(note: Note) -> list[str]:
    state = _SHORT.get(note.state, note.state)
    whom = ", ".join(note.whom) if note.whom else "every family"
    reason = {"declared": f"missing {note.why}", "stale": f"changed since: {note.why}"}.get(note.state, note.why)
    text = f"{', '.join(note.cells)} ({whom}): {reason}"
    return textwrap.wrap(
        text, _WIDTH, initial_indent=f"{state:<10}", subsequent_indent=" " * 10, break_on_hyphens=False
    )
