"""`zoo new-plugin` writes a package that passes the kit and the linters, and refuses names that cannot be."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from zoo_core.cli import main

LONGEST = "a_name_as_long_as_ca"
"""20 characters, the most that are taken."""


def test_it_passes_the_kit_at_once(site):
    """T0 and T1 by the command that its author runs; T2 is run by tests/packaging/test_third_party.py."""
    site.add("wren")
    said = site.zoo("plugins", "check", "zoo-wren", "--tier", "1")
    assert said.rstrip().endswith("wren keeps the contract")
    checks = [line.split()[:2] for line in said.splitlines() if line.startswith(("ok", "FAILED"))]
    assert {state for state, _ in checks} == {"ok"}
    assert len([tier for _, tier in checks if tier == "T0"]) > 8
    assert len([tier for _, tier in checks if tier == "T1"]) > 8


def test_it_passes_the_linters_whatever_its_name(tmp_path, capsys):
    assert main(["new-plugin", LONGEST, "--directory", str(tmp_path)]) == 0
    assert f"zoo plugins check {LONGEST}" in capsys.readouterr().out
    folder = tmp_path / "zoo-a-name-as-long-as-ca"
    assert not [path for path in folder.rglob("*") if path.is_file() and "ynah" in path.read_text() + str(path)]
    for words in (["check"], ["format", "--check"]):
        command = [sys.executable, "-m", "ruff", *words, "--no-cache", "."]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout
    text = (folder / "pyproject.toml").read_text()
    assert 'name = "zoo-a-name-as-long-as-ca"' in text and f'{LONGEST} = "zoo_{LONGEST}"' in text
    assert "class ANameAsLongAsCaForCausalLM" in (folder / f"zoo_{LONGEST}" / "modeling.py").read_text()


@pytest.mark.soak
def test_it_passes_mypy(tmp_path):
    """By its own settings, which are strict; `make lint` holds the template to this repository's."""
    assert main(["new-plugin", "wren", "--directory", str(tmp_path)]) == 0
    done = subprocess.run(
        [sys.executable, "-m", "mypy"], cwd=tmp_path / "zoo-wren", capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("my-model", "zoo new-plugin my_model"),
        ("MyModel", "zoo new-plugin mymodel"),
        ("2go", "zoo new-plugin go"),
        ("class", "no keyword"),
        ("", "cannot be the name"),
        (LONGEST + "s", "20 at most"),
        ("../up", "zoo new-plugin up"),
        ("opt", "the family 'opt' exists"),
        ("core", "the package zoo_core exists"),
    ],
)
def test_a_name_that_cannot_be_is_refused(name, said, tmp_path, capsys):
    assert main(["new-plugin", name, "--directory", str(tmp_path)]) == 2
    assert said in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_known_family_is_refused_where_its_package_is_missing(tmp_path, monkeypatch, capsys):
    from zoo_core.cli import new_plugin
    from zoo_core.registry import Registry

    monkeypatch.setattr(new_plugin, "registry", lambda: Registry({}))
    assert main(["new-plugin", "glm", "--directory", str(tmp_path)]) == 2
    assert "the family 'glm' exists" in capsys.readouterr().err


def test_nothing_is_written_over(tmp_path, capsys):
    (tmp_path / "zoo-wren").mkdir()
    assert main(["new-plugin", "wren", "--directory", str(tmp_path)]) == 2
    assert "exists already" in capsys.readouterr().err
    assert not list((tmp_path / "zoo-wren").iterdir())


def test_nothing_is_left_where_writing_fails(tmp_path, monkeypatch, capsys):
    def fail(old, new):
        raise OSError("the disk is full")

    monkeypatch.setattr(os, "rename", fail)
    assert main(["new-plugin", "wren", "--directory", str(tmp_path)]) == 2
    assert "the disk is full" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
