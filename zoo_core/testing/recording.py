"""What the tests of one session claim of cells, and what becomes of it when the session ends."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata

from zoo_core.capabilities import CELLS
from zoo_core.errors import PluginError, nearest
from zoo_core.matrix.evidence import FILE, Record, merged, read, write
from zoo_core.matrix.sources import digests
from zoo_core.registry import registry

__all__ = ["Recording"]


@dataclass(frozen=True)
class _Claim:
    test: str
    family: str
    cell: str
    tier: str
    model: str | None


class Recording:
    """The claims of a session and how the tests that made them ended."""

    def __init__(self) -> None:
        self._claims: list[_Claim] = []
        self._passed: set[str] = set()
        self._failed: set[str] = set()
        self._written: list[str] = []
        self._sources: dict[str, dict[str, dict[str, str]]] = {}

    def begin(self) -> None:
        """Note the digests of all sources; a file that is edited while the tests run must show as changed."""
        for architecture in registry().architectures:
            self._sources[architecture.family] = {cell: digests(cell, architecture.folder) for cell in CELLS}

    def claim(self, test: str, family: str, cells: Sequence[str], tier: str, model: str | None) -> None:
        """Note that a test proves cells, should it pass; see `zoo_core.testing.plugin.zoo_evidence`."""
        family = registry().family(family).family
        for cell in cells:
            if cell not in CELLS:
                near = nearest(cell, CELLS)
                todo = f"did you mean {near!r}?" if near else "zoo_core.capabilities.CELLS has the names"
                raise PluginError(f"the capability matrix has no cell {cell!r}", f"{test} claims it", todo)
            if tier not in ("T1", "T2", "T3") or tier < CELLS[cell].tier:
                why = f"{cell} needs a test of {CELLS[cell].tier}: T1 is one process, T2 several on CPU, T3 GPUs"
                raise PluginError(f"a test of tier {tier} does not prove {cell}", why, "claim it where it is run so")
            self._claims.append(_Claim(test, family, cell, tier, model))

    def ended(self, test: str, phase: str, outcome: str) -> None:
        """Note how a phase of a test ended ("setup", "call", "teardown"; "passed", "failed", "skipped")."""
        if outcome == "failed":
            self._failed.add(test)
        elif outcome == "passed" and phase == "call":
            self._passed.add(test)

    def _records(self, family: str) -> tuple[list[Record], set[str]]:
        """The family's new records, and the cells that a test failed."""
        claims = [claim for claim in self._claims if claim.family == family]
        failed = {claim.cell for claim in claims if claim.test in self._failed}
        records = []
        for cell in sorted({claim.cell for claim in claims} - failed):
            proofs = [c for c in claims if c.cell == cell and c.test in self._passed]
            if not proofs:
                continue
            tier = max(proof.tier for proof in proofs)
            records.append(
                Record(
                    cell,
                    tier,
                    test=min(proof.test for proof in proofs if proof.tier == tier),
                    tests=len({proof.test for proof in proofs}),
                    date=datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
                    device="gpu" if tier == "T3" else "cpu",
                    versions=_versions(),
                    sources=self._sources[family][cell],
                    models=tuple(sorted({proof.model for proof in proofs if proof.model})),
                )
            )
        return records, failed

    def write(self) -> None:
        """Merge what was proved and what failed into each plugin's file."""
        for family in sorted({claim.family for claim in self._claims}):
            folder = registry().family(family).folder
            if folder is None:
                self._written.append(f"zoo: {family} is no package, so that there is no place for its {FILE}")
                continue
            records, failed = self._records(family)
            old = read(folder)
            new = merged(old, records, failed, self._sources[family])
            if new != old:
                write(folder, new)
            lost = sorted(failed & old.keys())
            self._written.append(
                f"zoo: {family}: {len(records)} cells recorded in {FILE}"
                + (f"; taken away, as a test failed: {', '.join(lost)}" if lost else "")
            )

    def summary(self, recorded: bool) -> list[str]:
        """Return what to say at the end of the session."""
        return self._written if recorded else []


def _versions() -> dict[str, str]:
    found = {}
    for name, packages in (("paddle", ("paddlepaddle", "paddlepaddle-gpu")), ("zoo-core", ("zoo-core",))):
        for package in packages:
            try:
                found[name] = metadata.version(package)
                break
            except metadata.PackageNotFoundError:
                continue
    return found
