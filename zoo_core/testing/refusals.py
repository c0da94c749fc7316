"""T0: what the matrix says is so: declarations agree with evidence, and what is refused does refuse."""

from __future__ import annotations

from collections.abc import Mapping

from zoo_core.capabilities import CELLS, ModelEntry
from zoo_core.matrix import Fault, Record, faults, lacking
from zoo_core.plan import ModelFacts, asking_for, facts, judge
from zoo_core.registry import Architecture

__all__ = ["check_matrix", "faults_of"]

_OWNED = ("the core has it", "the family supports it")


def check_matrix(architecture: Architecture) -> None:
    """Check every cell of a family; see `faults_of`."""
    found = faults_of(architecture)
    assert not found, "\n".join(map(str, found))


def faults_of(architecture: Architecture, records: Mapping[str, Record] | None = None) -> list[Fault]:
    """Return what is wrong with a family's cells: `zoo_core.matrix.faults`, and refusals that do not refuse.

    A cell that is refused or does not apply must be refused by the planner, in the name of the core or of the plugin,
    for every named model that it holds for. Flash attention that does not apply is a switch without effect, and legal.

    Args:
        records: evidence by cell instead of the plugin's file.
    """
    found = faults(architecture, records)
    wrong = {fault.cell for fault in found}
    differing = [entry for entry in architecture.capabilities.models if entry.cells]
    models = [_small(architecture, entry) for entry in (*architecture.capabilities.models[:1], *differing)]
    for cell in CELLS:
        said = next((why for model in models if (why := _loose(architecture, cell, model))), "")
        if said and cell not in wrong:
            todo = "declare it, or correct the planner's request for it (zoo_core.plan.asking_for)"
            found.append(Fault(architecture.family, cell, said, todo))
    return found


def _small(architecture: Architecture, entry: ModelEntry) -> ModelFacts:
    """A named model at scale tiny where there is one, with blocks enough for every request."""
    tiny = architecture.capabilities.scales.get("tiny", {})
    return facts(architecture, entry.config.replace(**{**tiny, "num_hidden_layers": 8}), entry.name)


def _loose(architecture: Architecture, cell: str, model: ModelFacts) -> str:
    """Why a cell does not stand as the planner judges it; empty when it does."""
    support = architecture.capabilities.support(cell, model.name)
    state = support.state if support else "untested"
    refuses = bool(lacking(cell)) or state == "refused" or (state == "not applicable" and cell != "flash_attention")
    request = asking_for(cell)
    owned = [verdict.why for verdict in judge(request, model) if verdict.rule.name in _OWNED and verdict.why]
    if refuses and not any(_names(why, architecture.family, cell) for why in owned):
        said = "refused by the core" if lacking(cell) else state
        return f"{said}, and the planner takes {request} for {model.name}"
    if not refuses and owned:
        return f"{state}, and the planner refuses it: {owned[0]}"
    return ""


def _names(why: str, family: str, cell: str) -> bool:
    return why == lacking(cell) or f"{family} refuses {cell}: " in why or f"{family} has no {cell}: " in why
