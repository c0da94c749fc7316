"""Where declarations, evidence and what the core can do contradict each other."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from zoo_core.capabilities import CELLS
from zoo_core.matrix.evidence import FILE, Record, read
from zoo_core.matrix.limits import lacking
from zoo_core.registry import Architecture

__all__ = ["Fault", "faults"]


@dataclass(frozen=True)
class Fault:
    """What is wrong with a cell of a family, and what to do about it."""

    family: str
    cell: str
    what: str
    todo: str

    def __str__(self) -> str:
        return f"{self.family}: {self.cell}: {self.what}; {self.todo}"


def faults(architecture: Architecture, records: Mapping[str, Record] | None = None) -> list[Fault]:
    """Return every cell whose declaration and evidence disagree, or that says too little.

    Args:
        records: evidence by cell instead of the plugin's file.

    Raises:
        PluginError: the plugin's evidence cannot be read.
    """
    found = read(architecture.folder) if records is None else records
    family = architecture.family
    return [Fault(family, cell, *said) for cell in CELLS if (said := _fault(architecture, cell, found.get(cell)))]


def _fault(architecture: Architecture, cell: str, record: Record | None) -> tuple[str, str] | None:
    support = architecture.capabilities.support(cell)
    if support is None:
        said = f"nothing is declared, and {record.test} proved it" if record else "nothing is declared"
        return said, "declare it, refuse it with a reason, or say that it does not apply"
    if record is None:
        if support.state == "declared" and not support.why and not lacking(cell):
            todo = "record a test that proves it (pytest --zoo-record), or say what is missing: Support(..., why)"
            return f"declared, and {FILE} has no test that proved it", todo
        return None
    if support.state != "declared":
        return f"{support.state}, and {record.test} proved it", "declare it, or correct the test"
    if lacking(cell):
        return f"{lacking(cell)}, and {record.test} proved it", "take its line out of zoo_core.matrix.LIMITS"
    if support.why:
        return f"still said to lack: {support.why}; {record.test} proved it", "declare it without that"
    if record.tier < CELLS[cell].tier:
        return f"proved by a test of {record.tier}, and needs {CELLS[cell].tier}", "record a test of that tier"
    return None
