"""How a cell of a family stands: what the plugin says, what the core lacks and what tests recorded, together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from zoo_core.capabilities import CELLS
from zoo_core.matrix.evidence import Record, read
from zoo_core.matrix.limits import lacking
from zoo_core.matrix.sources import digests
from zoo_core.registry import Architecture

__all__ = ["Standing", "State", "standings"]

State = Literal["verified", "stale", "declared", "refused", "not applicable", "untested"]


@dataclass(frozen=True)
class Standing:
    """A cell of the matrix.

    Args:
        cell: its name.
        state: "verified": proved by `record`; "stale": proved before the sources in `changed` did change;
            "declared": what is missing for a proof is in `why`; "refused" and "not applicable": the reason is; or
            "untested".
        why: see `state`.
        owner: who refuses: "zoo-core", or the plugin's package.
        record: the evidence.
        changed: groups of `zoo_core.matrix.SOURCES` that differ from those that were recorded.
    """

    cell: str
    state: State
    why: str = ""
    owner: str = ""
    record: Record | None = None
    changed: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """Return it for JSON; what is empty is left out."""
        found: dict[str, Any] = {"state": self.state, "why": self.why, "owner": self.owner, "changed": self.changed}
        if self.record is not None:
            found["evidence"] = {name: value for name, value in vars(self.record).items() if name != "cell"}
        return {name: value for name, value in found.items() if value}


def standings(
    architecture: Architecture,
    model: str = "",
    records: Mapping[str, Record] | None = None,
    as_recorded: bool = False,
) -> dict[str, Standing]:
    """Return how every cell stands, in the matrix's order.

    Args:
        model: a named model, whose cells may differ from the family's.
        records: evidence by cell instead of the plugin's file.
        as_recorded: take the sources for unchanged, as committed documents do: they say what was recorded, so that an
            edit of the engine does not make them differ.

    Raises:
        PluginError: the plugin's evidence cannot be read.
    """
    found = read(architecture.folder) if records is None else records
    return {cell: _standing(architecture, cell, model, found.get(cell), as_recorded) for cell in CELLS}


def _standing(architecture: Architecture, cell: str, model: str, record: Record | None, as_recorded: bool) -> Standing:
    support = architecture.capabilities.support(cell, model)
    package = architecture.distribution or architecture.name
    if support is not None and support.state != "declared":
        return Standing(cell, support.state, support.why, package)
    lacks = lacking(cell)
    if lacks:
        return Standing(cell, "refused", lacks, "zoo-core")
    if support is None:
        return Standing(cell, "untested", "the plugin says nothing of it", package)
    if record is None:
        return Standing(cell, "declared", support.why or "a recorded run")
    changed = () if as_recorded else record.changed(digests(cell, architecture.folder))
    return Standing(cell, "stale" if changed else "verified", record=record, changed=changed)
