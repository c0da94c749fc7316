"""The installed families: declarations, evidence, planner and documents agree; flipping any declaration shows."""

from __future__ import annotations

import importlib.util
import warnings
from dataclasses import replace
from pathlib import Path

import pytest

from zoo_core.capabilities import CELLS, Support
from zoo_core.matrix import LIMITS, evidence, lacking, standings
from zoo_core.registry import registry
from zoo_core.testing.refusals import check_matrix, faults_of

ROOT = Path(__file__).parents[2]
FAMILIES = {architecture.family: architecture for architecture in registry().architectures}


@pytest.fixture(scope="module")
def documents():
    """`docs/generate_matrix.py`, loaded by path: documents are not a package."""
    spec = importlib.util.spec_from_file_location("generate_matrix", ROOT / "docs" / "generate_matrix.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Flipped:
    """An architecture that declares something else."""

    def __init__(self, architecture, **cells):
        self._architecture = architecture
        said = {**architecture.capabilities.cells, **cells}
        said = {name: cell for name, cell in said.items() if cell is not None}
        self.capabilities = replace(architecture.capabilities, cells=said)

    def __getattr__(self, name):
        return getattr(self._architecture, name)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_cell_is_what_it_says(family):
    check_matrix(FAMILIES[family])


@pytest.mark.parametrize("family", FAMILIES)
def test_every_cell_is_verified_refused_or_says_what_is_missing(family):
    stale = set()
    for cell, one in standings(FAMILIES[family]).items():
        assert one.state != "untested", cell
        assert one.record is not None or one.why, cell
        assert one.state != "declared" or "GPU" in one.why, f"{cell} is declared and lacks {one.why}"
        stale |= set(one.changed)
    if stale:
        # a warning only: an edit of the engine is no fault, and `make record` takes half an hour
        warnings.warn(
            f"the evidence of {family} is stale: {', '.join(sorted(stale))} changed; make record", stacklevel=1
        )


@pytest.mark.parametrize("family", FAMILIES)
def test_the_evidence_is_small_and_written_as_it_would_be_again(family, tmp_path):
    folder = FAMILIES[family].folder
    evidence.write(tmp_path, evidence.read(folder))
    text = (folder / evidence.FILE).read_text()
    assert (tmp_path / evidence.FILE).read_text() == text and len(text) < 20_000
    for cell, record in evidence.read(folder).items():
        file = record.test.partition("::")[0]
        assert (ROOT / file).is_file(), f"{cell} was proved by {file}, which is gone"


def fault_or_difference(architecture, documents, text):
    """What a check of this architecture would say, and the lines of its README that would differ."""
    said = [str(fault) for fault in faults_of(architecture)]
    made = documents.plugin_text(architecture, text)
    return {*said, *made.splitlines()} - set(text.splitlines())


@pytest.mark.parametrize("family", FAMILIES)
def test_flipping_any_declaration_shows(family, documents):
    architecture = FAMILIES[family]
    text = documents.plugin_readme(architecture).read_text(encoding="utf-8")
    before = fault_or_difference(architecture, documents, text)
    for cell in CELLS:
        support = architecture.capabilities.cells[cell]
        flips = [None, Support("refused" if support.state != "refused" else "not applicable", "flipped")]
        if support.state != "declared":
            flips += [Support("declared"), Support("declared", support.why)]
        for flip in flips:
            said = fault_or_difference(Flipped(architecture, **{cell: flip}), documents, text) - before
            assert any(f"{family}: {cell}: " in line or f"`{cell}`" in line for line in said), (cell, flip)


@pytest.mark.parametrize("family", FAMILIES)
def test_losing_or_gaining_evidence_shows(family):
    architecture = FAMILIES[family]
    kept = evidence.read(architecture.folder)
    some = next(iter(kept.values()))
    before = set(faults_of(architecture))
    for cell in CELLS:
        changed = {name: one for name, one in kept.items() if name != cell}
        if cell not in kept:
            changed[cell] = replace(some, cell=cell, tier="T3")
        now = set(faults_of(architecture, changed))
        assert {fault.cell for fault in now ^ before} == {cell}


@pytest.mark.parametrize("family", FAMILIES)
def test_the_plugins_readme_is_current(family, documents):
    path = documents.plugin_readme(FAMILIES[family])
    made = documents.plugin_text(FAMILIES[family])
    assert path.read_text(encoding="utf-8") == made, "python docs/generate_readme.py"


def test_documents_say_what_was_recorded_whatever_changed_since(documents, monkeypatch):
    before = documents.matrix("en")
    monkeypatch.setattr("zoo_core.matrix.standing.digests", lambda cell, folder: {"ops": "changed"})
    assert documents.matrix("en") == before
    assert all(
        one.state in ("stale", "declared", "refused", "not applicable")
        for architecture in FAMILIES.values() for one in standings(architecture).values()
    )  # fmt: skip


def test_every_reason_is_said_in_chinese_too(documents):
    reasons = {support.why for a in FAMILIES.values() for support in a.capabilities.cells.values()}
    reasons |= {s.why for a in FAMILIES.values() for e in a.capabilities.models for s in e.cells.values()}
    reasons |= {lacking(cell) for cell in LIMITS}
    assert reasons - {""} <= set(documents.CHINESE)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_planner_counts_on_flash_kernels_where_the_matrix_does(family):
    capabilities = FAMILIES[family].capabilities
    for entry in capabilities.models:
        declared = capabilities.support("flash_attention", entry.name).state == "declared"
        assert entry.config.fused_attention == declared, entry.name
