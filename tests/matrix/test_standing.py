"""How a cell stands follows from the plugin, the core and the evidence; where they contradict each other is a fault."""

from __future__ import annotations

import pytest

from zoo_core.capabilities import CELLS, Exclusion, Support, declared
from zoo_core.errors import PlanError
from zoo_core.matrix import Record, faults, markdown, notes, sources, standings
from zoo_core.plan import RULES, Request, compose
from zoo_core.registry import Registry
from zoo_core.testing.refusals import check_matrix, faults_of

NO_EXPERTS = {"expert_parallel": Support("not applicable", "its blocks have no experts")}
NO_GPU = {"flash_attention": Support("declared", "a GPU")}


@pytest.fixture(autouse=True)
def limits(monkeypatch):
    """What the core lacks in these tests, whatever it lacks today."""
    tunes = {"sft": "supervised fine-tuning", "lora": "LoRA"}
    lacks = {**tunes, **{f"semi_auto_{task}": what for task, what in tunes.items()}}
    lacks["to_static"] = "training of traced graphs"
    monkeypatch.setattr("zoo_core.matrix.limits.LIMITS", lacks)
    return lacks


@pytest.fixture
def family(fake_family, tmp_path):
    """Make a family with these cells besides the usual ones."""
    (tmp_path / "modeling.py").write_text("SIZE = 1\n")
    sources._digest.cache_clear()

    def make(only=False, **cells):
        said = {} if only else {**declared(), **NO_EXPERTS, **NO_GPU}
        found = {name: cell for name, cell in {**said, **cells}.items() if cell is not None}
        return Registry({"fake": fake_family.plugin(cells=found, __path__=[str(tmp_path)])}).architectures[0]

    return make


def proved(architecture, *cells, **changes):
    return {
        cell: Record(cell, "T2", "tests/a.py::b", 1, "2026-01-31", "cpu", {"paddle": "3.3.1"},
                     {**sources.digests(cell, architecture.folder), **changes})
        for cell in cells
    }  # fmt: skip


_OTHERS = ("sft", "lora", "semi_auto_sft", "semi_auto_lora", "to_static", "flash_attention", "expert_parallel")
EVERY = [cell for cell in CELLS if cell not in _OTHERS]
"""What the usual family has evidence of."""


def test_the_states(family):
    arch = family(dpo=Support("refused", "it has no reference model"), data_parallel=None)
    records = {**proved(arch, "pretrain", "pipeline_parallel"), **proved(arch, "tensor_parallel", plugin="0", ops="0")}
    found = standings(arch, records=records)
    assert list(found) == list(CELLS)
    said = {cell: (one.state, one.why, one.owner) for cell, one in found.items()}
    assert said["pretrain"] == ("verified", "", "")
    assert said["tensor_parallel"] == ("stale", "", "") and found["tensor_parallel"].changed == ("ops", "plugin")
    assert said["virtual_pipeline"] == ("declared", "a recorded run", "")
    assert said["flash_attention"] == ("declared", "a GPU", "")
    assert said["sft"] == ("refused", "zoo-core has no supervised fine-tuning yet", "zoo-core")
    assert said["dpo"] == ("refused", "it has no reference model", "fake"), "the plugin's own reason counts first"
    assert said["expert_parallel"] == ("not applicable", "its blocks have no experts", "fake")
    assert said["data_parallel"][0] == "untested"
    assert standings(arch, records=records, as_recorded=True)["tensor_parallel"].state == "verified"


def test_a_line_of_the_limits_less_turns_the_declaration_live(family, limits):
    arch = family()
    assert standings(arch, records={})["sft"].state == "refused"
    del limits["sft"]
    assert standings(arch, records={})["sft"].state == "declared"
    assert standings(arch, records=proved(arch, "sft"))["sft"].state == "verified"
    assert [fault.cell for fault in faults(arch, proved(arch, *EVERY))] == ["sft"]
    compose(Request(task="sft"), arch, arch.capabilities.models[0].config)


def test_all_is_well(family):
    arch = family()
    assert faults_of(arch, proved(arch, *EVERY)) == []


@pytest.mark.parametrize(
    ("cells", "cell", "said"),
    [
        ({"data_parallel": None}, "data_parallel", "nothing is declared, and tests/a.py::b proved it"),
        ({"sft": None}, "sft", "nothing is declared; declare it"),
        ({"data_parallel": Support("refused", "no")}, "data_parallel", "refused, and tests/a.py::b proved it"),
        ({"data_parallel": Support("not applicable", "no")}, "data_parallel", "not applicable, and tests/a.py::b"),
        ({"data_parallel": Support("declared", "time")}, "data_parallel", "still said to lack: time; tests/a.py::b"),
        ({"flash_attention": Support("declared")}, "flash_attention", "declared, and evidence.json has no test"),
        ({"expert_parallel": Support("declared")}, "expert_parallel", "declared, and evidence.json has no test"),
    ],
)
def test_contradictions(family, cells, cell, said):
    arch = family(**cells)
    found, *follow = faults_of(arch, proved(arch, *EVERY))
    # stages with data parallelism cannot be had without it
    assert all(fault.cell.endswith("_dp") and " data_parallel: no" in fault.what for fault in follow)
    assert found.cell == cell and f"fake: {cell}: {said}" in str(found) and found.todo


