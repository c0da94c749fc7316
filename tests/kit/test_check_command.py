"""`zoo plugins check`: its words, and what it needs."""

from __future__ import annotations

import pytest

from zoo_core.cli import main, plugins


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["check"], "zoo plugins check needs a plugin"),
        (["check", "--tier", "1"], "zoo plugins check needs a plugin"),
        (["check", "opt", "--tier", "3"], "--tier 3 is no tier"),
        (["check", "opt", "--teir=1"], "did you mean --tier?"),
        (["check", "optt"], "did you mean 'opt'?"),
        (["check", "nothing-like-it"], "pip install -e FOLDER"),
        (["chekc"], "did you mean check?"),
    ],
)
def test_wrong_words_are_told(words, said, capsys):
    assert main(["plugins", *words]) == 2
    assert said in capsys.readouterr().err


def test_without_pytest_it_says_what_to_install(monkeypatch, capsys):
    monkeypatch.setattr(plugins, "find_spec", lambda name: None)
    assert main(["plugins", "check", "opt", "--tier", "0"]) == 2
    assert 'pip install "zoo-core[testing]"' in capsys.readouterr().err


@pytest.mark.parametrize("name", ["opt", "OPT", "zoo-opt"])
def test_a_plugin_is_known_by_its_package_too(name):
    assert plugins._family(name) == "opt"


def test_completion_knows_plugins_and_tiers():
    assert "check" in plugins.complete([], "") and "--json" in plugins.complete([], "--")
    assert "opt" in plugins.complete(["check"], "o")
    assert list(plugins.complete(["check", "opt"], "--")) == ["--tier"]


def test_the_kit_is_cheap_to_import():
    """pytest loads the plugin in every project of an environment."""
    import subprocess
    import sys

    code = (
        "import sys, zoo_core.testing, zoo_core.testing.plugin\n"
        "heavy = {'paddle', 'numpy', 'zoo_core.registry', 'zoo_core.testing.conformance'} & sys.modules.keys()\n"
        "from zoo_core.testing import ArchConformance\n"
        "sys.exit(str(heavy | {'paddle'} & sys.modules.keys()) if heavy or 'paddle' in sys.modules else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
