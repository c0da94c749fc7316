"""Ways to break the template's plugin: each gives a message that names the mistake and what to do."""

from __future__ import annotations

import pytest

# family -> edits (file, text, its replacement), and what the kit then says, the test first
KIT = {
    "wrongaxis": (
        ("layout.py", 'row("attention.o_proj", heads * head, heads)', 'column("attention.o_proj", hidden, heads)'),
        "ranks give the single cards logits",
        "tensor_parallel: wrongaxis.layers.0.attention.o_proj.weight is Column in the table, and its input is split "
        "already: 32 features come in where 64 are expected on each of 2 ranks; it looks like Row",
    ),
    "otheraxis": (
        (
            "layout.py",
            'column("mlp.up_proj", ffn, ffn)',
            'Row("otheraxis.layers.*.mlp.up_proj.weight", (hidden, ffn), "up.*")',
        ),
        "ranks give the single cards logits",
        "tensor_parallel: otheraxis.layers.0.mlp.up_proj.weight is Row in the table, and its input is whole: "
        "64 features come in where 32 are expected on each of 2 ranks; it looks like Column",
    ),
    "missingrow": (
        ("layout.py", '        norm("layers.*.mlp_norm"),\n', ""),
        "table matches the model",
        "parameter missingrow.layers.0.mlp_norm.weight has no row in the table",
        "add a row for 'missingrow.layers.*.mlp_norm.weight'",
    ),
    "norowmatch": (
        ("layout.py", '        norm("norm"),\n', '        norm("norm"),\n        norm("layers.*.q_norm"),\n'),
        "table matches the model",
        "row norowmatch.layers.0.q_norm.weight of the table matches no parameter of the model",
        "remove or correct it",
    ),
    "offbyone": (
        ("pipeline.py", 'layers.{i}"', 'layers.{i + 1}"'),
        "pipeline list covers the table",
        "block 11 of the pipeline list has the prefix 'offbyone.layers.12', and no row of the table is under it; "
        "'offbyone.layers.0' has parameters and no block",
    ),
    "untied": (
        ("layout.py", "tied = config.tie_word_embeddings", "tied = False"),
        "table matches the model",
        "untied.embed_tokens.weight and lm_head.weight are one tensor in the model and two in the table; give the row "
        "of lm_head.weight tied_to='untied.embed_tokens.weight'",
    ),
}

# family -> edit, and what `zoo plugins` then says
LISTED = {
    "misspelt": (
        ("__init__.py", "def tp_mappings(config", "def tp_mapping(config"),
        "'tp_mapping' is not a hook; did you mean 'tp_mappings'?",
    ),
    "signature": (
        ("__init__.py", "def tokenizer(config: ModelConfig, path: Path | None)", "def tokenizer(folder: Path | None)"),
        "tokenizer() takes 'folder'; it must be tokenizer(config, path)",
    ),
    "importerror": (
        ("layout.py", "from zoo_core.layout import Column,", "from zoo_core.layout import Collumn, Column,"),
        "cannot be imported: ImportError: cannot import name 'Collumn' from 'zoo_core.layout'",
    ),
    "needspaddle": (
        ("__init__.py", "from pathlib import Path\n", "from pathlib import Path\n\nimport paddle\n"),
        "cannot be imported: ModuleNotFoundError: No module named 'paddle'",
        "its author should import paddle inside build_model() and the layer factories",
    ),
    "older": (
        ("__init__.py", "contract_version = 1", "contract_version = 0"),
        "contract_version is 0; versions are 1 to 1",
        "set contract_version = 1",
    ),
    "twin": (
        ("config.py", '"twin/twin-160m"', '"good/good-160m"'),
        "plugins twin and good both claim the model 'good/good-160m'",
        "uninstall one of zoo-twin or zoo-good",
    ),
}

HIDDEN = """
import sys


class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "paddle":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


sys.meta_path.insert(0, Hidden())
"""
"""Hides paddle from a process that starts with it."""

CORE = """
import zoo_core.hookspecs as contract

contract.CONTRACT_VERSION = 3
contract.CONTRACT_CHANGES = {
    1: (), 2: ("let tp_mappings() return rows with units",), 3: ("give pipe_layers() prefixes",),
}
"""
"""A core two versions on, for a process that starts with it."""


def section(said, name):
    """What `zoo plugins` says of one broken plugin."""
    _, found, rest = said.partition(f"\n{name} is broken\n")
    assert found, said
    return rest.partition("\n\n")[0]


