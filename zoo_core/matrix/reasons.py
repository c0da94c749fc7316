"""What is to be said below a table of standings: each reason once, with the families and models it holds for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import get_args

from zoo_core.matrix.standing import Standing, State, standings
from zoo_core.registry import Architecture

__all__ = ["Note", "notes"]


@dataclass(frozen=True)
class Note:
    """Why cells stand as they do.

    Args:
        state: how they stand.
        cells: their names.
        whom: families, and named models that differ from theirs; empty is every family.
        why: the reason; of stale cells, what changed.
        owner: "zoo-core", or "" for the plugins themselves.
    """

    state: State
    cells: tuple[str, ...]
    whom: tuple[str, ...]
    why: str
    owner: str = ""


def notes(matrix: Mapping[Architecture, Mapping[str, Standing]]) -> list[Note]:
    """Return what to say of cells that are not verified: by state, then in the matrix's order, a reason once."""
    reasons: dict[tuple[State, str, str], dict[str, list[str]]] = {}
    for architecture, row in matrix.items():
        for whom, cells in [(architecture.family, row), *_models(architecture, row)]:
            for cell, one in cells.items():
                if one.state != "verified":
                    owner = "zoo-core" if one.owner == "zoo-core" else ""
                    why = ", ".join(one.changed) if one.state == "stale" else one.why
                    reasons.setdefault((one.state, why, owner), {}).setdefault(cell, []).append(whom)
    found: dict[tuple[State, str, str, tuple[str, ...]], list[str]] = {}
    for (state, why, owner), cells_of in reasons.items():
        for cell, whom_list in cells_of.items():
            found.setdefault((state, why, owner, tuple(whom_list)), []).append(cell)
    every = tuple(architecture.family for architecture in matrix)
    made = [
        Note(state, tuple(cells), () if whom == every and len(every) > 1 else whom, why, owner)
        for (state, why, owner, whom), cells in found.items()
    ]
    return sorted(made, key=lambda note: get_args(State).index(note.state))


def _models(architecture: Architecture, row: Mapping[str, Standing]) -> list[tuple[str, dict[str, Standing]]]:
    """The named models that differ from their family, with the cells in which they do."""
    found = []
    for entry in architecture.capabilities.models:
        if entry.cells:
            own = standings(architecture, entry.name)
            found.append((entry.name, {cell: own[cell] for cell in entry.cells if own[cell] != row[cell]}))
    return found
