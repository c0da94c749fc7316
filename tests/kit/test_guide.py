"""The plugin guide: its files are what `zoo new-plugin` writes, and make a plugin that can be listed and wrapped.

Every command of the guide is run by tests/packaging/test_third_party.py, in an environment with nothing but wheels.
"""

from __future__ import annotations

import importlib.util
import shlex
import shutil
from pathlib import Path

import pytest

spec = importlib.util.spec_from_file_location("guide", Path(__file__).with_name("guide.py"))
guide = importlib.util.module_from_spec(spec)
spec.loader.exec_module(guide)

CELLS = """
from zoo_core import find
from zoo_core.engine.build import from_seed

for model in ("mynah/mynah-160m", "facebook/llama-7b"):
    found = find(model)
    config = found.config.replace(**found.architecture.capabilities.scales["tiny"])
    table, values = found.architecture.table(config), from_seed(1, config, 1, 0)
    for name in ("q_proj", "o_proj"):
        (rule,) = (rule for rule in table.values() if ".layers.0." in rule.name and name in rule.name)
        print(model, name, f"{values(rule).std():.4f}")
"""


@pytest.fixture(scope="module")
def installed(site):
    """The guide's two plugins, written from its blocks alone."""
    folder = site.folder.parent / "guide"
    guide.write(folder)
    shutil.copytree(folder / "zoo-mynah" / "zoo_mynah", site.folder / "zoo_mynah")
    site.register("zoo-mynah", "mynah", "zoo_mynah")
    return site, folder


def test_the_files_are_those_of_new_plugin(tmp_path, installed):
    site, folder = installed
    assert shlex.split(guide.commands()[0]) == ["zoo", "new-plugin", "mynah"]
    # not where the guide's own package can be imported, since the name would be taken
    from zoo_core.cli import main

    assert main(["new-plugin", "mynah", "--directory", str(tmp_path)]) == 0
    ours = {path.relative_to(tmp_path): path.read_text() for path in tmp_path.rglob("*") if path.is_file()}
    shown = {path.relative_to(folder): path.read_text() for path in (folder / "zoo-mynah").rglob("*") if path.is_file()}
    assert shown == ours, "run python docs/generate.py"


def test_both_languages_show_the_same_blocks():
    assert guide.blocks("en") == guide.blocks("zh") and len(guide.blocks()) > 15


def test_it_lists_and_lays_out(installed):
    site, _ = installed
    ran = 0
    for line in guide.commands():
        name, *words = shlex.split(line)
        if name == "zoo" and (words == ["plugins"] or words[0] == "layout"):
            said, ran = site.zoo(*words), ran + 1
            assert "mynah" in said and "broken" not in said
    assert ran == 2


def test_another_plugin_changes_what_it_answers(installed):
    """End to end: the initial values that a run starts from, of this family and of no other."""
    site, folder = installed
    before = site.run("-c", CELLS).splitlines()
    shutil.copy(folder / "calm" / "zoo_calm_mynah.py", site.folder)
    site.register("zoo-calm-mynah", "calm_mynah", "zoo_calm_mynah")
    after = site.run("-c", CELLS).splitlines()
    changed = [(b, a) for b, a in zip(before, after, strict=True) if b != a]
    ((old, new),) = changed
    assert "mynah/mynah-160m o_proj" in old
    assert float(new.split()[-1]) == pytest.approx(float(old.split()[-1]) / 8**0.5, rel=0.02)
    said = site.zoo("plugins")
    assert "broken" not in said
    (listed,) = (line.split() for line in said.splitlines() if line.startswith("calm_mynah "))
    assert listed == ["calm_mynah", "zoo-calm-mynah", "0.1.0", "wraps", "tp_mappings"]


@pytest.mark.parametrize("message", ["it looks like Row", "has no row in the table; add a row for", "did you mean"])
def test_the_messages_it_quotes_are_ours(message):
    assert message in guide.text_of()
