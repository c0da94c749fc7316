"""Plugins made from the template, put on the path of a fresh process as if they were installed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

import pytest

from zoo_core.cli import main


class Site:
    """A folder of installed plugins."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "site"
        self.folder.mkdir(parents=True)
        self._written = folder / "written"

    def add(self, name: str, *edits: tuple[str, str, str], distribution: str = "", entry: str = "") -> None:
        """Install the template's plugin as the family `name`, after `edits` (file, text, its replacement)."""
        if not (self._written / f"zoo-{name}").exists():
            with redirect_stdout(StringIO()):
                assert main(["new-plugin", name, "--directory", str(self._written)]) == 0
        shutil.copytree(self._written / f"zoo-{name}" / f"zoo_{name}", self.folder / f"zoo_{name}")
        for file, old, new in edits:
            path = self.folder / f"zoo_{name}" / file
            text = path.read_text(encoding="utf-8")
            assert old in text, f"{old!r} is not in {file}"
            path.write_text(text.replace(old, new), encoding="utf-8")
        self.register(distribution or f"zoo-{name}", entry or name, f"zoo_{name}")

    def register(self, distribution: str, entry: str, module: str) -> None:
        """Write the marks of an installed package."""
        info = self.folder / f"{distribution.replace('-', '_')}-0.1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 0.1.0\n")
        (info / "entry_points.txt").write_text(f"[zoo]\n{entry} = {module}\n")

    def run(self, *words: str, status: int = 0) -> str:
        """Run python with these words; return what it printed."""
        environ = {**os.environ, "PYTHONPATH": str(self.folder), "OMP_NUM_THREADS": "1"}
        done = subprocess.run(
            [sys.executable, *words], env=environ, cwd=self.folder.parent, capture_output=True, text=True, timeout=300,
            check=False,
        )  # fmt: skip
        assert done.returncode == status, f"{words} ended with {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stdout + done.stderr

    def zoo(self, *words: str, status: int = 0) -> str:
        """Run a command of zoo; return what it printed."""
        return self.run("-m", "zoo_core", *words, status=status)


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Site:
    return Site(tmp_path_factory.mktemp("plugins"))


@pytest.fixture(scope="session")
def site_class() -> type[Site]:
    return Site
