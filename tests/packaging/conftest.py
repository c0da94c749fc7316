"""Wheels that several files of tests install."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def core_dist(tmp_path_factory):
    """A folder with the wheels of the core and of the building blocks, built once."""
    path = Path(__file__).with_name("test_wheels.py")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    wheels = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(wheels)
    folder = tmp_path_factory.mktemp("core-dist")
    wheels.build(folder, [wheels.PROJECTS[name] for name in wheels.CORE])
    return folder
