"""Fixtures for all tests, and which of them start several processes. The fake family is loaded by path: tests are not
a package.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SEVERAL = ("tests/parallel", "tests/generate/test_scoring_ranks.py", "ops/tests/test_parallel.py")
"""Whose every test waits for processes that talk to one another."""
SEVERAL_BY = {"nursery", "held", "ranks"}
"""Fixtures that start such processes: those of tests/train, plan and quantize."""


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Mark what starts several processes as of tier two: `make test` runs it by itself, with all cores.

    Of two workers none shall be left with the longest files at the end.
    """
    whole = [ROOT / path for path in SEVERAL]
    for item in items:
        several = any(path == item.path or path in item.path.parents for path in whole)
        if several or not SEVERAL_BY.isdisjoint(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.t2)
    if "PYTEST_XDIST_WORKER" in os.environ:
        items.sort(key=lambda item: "packaging" not in item.path.parts)


@pytest.fixture(scope="session")
def fake_family():
    path = Path(__file__).with_name("fake_family.py")
    spec = importlib.util.spec_from_file_location("fake_family", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules.setdefault("fake_family", module)
    spec.loader.exec_module(module)
    return module
