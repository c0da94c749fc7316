"""The vocabulary of cells: what a plugin may say, and that plans name what is on by the same words."""

from __future__ import annotations

from dataclasses import replace

import pytest

from zoo_core._contract import capabilities_fault
from zoo_core.arguments import TASKS as RUNS
from zoo_core.capabilities import CELLS, MODES, STRATEGIES, TASKS, Exclusion, Support
from zoo_core.matrix import LIMITS
from zoo_core.matrix.sources import SOURCES, rooms_of
from zoo_core.plan import Request
from zoo_core.plan.request import asking_for

REQUIREMENTS = """
data_parallel tensor_parallel pipeline_parallel sequence_parallel flash_attention selective_recompute
sharding_stage1_recompute sharding_stage1_dp sharding_stage2_recompute sharding_stage2_dp sharding_stage3_recompute
sharding_stage3_dp virtual_pipeline expert_parallel semi_auto semi_auto_sft semi_auto_lora semi_auto_dpo to_static
""".split()


@pytest.fixture
def capabilities(fake_family):
    return fake_family.plugin().capabilities()


def test_the_columns_are_those_that_users_know():
    assert [cell.name for cell in TASKS] == (
        "pretrain sft lora prefix_tuning dpo compression generation".split()
    )  # fmt: skip
    assert [cell.name for cell in STRATEGIES] == REQUIREMENTS
    assert set(LIMITS) <= set(CELLS) and not set(MODES) & set(CELLS)
    assert all(cell.title and cell.chinese for cell in CELLS.values())


@pytest.mark.parametrize(
    ("cells", "said"),
    [
        ({"tensor_paralel": Support("declared")}, "is no cell of the matrix; did you mean 'tensor_parallel'?"),
        ({"sharding_stage2": Support("declared")}, "is no cell of the matrix; did you mean 'sharding_stage2_dp'?"),
        ({"telepathy": Support("declared")}, "is no cell of the matrix; zoo_core.capabilities.CELLS has the names"),
        ({"sft": "yes"}, "is str, not Support"),
        ({"sft": Support("verified")}, "a plugin says declared, refused, not applicable, tests record the rest"),
        ({"sft": Support("refused")}, "is refused without a reason"),
        ({"sft": Support("not applicable")}, "is not applicable without a reason"),
    ],
)
def test_a_wrong_cell_is_a_fault_of_the_contract(capabilities, cells, said):
    assert capabilities_fault(capabilities) == ""
    (name,) = cells
    assert capabilities_fault(replace(capabilities, cells=cells)) == f"capabilities().cells[{name!r}] " + (
        said if said.startswith("is") else f"says 'verified'; {said}"
    )
    entry = replace(capabilities.models[1], cells=cells)
    found = capabilities_fault(replace(capabilities, models=(capabilities.models[0], entry)))
    assert f"cells[{name!r}] of the model zoo/fake-2b " in found and said in found


def test_an_exclusion_names_cells_or_modes(capabilities):
    fine = (Exclusion("tensor_parallel", "sharding_stage2", "never tried"),)
    assert capabilities_fault(replace(capabilities, exclusions=fine)) == ""
    wrong = (Exclusion("tensor_parallel", "sharding_stag2", "never tried"),)
    assert "did you mean 'sharding_stage2'?" in capabilities_fault(replace(capabilities, exclusions=wrong))


def test_a_model_may_differ_from_its_family(capabilities):
    own = replace(capabilities.models[0], cells={"flash_attention": Support("refused", "no")})
    said = replace(
        capabilities,
        models=(own, *capabilities.models[1:]),
        cells={"flash_attention": Support("declared"), "sft": Support("declared")},
    )
    assert said.support("flash_attention", "ZOO/fake-1b") == Support("refused", "no")
    assert said.support("flash_attention", "zoo/fake-2b") == said.support("flash_attention") == Support("declared")
    assert said.support("sft", "zoo/fake-1b") == Support("declared")
    assert said.support("dpo", "zoo/fake-1b") is None


@pytest.mark.parametrize("cell", CELLS)
def test_a_request_for_a_cell_has_it_on(cell):
    assert cell in asking_for(cell).resolved().strategies


def test_plans_name_what_is_on_by_the_words_of_the_matrix():
    seen = set()
    for stage in (0, 1, 2, 3):
        for recompute in ("none", "full", "full_attn", "core_attn"):
            for task in (*RUNS, "logits"):
                request = Request(
                    world=32, tensor=2, pipeline=2, sharding=2 if stage else 1, sharding_stage=stage, expert=2,
                    virtual_stages=2, sequence_parallel=True, recompute=recompute, offload=True, task=task,
                    generation_evaluation=True, flash_attention=True, semi_auto=True, to_static=True, device="gpu",
                )  # fmt: skip
                seen |= set(request.resolved().strategies)
    assert seen == {*CELLS, *MODES}
    plain = Request(world=2, sharding_stage=2, sharding=2).resolved().strategies
    assert plain == ("pretrain", "sharding", "sharding_stage2")


def test_every_cell_says_which_files_it_exercises():
    for cell in CELLS:
        assert {"ops", "plugin"} <= set(rooms_of(cell)) <= set(SOURCES)
    assert "engine" not in rooms_of("generation") and "engine" in rooms_of("tensor_parallel")