def test_a_wrong_table_or_list_is_told_by_the_kit(site):
    """One run of pytest, as an author runs it, over plugins with a mistake each."""
    for name, (edit, *_) in KIT.items():
        models = "_MODELS[:2]" if name == "untied" else "_MODELS[:1]"
        site.add(name, edit, ("config.py", "models=_MODELS,", f"models={models},"))
    tests = site.folder.parent / "tests"
    tests.mkdir()
    classes = [f"class Test{name.title()}(ArchConformance):\n    family = {name!r}\n" for name in KIT]
    (tests / "test_all.py").write_text("from zoo_core.testing import ArchConformance\n\n\n" + "\n\n".join(classes))
    (tests / "pytest.ini").write_text("[pytest]\naddopts = --strict-markers\n")
    chosen = ("-p", "no:cacheprovider", "-p", "no:terminal", "-p", "zoo_core.testing.report", "-W", "ignore")
    said = site.run("-m", "pytest", *chosen, "-m", "not t2", "-c", str(tests / "pytest.ini"), str(tests), status=1)
    failures = [part.partition("\nok ")[0] for part in said.split("FAILED  ")[1:]]
    for name, (_, test, *parts) in KIT.items():
        own = [failure for failure in failures if f"({name}/" in failure]
        assert own and all(test in failure for failure in own), f"{name}\n{said}"
        for part in parts:
            assert all(part in failure for failure in own), f"{name}: {part}\n{said}"
    assert "Traceback" not in said and "During handling" not in said


def test_a_plugin_that_cannot_be_used_is_told_by_name_without_paddle(kept_apart):
    for name, (edit, *_) in LISTED.items():
        kept_apart.add(name, edit)
    kept_apart.add("good")
    kept_apart.add("fine")
    (kept_apart.folder / "sitecustomize.py").write_text(HIDDEN)
    said = kept_apart.zoo("plugins")
    for name, (_, *parts) in LISTED.items():
        for part in parts:
            assert part in section(said, name), f"{name}: {part}\n{said}"
    assert "both claim the model 'good/good-160m'" in section(said, "good")
    (listed,) = (line.split() for line in said.splitlines() if line.startswith("fine "))
    assert listed == ["fine", "zoo-fine", "0.1.0", "fine", "2", "ok"]
    assert "fine/fine-160m" in kept_apart.zoo("models")
    checked = kept_apart.zoo("plugins", "check", "misspelt", status=2)
    assert "plugin misspelt is broken" in checked and "did you mean 'tp_mappings'?" in checked
    assert "fine keeps the contract" in kept_apart.zoo("plugins", "check", "fine", "--tier", "0")


def test_a_plugin_for_another_contract_is_told_what_to_change(kept_apart):
    kept_apart.add("old")
    kept_apart.add("silent", ("__init__.py", "contract_version = 1\n", ""))
    kept_apart.add("new", ("__init__.py", "contract_version = 1", "contract_version = 4"))
    kept_apart.add("present", ("__init__.py", "contract_version = 1", "contract_version = 3"))
    (kept_apart.folder / "sitecustomize.py").write_text(CORE)
    said = kept_apart.zoo("plugins")
    for name in ("old", "silent"):
        assert "written for contract version 1; this zoo-core speaks version 3" in section(said, name)
        assert (
            "for version 2, let tp_mappings() return rows with units; for version 3, give pipe_layers() prefixes; "
            "then set contract_version = 3"
        ) in section(said, name)
    assert "written for contract version 4; this zoo-core speaks version 3" in section(said, "new")
    assert "pip install --upgrade zoo-core" in section(said, "new")
    assert any(line.startswith("present ") and line.endswith(" ok") for line in said.splitlines())


def test_an_older_plugin_works_where_nothing_has_to_change(monkeypatch, fake_family):
    from zoo_core import hookspecs
    from zoo_core.registry import Registry

    monkeypatch.setattr(hookspecs, "CONTRACT_VERSION", 2)
    monkeypatch.setattr(hookspecs, "CONTRACT_CHANGES", {1: (), 2: ()})
    assert not Registry({"fake": fake_family.plugin(contract_version=1)}).broken


def test_the_changes_are_those_of_every_version():
    from zoo_core.hookspecs import CONTRACT_CHANGES, CONTRACT_VERSION

    assert list(CONTRACT_CHANGES) == list(range(1, CONTRACT_VERSION + 1)) and not CONTRACT_CHANGES[1]


@pytest.fixture
def kept_apart(tmp_path, site_class):
    """A site of this test alone."""
    return site_class(tmp_path)
