"""The registry with plugins that are really installed: *.dist-info on the path of a fresh process, without paddle."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

ROOT = Path(__file__).parents[2]

GOOD = """
import sys
sys.path.insert(0, {tests!r})
from fake_family import plugin
globals().update(vars(plugin("good", models=("zoo/good",))))
"""

REPORT = """
import json, sys
from zoo_core.registry import registry
found = registry()
print(json.dumps({
    "families": [a.family for a in found.architectures],
    "from": {a.family: [a.distribution, a.version] for a in found.architectures},
    "broken": {b.name: [b.distribution, b.reason] for b in found.broken},
    "paddle": "paddle" in sys.modules,
    "numpy": "numpy" in sys.modules,
}))
"""


def install(site: Path, distribution: str, name: str, module: str, source: str) -> None:
    (site / f"{module}.py").write_text(textwrap.dedent(source))
    info = site / f"{distribution.replace('-', '_')}-1.2.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.2\n")
    (info / "entry_points.txt").write_text(f"[zoo]\n{name} = {module}\n")


def report(site: Path) -> dict:
    environment = {**os.environ, "PYTHONPATH": f"{site}{os.pathsep}{ROOT}{os.pathsep}{ROOT / 'ops'}"}
    done = subprocess.run([sys.executable, "-c", REPORT], env=environment, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def test_plugins_come_and_go_with_their_packages(tmp_path):
    good = GOOD.format(tests=str(ROOT / "tests"))
    install(tmp_path, "zoo-good", "good", "zoo_good", good)
    install(tmp_path, "zoo-import", "import", "zoo_import", "import a_module_that_is_not_there")
    install(tmp_path, "zoo-exit", "exit", "zoo_exit", "raise SystemExit(3)")
    install(tmp_path, "zoo-syntax", "syntax", "zoo_syntax", "def capabilities(:")
    found = report(tmp_path)
    assert "good" in found["families"] and found["from"]["good"] == ["zoo-good", "1.2"]
    assert found["broken"]["import"][0] == "zoo-import" and "a_module_that_is_not_there" in found["broken"]["import"][1]
    assert "SystemExit" in found["broken"]["exit"][1]
    assert "SyntaxError" in found["broken"]["syntax"][1]
    assert not found["paddle"] and not found["numpy"]
    (tmp_path / "zoo_good-1.2.dist-info" / "entry_points.txt").unlink()
    assert "good" not in report(tmp_path)["families"]


def test_two_packages_with_one_entry_point_name_are_told_apart(tmp_path):
    good = GOOD.format(tests=str(ROOT / "tests"))
    install(tmp_path, "zoo-good", "good", "zoo_good", good)
    install(tmp_path, "zoo-copy", "good", "zoo_copy", good)
    broken = report(tmp_path)["broken"]
    assert broken["good (zoo-good)"][1] == broken["good (zoo-copy)"][1].replace(
        "good (zoo-copy) and good (zoo-good)", "good (zoo-good) and good (zoo-copy)"
    )
