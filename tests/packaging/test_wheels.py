"""The four distributions as users get them: built, installed into an empty environment, and taken out again."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from concurrent.futures import ThreadPoolExecutor
from email.parser import Parser
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROJECTS = {"zoo_core": ROOT, "zoo_ops": ROOT / "ops"} | {
    f"zoo_{file.parent.name}": file.parent for file in ROOT.glob("plugins/*/pyproject.toml")
}
CORE = ("zoo_core", "zoo_ops")

pytestmark = pytest.mark.wheels


def run(*words, status=0):
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == status, f"{words} ended with {done.returncode}:\n{done.stdout}\n{done.stderr}"
    return done.stdout + done.stderr


def build(folder, projects):
    """Build wheels, each from its own source distribution, as many at a time as there are cores."""
    command = (sys.executable, "-m", "build", "--no-isolation", "--outdir", folder)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(lambda project: run(*command, project), projects))


@pytest.fixture(scope="module")
def dist(core_dist, tmp_path_factory):
    """The wheels of all distributions."""
    folder = tmp_path_factory.mktemp("dist")
    shutil.copytree(core_dist, folder, dirs_exist_ok=True)
    build(folder, [project for name, project in PROJECTS.items() if name not in CORE])
    return folder


class Environment:
    """A virtual environment of its own; uv fills it where there is uv, else pip."""

    def __init__(self, folder, dist):
        run(sys.executable, "-m", "venv", folder)
        self.python, self.dist = folder / "bin" / "python", dist

    def pip(self, command, *words):
        uv = [sys.executable, "-m", "uv", "pip", command, "--quiet", "--python", self.python, *words]
        if subprocess.run([str(word) for word in uv], capture_output=True, timeout=300, check=False).returncode:
            yes = ["--yes"] if command == "uninstall" else []
            run(self.python, "-m", "pip", command, "--quiet", *yes, *words)

    def install(self, *names):
        self.pip("install", "--find-links", self.dist, *names)

    def zoo(self, *words, status=0):
        return run(self.python.with_name("zoo"), *words, status=status)

    def has(self, module):
        code = f"import importlib.util, sys; sys.exit(importlib.util.find_spec({module!r}) is None)"
        return subprocess.run([str(self.python), "-c", code], check=False).returncode == 0


@pytest.fixture(scope="module")
def metadata(dist):
    """Distribution -> the metadata in its wheel, and the names of its files."""
    found = {}
    for name in PROJECTS:
        (wheel,) = dist.glob(f"{name}-*.whl")
        with zipfile.ZipFile(wheel) as archive:
            files = archive.namelist()
            (path,) = (file for file in files if file.endswith(".dist-info/METADATA"))
            found[name] = Parser().parsestr(archive.read(path).decode()), files
    return found


def test_what_the_wheels_say(metadata):
    for name, (said, files) in metadata.items():
        assert said["Requires-Python"] == "<3.13,>=3.10", name
        assert said["License-Expression"] == "Apache-2.0"
        needed = [line for line in said.get_all("Requires-Dist") if "extra ==" not in line]
        assert not any(line.startswith("paddlepaddle") for line in needed), "Paddle is an extra: its kinds differ"
        # one start-up file lies beside the core: lm-eval would not know its model otherwise
        beside = ["zoo_core_lm_eval.pth"] if name == "zoo_core" else []
        assert [file for file in files if not file.startswith((f"{name}/", f"{name}-"))] == beside
        own = [file for file in files if not file.startswith("zoo_core/templates/")]
        assert not any("/tests/" in file or file.endswith(".safetensors") for file in own)


def test_what_the_core_brings_along(metadata):
    said, files = metadata["zoo_core"]
    assert {"zoo_core/py.typed", "zoo_core/data/corpus/tang300.txt", "zoo_core/data/corpus/ORIGIN.md"} <= set(files)
    template = {file.partition("zoo-mynah/")[2] for file in files if file.startswith("zoo_core/templates/plugin/")}
    assert {"pyproject.toml", "README.md", "zoo_mynah/modeling.py", "tests/test_conformance.py"} <= template
    extras = [line for line in said.get_all("Requires-Dist") if "extra == 'cpu'" in line]
    assert any(line.startswith("paddlepaddle<3.4,>=3.3.1") for line in extras)
    assert any("numpy<2.4" in line for line in said.get_all("Requires-Dist"))


def test_plugins_come_and_go(dist, tmp_path):
    there = Environment(tmp_path / "empty", dist)
    there.install("zoo-core")
    assert there.has("zoo_core") and there.has("zoo_ops") and not there.has("paddle")
    assert "usage: zoo" in there.zoo("--help").lower()
    assert "pip install zoo-llama" in there.zoo("models", status=2)
    assert "pip install zoo-qwen" in there.zoo("plan", "qwen/qwen-7b", "--world", "4", status=2)

    there.install("zoo-llama")
    listed = there.zoo("models")
    assert "meta-llama/Llama-2-7b" in listed and "qwen" not in listed.lower()
    assert "tensor" in there.zoo("plan", "facebook/llama-7b", "--world", "4", "--tp", "2", "--pp", "2")
    run_it = ["run", "pretrain", "--model", "facebook/llama-7b", "--scale", "tiny", "--input_dir", tmp_path]
    refused = there.zoo(*run_it, status=2)
    assert "PaddlePaddle is not installed" in refused and "zoo-core[cpu]" in refused

    there.install("zoo-qwen")
    assert "qwen/qwen-7b" in there.zoo("models")
    there.pip("uninstall", "zoo-llama")
    assert "llama" not in there.zoo("models").lower()
    there.pip("uninstall", "zoo-qwen")
    assert "pip install zoo-llama" in there.zoo("models", status=2)
