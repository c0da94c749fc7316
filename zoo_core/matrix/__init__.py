"""The capability matrix: what the core itself cannot do yet, what tests have proved, and what follows for each cell."""

from __future__ import annotations

from zoo_core.matrix.check import Fault, faults
from zoo_core.matrix.documents import family_markdown, markdown
from zoo_core.matrix.evidence import Record
from zoo_core.matrix.limits import LIMITS, lacking
from zoo_core.matrix.reasons import Note, notes
from zoo_core.matrix.sources import SOURCES
from zoo_core.matrix.standing import Standing, State, standings

__all__ = [
    "LIMITS",
    "SOURCES",
    "Fault",
    "Note",
    "Record",
    "Standing",
    "State",
    "family_markdown",
    "faults",
    "lacking",
    "markdown",
    "notes",
    "standings",
]
