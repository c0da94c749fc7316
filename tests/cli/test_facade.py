"""The façade, and which rooms may import what."""

from __future__ import annotations

import ast
import importlib
import inspect
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import zoo_core

ROOT = Path(__file__).parents[2]
# fleet's recompute is not communication.
DISTRIBUTED = {"zoo_core/engine", "ops/zoo_ops/parallel.py", "ops/zoo_ops/core_attention.py"}


def test_every_exported_name_has_a_home_and_imports():
    homes = {name for names in zoo_core._HOMES.values() for name in names}
    assert homes == set(zoo_core.__all__)
    assert all(getattr(zoo_core, name) is not None for name in zoo_core.__all__)


def test_importing_the_facade_imports_nothing_else():
    program = (
        "import sys, zoo_core; print(sorted(m for m in sys.modules if m.startswith(('zoo_core.', 'paddle', 'numpy'))))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "['zoo_core._lazy']"


def test_only_the_engine_imports_paddle_distributed():
    offenders = []
    for folder in ("zoo_core", "ops/zoo_ops", "plugins"):
        for file in (ROOT / folder).rglob("*.py"):
            where = file.relative_to(ROOT).as_posix()
            if "/tests/" in where or any(where.startswith(allowed) for allowed in DISTRIBUTED):
                continue
            for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
                names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
                if isinstance(node, ast.ImportFrom):
                    names = [node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)]
                if any(name.startswith("paddle.distributed") for name in names):
                    offenders.append(where)
    assert offenders == []


def test_imports_point_down():
    """The contracts of [tool.importlinter], as `lint-imports` holds them."""
    pytest.importorskip("importlinter")
    program = "import sys; from importlinter.cli import lint_imports; sys.exit(lint_imports(no_cache=True))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stdout[done.stdout.find("Broken contracts") :]


ROOMS = ["zoo_core", "zoo_ops", *(f"zoo_core.{path.parent.name}" for path in ROOT.glob("zoo_core/*/__init__.py"))]


@pytest.mark.parametrize("room", ROOMS)
def test_no_submodule_has_the_name_of_an_export(room):
    """Importing it anywhere would put the module in the object's place."""
    package = importlib.import_module(room)
    inside = {module.name for module in pkgutil.iter_modules(package.__path__)}
    exported = {name for name in getattr(package, "__all__", ()) if not inspect.ismodule(getattr(package, name))}
    assert not exported & inside
