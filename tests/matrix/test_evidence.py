"""Records beside a plugin: written whole, read back, merged, and stale when what they exercised has changed."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from zoo_core.capabilities import CELLS
from zoo_core.errors import PluginError
from zoo_core.matrix import evidence, sources
from zoo_core.matrix.evidence import Record, merged, read, write


def record(cell="tensor_parallel", tier="T2", test="tests/test_a.py::test_b[c]", **changes):
    versions = {"paddle": "3.3.1", "zoo-core": "0.1.0"}
    made = Record(cell, tier, test, 3, "2026-01-31", "cpu", versions, {"ops": "0123456789", "plugin": "9876543210"})
    return replace(made, **changes)


@pytest.fixture
def package(tmp_path):
    """A plugin's package."""
    for name in ("__init__", "config", "layout", "modeling", "pipeline", "tokenizer"):
        (tmp_path / f"{name}.py").write_text(f'"""{name}"""\nDATA = 1\n\n\nclass It:\n    size = 1\n')
    return tmp_path


@pytest.fixture(autouse=True)
def fresh():
    """Digests are kept for the life of a process."""
    sources._digest.cache_clear()
    yield
    sources._digest.cache_clear()


def test_what_is_written_is_read(tmp_path):
    kept = {"pretrain": record("pretrain", models=("zoo/a",)), "to_static": record("to_static")}
    write(tmp_path, dict(reversed(kept.items())))
    assert read(tmp_path) == kept
    text = (tmp_path / evidence.FILE).read_text()
    assert list(json.loads(text)["cells"]) == ["pretrain", "to_static"], "not in the order of the matrix"
    assert sum('"tier"' in line for line in text.splitlines()) == len(kept), "not a line each"
    write(tmp_path, kept)
    assert (tmp_path / evidence.FILE).read_text() == text
    write(tmp_path, {})
    assert read(tmp_path) == {} == read(None) and not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"format": 2, "cells": {}}', '{"format": 1, "cells": {"pretrain": {"tier": "T2"}}}']
)
def test_a_damaged_file_is_said(tmp_path, text):
    (tmp_path / evidence.FILE).write_text(text)
    with pytest.raises(PluginError) as caught:
        read(tmp_path)
    assert "evidence.json" in caught.value.what and caught.value.why and "--zoo-record" in caught.value.todo


def test_merging():
    now = {cell: dict(record().sources) for cell in CELLS}
    old = {"tensor_parallel": record(test="old"), "generation": record("generation", "T2", "old")}
    new = [record(test="new"), record("generation", "T1", "new"), record("pretrain")]
    found = merged(old, new, ["data_parallel"], now)
    assert {cell: one.test for cell, one in found.items()} == {
        "tensor_parallel": "new", "generation": "old", "pretrain": record().test,
    }  # fmt: skip
    now["generation"] = {**now["generation"], "ops": "changed"}
    assert merged(old, new, (), now)["generation"].test == "new", "a stale record of a higher tier stays"
    fewer = record(test="fewer", tests=2)
    assert merged(old, [fewer], (), dict.fromkeys(CELLS, record().sources))["tensor_parallel"].test == "old"
    assert "tensor_parallel" not in merged(old, (), ["tensor_parallel"], now)


def test_a_record_is_stale_when_a_file_that_it_exercised_has_changed(package):
    for cell in ("tensor_parallel", "generation"):
        before = sources.digests(cell, package)
        one = record(cell, sources=before)
        assert one.changed(sources.digests(cell, package)) == ()
        (package / "modeling.py").write_text(f"SIZE = {len(cell)}\n")
        sources._digest.cache_clear()
        assert one.changed(sources.digests(cell, package)) == ("plugin",)
    assert record(sources={"ops": "1"}).changed({"ops": "1", "peft": "2"}) == ("peft",)


@pytest.mark.parametrize(
    ("file", "old", "new", "counts"),
    [
        ("layout.py", "DATA = 1", "DATA = 2", True),
        ("modeling.py", "size = 1", "size = 2", True),
        ("config.py", "size = 1", "size = 2", True),
        ("config.py", "DATA = 1", "DATA = 2", False),  # named models and declarations
        ("tokenizer.py", "DATA = 1", "DATA = 2", False),
        ("__init__.py", "DATA = 1", "DATA = 2", False),
    ],
)
def test_what_counts_as_a_change_of_the_plugin(package, file, old, new, counts):
    before = sources.digests("pretrain", package)
    path = package / file
    path.write_text(path.read_text().replace(old, new))
    sources._digest.cache_clear()
    assert (sources.digests("pretrain", package) != before) == counts


def test_a_new_file_of_the_plugin_counts_and_evidence_does_not(package):
    before = sources.digests("pretrain", package)
    write(package, {"pretrain": record("pretrain")})
    sources._digest.cache_clear()
    assert sources.digests("pretrain", package) == before
    (package / "experts.py").write_text("")
    sources._digest.cache_clear()
    assert sources.digests("pretrain", package) != before
    assert "plugin" not in sources.digests("pretrain", None)


def test_every_group_that_is_there_has_files():
    for room, patterns in sources.SOURCES.items():
        if room in ("plugin", "peft", "quantize"):
            continue
        for pattern in patterns:
            package, _, below = pattern.partition("/")
            assert list(sources._package(package).glob(below)), pattern
