"""The cells of one family or model, a line each."""

from __future__ import annotations

from collections.abc import Mapping

from zoo_core.cli._text import table
from zoo_core.matrix import Standing

__all__ = ["evidence_lines", "standing_table"]


def _shown(one: Standing) -> str:
    if one.record is not None:
        tests = "1 test" if one.record.tests == 1 else f"{one.record.tests} tests"
        said = f"{one.record.tier}, {one.record.date}, {tests}: {one.record.test}"
        return f"{said}; changed since: {', '.join(one.changed)}" if one.changed else said
    if one.state == "declared":
        return f"missing {one.why}"
    return f"{one.why} ({one.owner})" if one.owner else one.why


def standing_table(row: Mapping[str, Standing]) -> str:
    """Return a table of cells with their states, and where each comes from or why it is so."""
    rows = [(cell, one.state, _shown(one)) for cell, one in row.items()]
    return table(("TASK OR STRATEGY", "STATE", "SHOWN BY, OR WHY"), rows)


def evidence_lines(row: Mapping[str, Standing]) -> list[str]:
    """Return what the evidence was recorded with, a line for each set of versions."""
    records = [one.record for one in row.values() if one.record is not None]
    sets = sorted({(record.device, tuple(sorted(record.versions.items()))) for record in records})
    return [
        f"recorded on {device} with {', '.join(f'{name} {version}' for name, version in versions)}"
        for device, versions in sets
    ]
