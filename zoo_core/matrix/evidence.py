"""What tests have proved: the records beside a plugin, in `evidence.json` of its package.

`pytest --zoo-record` writes them; see `zoo_core.testing.plugin`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from zoo_core._atomic import written_beside
from zoo_core.capabilities import CELLS
from zoo_core.errors import PluginError

__all__ = ["FILE", "Record", "merged", "read", "write"]

FILE = "evidence.json"
_FORMAT = 1


@dataclass(frozen=True)
class Record:
    """That a cell of a family was proved.

    Args:
        cell: a name of `zoo_core.capabilities.CELLS`.
        tier: the highest tier of the tests that passed.
        test: one of them, by pytest's id.
        tests: how many there were.
        models: the named models that they ran, where they said so.
        date: the day, UTC: 2026-01-31.
        device: "cpu" or "gpu".
        versions: of paddle and zoo-core.
        sources: digest of each group of files that the cell exercises (`zoo_core.matrix.sources`).
    """

    cell: str
    tier: str
    test: str
    tests: int
    date: str
    device: str
    versions: Mapping[str, str]
    sources: Mapping[str, str]
    models: tuple[str, ...] = field(default=())

    def changed(self, now: Mapping[str, str]) -> tuple[str, ...]:
        """Return the groups of files that differ from those of today; none means that the record is fresh."""
        return tuple(room for room in {**self.sources, **now} if self.sources.get(room) != now.get(room))


def read(folder: Path | None) -> dict[str, Record]:
    """Return the records of the plugin package in `folder` by cell; none where there is no file.

    Raises:
        PluginError: the file is damaged or of another format.
    """
    path = folder / FILE if folder else None
    if path is None or not path.is_file():
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if found["format"] != _FORMAT:
            raise ValueError(f"its format is {found['format']!r}, and this zoo-core reads {_FORMAT}")
        return {cell: _record(cell, value) for cell, value in found["cells"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        why = f"{type(error).__name__}: {error}"
        raise PluginError(f"cannot read {path}", why, "restore it, or record it anew: pytest --zoo-record") from error


def _record(cell: str, value: Mapping[str, Any]) -> Record:
    return Record(cell, **{**value, "models": tuple(value.get("models", ()))})


def write(folder: Path, records: Mapping[str, Record]) -> None:
    """Write the records in the order of the matrix, one a line, whole or not at all; without any, remove the file."""
    path = folder / FILE
    if not records:
        path.unlink(missing_ok=True)
        return
    lines = []
    for cell in sorted(records, key=list(CELLS).index):
        value = asdict(records[cell])
        del value["cell"]
        if not value["models"]:
            del value["models"]
        lines.append(f"    {json.dumps(cell)}: {json.dumps(value, ensure_ascii=False)}")
    text = f'{{\n  "format": {_FORMAT},\n  "cells": {{\n' + ",\n".join(lines) + "\n  }\n}\n"
    with written_beside(path) as stream:
        stream.write(text.encode())


def merged(
    old: Mapping[str, Record], passed: Iterable[Record], failed: Iterable[str], now: Mapping[str, Mapping[str, str]]
) -> dict[str, Record]:
    """Return the records after a session of tests.

    A cell that any test failed has none. A cell that was proved has the new record, unless the old one is still fresh
    and of a higher tier, or of the same and of more tests.

    Args:
        failed: cells.
        now: the digests of today, by cell.
    """
    found = {cell: record for cell, record in old.items() if cell in CELLS}
    for record in passed:
        before = found.get(record.cell)
        if (
            before is None
            or before.changed(now[record.cell])
            or (before.tier, before.tests) <= (record.tier, record.tests)
        ):
            found[record.cell] = record
    for cell in failed:
        found.pop(cell, None)
    return found
