"""Fixtures for all tests of the core. The fake family is loaded by path: tests are not a package."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def fake_family():
    path = Path(__file__).with_name("fake_family.py")
    spec = importlib.util.spec_from_file_location("fake_family", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules.setdefault("fake_family", module)
    spec.loader.exec_module(module)
    return module
