"""A plugin by somebody else: written from the guide's blocks alone, built as a wheel, in an environment of wheels.

Every command of `zoo` in the guide is run as it stands. What it builds and installs is done from the folder of wheels,
and the editable install is the wheel's.
"""

from __future__ import annotations

import csv
import hashlib
import importlib.util
import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]


def load(path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


wheels = load(Path(__file__).with_name("test_wheels.py"))
guide = load(ROOT / "tests" / "kit" / "guide.py")

pytestmark = pytest.mark.wheels


def build(project, folder):
    wheels.run(sys.executable, "-m", "build", "--no-isolation", "--wheel", "--outdir", folder, project)


class Author:
    """Somebody who follows the guide, in a folder and an environment of their own."""

    def __init__(self, folder, core_dist):
        self.folder = folder / "work"
        shutil.copytree(core_dist, self.folder / "dist")
        self.there = wheels.Environment(folder / "environment", self.folder / "dist")
        self._link_dependencies()
        self.install("zoo-ops", "zoo-core")
        guide.write(self.folder)
        for project in ("zoo-mynah", "calm"):
            build(self.folder / project, self.folder / "dist")
        self.install("zoo-mynah")
        self.core = self.core_digest()
        self.said = {}

    @property
    def site(self):
        (found,) = (self.folder.parent / "environment").glob("lib/python*/site-packages")
        return found

    def _link_dependencies(self):
        """Paddle and what else does not come from here, as this environment has it: it takes minutes to install."""
        for path in Path(sysconfig.get_path("purelib")).iterdir():
            ours = path.suffix == ".pth" or "zoo" in path.name
            if not ours and not (self.site / path.name).exists():
                (self.site / path.name).symlink_to(path)

    def install(self, *names):
        """Install wheels of the folder; their dependencies are there."""
        self.there.pip("install", "--no-index", "--no-deps", "--find-links", self.folder / "dist", *names)

    def core_digest(self):
        """A digest of the installed core."""
        found = hashlib.sha256()
        for path in sorted([*(self.site / "zoo_core").rglob("*.py"), *(self.site / "zoo_ops").rglob("*.py")]):
            found.update(path.read_bytes())
        return found.hexdigest()

    def zoo(self, *words, status=0):
        """Run the environment's zoo; return what it printed."""
        environ = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
        done = subprocess.run(
            [str(self.there.python.with_name("zoo")), *words], cwd=self.folder, env={**environ, "OMP_NUM_THREADS": "1"},
            capture_output=True, text=True, timeout=300, check=False,
        )  # fmt: skip
        assert done.returncode == status, f"zoo {shlex.join(words)}\n{done.stdout}\n{done.stderr}"
        return done.stdout + done.stderr

    def losses(self, out):
        with open(self.folder / out / "loss.csv", newline="", encoding="utf-8") as file:
            return [float(row["loss"]) for row in csv.DictReader(file) if row["loss"]]


@pytest.fixture(scope="module")
def author(core_dist, tmp_path_factory):
    """The guide, followed from its second command to its last."""
    author = Author(tmp_path_factory.mktemp("third-party"), core_dist)
    for line in guide.commands()[1:]:
        name, *words = shlex.split(line)
        if name == "zoo":
            author.said[line] = author.zoo(*words)
        else:
            assert name in ("pip", "python"), f"{line} is run by nothing"
    return author


def test_the_environment_has_no_family_but_this(author):
    listed = author.said["zoo plugins"].splitlines()
    assert [line.split()[0] for line in listed] == ["PLUGIN", "mynah"]
    assert "zoo-mynah" in listed[1] and listed[1].endswith("ok")


def test_it_keeps_the_contract(author):
    said = author.said["zoo plugins check mynah --tier 1"]
    assert said.rstrip().endswith("mynah keeps the contract") and "FAILED" not in said


def test_four_processes_train_as_one(author):
    one, four = author.losses("one"), author.losses("four")
    assert len(one) == 10 and one[-1] < one[0]
    np.testing.assert_allclose(four, one, rtol=1e-5, atol=1e-5)


def test_a_checkpoint_of_four_goes_on_in_one(author):
    again = author.losses("again")
    np.testing.assert_allclose(again[-5:], author.losses("one")[-5:], rtol=1e-5, atol=1e-5)
    assert (author.folder / "again" / "checkpoint-10").is_dir()


def test_it_writes_text_from_a_checkpoint_and_from_what_was_converted(author):
    own, converted, _ = (text for line, text in author.said.items() if line.startswith("zoo sample "))
    assert own.startswith("In the beginning") and len(own) > len("In the beginning\n")
    assert converted == own
    assert {"config.json", "tokenizer.json"} <= {path.name for path in (author.folder / "mynah-hf").iterdir()}


def test_adapters_train_in_two_as_in_one(author):
    (line,) = (line for line in author.said if line.startswith("zoo run lora "))
    words = shlex.split(line)[1 : -len("--nproc 2 --tp 2".split())]
    before = (author.folder / "mynah-hf" / "model.safetensors").read_bytes()
    author.zoo(*words, "--output_dir", "tuned-alone")
    np.testing.assert_allclose(author.losses("tuned"), author.losses("tuned-alone"), rtol=1e-5, atol=1e-5)
    assert len(author.losses("tuned")) == 4
    held = {path.name for path in (author.folder / "tuned" / "checkpoint-4").iterdir()}
    assert "lora.safetensors.index.json" in held and not any(name.startswith("model") for name in held)
    assert (author.folder / "mynah-hf" / "model.safetensors").read_bytes() == before
    (said,) = (text for line, text in author.said.items() if line.startswith("zoo sample tuned "))
    question = "What is the opposite of high?"
    assert said.startswith(question) and len(said.strip()) > len(question)


def test_a_wrapper_comes_and_goes(author):
    """The guide's second plugin changes where a run starts, and only while it is installed."""
    words = ("run", "pretrain", "pretrain.yaml", "--max_steps", "1", "--save_strategy", "no", "--output_dir")
    author.install("zoo-calm-mynah")
    author.zoo(*words, "calm-out")
    assert "wraps tp_mappings" in author.zoo("plugins")
    author.there.pip("uninstall", "zoo-calm-mynah")
    assert "wraps" not in author.zoo("plugins")
    first = author.losses("one")[0]
    assert abs(author.losses("calm-out")[0] - first) > 1e-4


def test_new_plugin_comes_with_the_wheel(author):
    said = author.zoo("new-plugin", "wren", "--directory", "mine")
    assert "zoo plugins check wren" in said
    assert (author.folder / "mine" / "zoo-wren" / "tests" / "test_conformance.py").is_file()


def test_the_core_is_the_wheels_and_as_it_was(author):
    assert author.core_digest() == author.core
    code = "import zoo_core, zoo_mynah, zoo_ops; print(zoo_core.__file__, zoo_mynah.__file__, zoo_ops.__file__)"
    assert wheels.run(author.there.python, "-I", "-c", code).count(str(author.site)) == 3