def test_evidence_for_what_the_core_lacks(family):
    arch = family()
    (found,) = faults(arch, proved(arch, *EVERY, "lora"))
    assert "zoo-core has no LoRA yet, and tests/a.py::b proved it" in str(found) and "LIMITS" in found.todo


def test_evidence_of_too_low_a_tier(family):
    arch = family(flash_attention=Support("declared"))
    (found,) = faults(arch, proved(arch, *EVERY, "flash_attention"))
    assert found.cell == "flash_attention" and "needs T3" in found.what


def test_a_refused_cell_that_does_not_refuse(family, monkeypatch):
    arch = family(sequence_parallel=Support("refused", "no"))
    records = proved(arch, *(cell for cell in EVERY if cell != "sequence_parallel"))
    assert faults_of(arch, records) == []
    kept = tuple(rule for rule in RULES if rule.name != "the family supports it")
    monkeypatch.setattr("zoo_core.plan.rules.RULES", kept)
    assert {fault.cell for fault in faults_of(arch, records)} == {"sequence_parallel", "expert_parallel"}


def test_the_kit_names_every_fault(family):
    with pytest.raises(AssertionError, match="fake: pretrain: declared, and evidence.json has no test"):
        check_matrix(family())


@pytest.mark.parametrize(
    ("cell", "request_"),
    [
        ("sharding_stage2_dp", Request(world=4, sharding=2, sharding_stage=2)),
        ("sharding_stage3_recompute", Request(world=2, sharding_stage=3, recompute="core_attn")),
        ("selective_recompute", Request(recompute="full_attn")),
        ("virtual_pipeline", Request(world=4, pipeline=4, virtual_stages=2, accumulate=8)),
        ("pretrain", Request()),
    ],
)
def test_a_cell_that_the_plugin_refuses_stops_the_plan(family, cell, request_):
    arch = family(**{cell: Support("refused", "it never worked")})
    with pytest.raises(PlanError) as caught:
        compose(request_, arch, arch.capabilities.models[0].config)
    assert "the family supports it" in caught.value.what and caught.value.why == f"fake refuses {cell}: it never worked"
    compose(request_, family(), arch.capabilities.models[0].config)


def test_what_the_core_lacks_is_refused_in_its_name(family):
    arch = family()
    with pytest.raises(PlanError) as caught:
        compose(Request(to_static=True), arch, arch.capabilities.models[0].config, "zoo/fake-1b")
    assert "the core has it" in caught.value.what and "zoo-core has no training of traced graphs" in caught.value.why
    assert caught.value.todo == "`zoo capabilities zoo/fake-1b` shows what there is"


def test_flash_attention_that_does_not_apply_is_said_and_legal(family):
    arch = family(flash_attention=Support("not applicable", "ALiBi"))
    config = arch.capabilities.models[0].config
    said = "use_flash_attention has no effect on fake: ALiBi"
    assert said in compose(Request(flash_attention=True), arch, config).remarks
    assert said not in compose(Request(), arch, config).remarks
    assert said not in compose(Request(flash_attention=True), family(), config).remarks


def test_exclusions_name_the_parts_of_a_strategy(fake_family):
    pair = (Exclusion("selective_recompute", "sharding_stage2", "never tried"),)
    arch = Registry({"fake": fake_family.plugin(exclusions=pair)}).architectures[0]
    with pytest.raises(PlanError, match="excludes selective_recompute with sharding_stage2: never tried"):
        compose(
            Request(world=2, sharding_stage=2, recompute="core_attn"), arch, arch.capabilities.models[0].config
        )  # fmt: skip


def test_reasons_are_said_once(fake_family):
    def make(name, **cells):
        plugin = fake_family.plugin(name, (f"zoo/{name}",), cells={**declared(), **cells})
        return Registry({name: plugin}).architectures[0]

    one, two = make("one"), make("two", **NO_EXPERTS, **NO_GPU)
    matrix = {arch: standings(arch, records=proved(arch, "pretrain")) for arch in (one, two)}
    said = {(note.state, note.cells, note.whom): note.why for note in notes(matrix)}
    assert said["refused", ("lora", "semi_auto_lora"), ()] == "zoo-core has no LoRA yet"
    assert said["not applicable", ("expert_parallel",), ("two",)] == "its blocks have no experts"
    assert said["declared", ("flash_attention",), ("two",)] == "a GPU"
    assert said["declared", ("flash_attention", "expert_parallel"), ("one",)] == "a recorded run"
    assert not any(state == "verified" for state, _, _ in said)
    text = markdown(matrix)
    assert "| one | ✅ |" in text and "- 🔶 flash attention (two): missing: a GPU" in text
    assert "- 🔶 flash attention (two): 尚缺:显卡" in markdown(matrix, {"a GPU": "显卡"})
