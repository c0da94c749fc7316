"""Composing plans for a fake family: degrees, places, cuts, remarks, refusals."""

from __future__ import annotations

from dataclasses import replace

import pytest

from zoo_core.capabilities import Exclusion, Support
from zoo_core.errors import PlanError
from zoo_core.plan import RULES, Request, compose, facts, judge, share
from zoo_core.registry import Registry


def family(fake_family, changes=None, **kwargs):
    architecture = Registry({"fake": fake_family.plugin(**kwargs)}).family("fake")
    return architecture, fake_family.config(**(changes or {}))


def refusal(fake_family, request, changes=None, **kwargs):
    architecture, config = family(fake_family, changes, **kwargs)
    with pytest.raises(PlanError) as caught:
        compose(request, architecture, config, "zoo/fake-1b")
    return caught.value


def test_the_single_card_is_one_chunk(fake_family):
    plan = compose(Request(), *family(fake_family))
    assert (plan.world, plan.data, plan.sharding, plan.tensor, plan.pipeline) == (1, 1, 1, 1, 1)
    assert plan.stage_bounds == (0, 11)
    assert plan.remarks == ()


def test_data_parallel_is_what_remains(fake_family):
    plan = compose(Request(world=16, tensor=2, pipeline=2, sharding=2, sharding_stage=1), *family(fake_family))
    assert (plan.data, plan.sharding, plan.replicas, plan.world) == (2, 2, 4, 16)
    assert plan.global_batch == 4


def test_sharding_without_a_degree_takes_the_rest(fake_family):
    plan = compose(Request(world=8, tensor=2, sharding_stage=2), *family(fake_family))
    assert (plan.sharding, plan.data, plan.sharding_stage) == (4, 1, 2)


def test_sharding_over_one_process_is_off_and_said(fake_family):
    plan = compose(Request(world=2, pipeline=2, sharding_stage=2, accumulate=2, offload=True), *family(fake_family))
    assert plan.sharding_stage == 0 and not plan.offload
    assert any("sharding stage2" in remark for remark in plan.remarks)


def test_offload_that_the_engine_does_not_do_is_off_and_said(fake_family):
    request = Request(world=2, sharding_stage=1, offload=True, device="gpu")
    plan = compose(request, *family(fake_family))
    assert not plan.offload and any("offload with sharding stage1" in remark for remark in plan.remarks)
    assert compose(replace(request, sharding_stage=2), *family(fake_family)).offload


def test_ranks_stand_in_fleets_order(fake_family):
    """The order of paddle.distributed.fleet.base.topology: dp, pp, sharding, (sep, cp,) mp; mp fastest."""
    plan = compose(Request(world=16, tensor=2, pipeline=2, sharding=2, sharding_stage=1), *family(fake_family))
    seen = []
    for data in range(2):
        for pipe in range(2):
            for sharding in range(2):
                for tensor in range(2):
                    rank = plan.rank_of(data=data, pipe=pipe, sharding=sharding, tensor=tensor)
                    place = plan.coordinates(rank)
                    assert (place.data, place.pipe, place.sharding, place.tensor) == (data, pipe, sharding, tensor)
                    seen.append(rank)
    assert seen == list(range(16))
    assert plan.group("tensor", 5) == (4, 5)
    assert plan.group("sharding", 5) == (5, 7)
    assert plan.group("pipe", 5) == (1, 5)
    assert plan.group("data", 5) == (5, 13)
    assert [plan.replica_of(rank) for rank in (0, 1, 2, 4, 6, 8, 15)] == [0, 0, 1, 0, 1, 2, 3]
    with pytest.raises(IndexError):
        plan.coordinates(16)


def test_stages_share_the_blocks(fake_family):
    plan = compose(Request(world=4, pipeline=4, accumulate=4), *family(fake_family))
    assert plan.stage_bounds == (0, 3, 5, 7, 11)
    assert plan.chunks(0) == ((0, 3),) and plan.chunks(3) == ((7, 11),)
    assert [plan.stage_of(layer) for layer in (0, 2, 3, 10)] == [0, 0, 1, 3]


@pytest.mark.parametrize(("blocks", "bounds"), [(5, (0, 2, 3, 5, 8)), (6, (0, 2, 4, 6, 9)), (7, (0, 3, 5, 7, 10))])
def test_extra_blocks_go_to_inner_stages(fake_family, blocks, bounds):
    plan = compose(Request(world=4, pipeline=4, accumulate=4), *family(fake_family, {"num_hidden_layers": blocks}))
    assert plan.stage_bounds == bounds


def test_interleaved_chunks_go_round(fake_family):
    plan = compose(Request(world=4, pipeline=4, virtual_stages=2, accumulate=8), *family(fake_family))
    assert len(plan.stage_bounds) == 9
    assert plan.chunks(0) == ((0, 2), (5, 6))
    assert plan.chunks(3) == ((4, 5), (8, 11))
    assert [plan.stage_of(layer) for layer in range(11)] == [0, 0, 1, 2, 3, 0, 1, 2, 3, 3, 3]


def test_a_user_may_choose_the_cuts(fake_family):
    plan = compose(Request(world=2, pipeline=2, pipeline_cuts=(3,), accumulate=2), *family(fake_family))
    assert plan.stage_bounds == (0, 4, 11)


def test_padding_and_copies_are_in_the_plan(fake_family):
    plan = compose(Request(world=4, tensor=4), *family(fake_family, {"vocab_size": 1001}))
    assert any("attn.k.weight" in r and "each held 2 times" in r for r in plan.remarks)
    assert any("embed" in r and "1001 rows padded to 1004" in r for r in plan.remarks)


def test_sequence_parallel_alone_is_off_and_said(fake_family):
    plan = compose(Request(sequence_parallel=True), *family(fake_family))
    assert not plan.sequence_parallel
    assert any("sequence_parallel" in remark for remark in plan.remarks)


@pytest.mark.parametrize(
    ("request_", "rule"),
    [
        (Request(world=8, tensor=0), "degrees are positive"),
        (Request(world=6, tensor=4), "degrees fill the world"),
        (Request(world=1, pipeline=2), "degrees fill the world"),
        (Request(world=3, nodes=2), "machines are equal"),
        (Request(world=8, tensor=2, data=2), "data-parallel degree agrees"),
        (Request(world=8, sharding=2), "sharding has a stage"),
        (Request(world=3, tensor=3), "heads divide"),
        (Request(world=16, pipeline=16), "a block for every chunk"),
        (Request(world=2, pipeline=2, pipeline_cuts=(8,)), "cuts fit"),
        (Request(world=2, pipeline=2, pipeline_cuts=(2, 4)), "cuts fit"),
        (Request(world=2, pipeline=2, virtual_stages=2, accumulate=8), "interleaving needs depth"),
        (Request(world=4, pipeline=4, virtual_stages=2, accumulate=7), "interleaving needs depth"),
        (Request(world=4, pipeline=2, sharding_stage=2), "stages 2 and 3 without pipeline"),
        (Request(world=4, pipeline=2, sharding_stage=3), "stages 2 and 3 without pipeline"),
        (Request(world=4, tensor=4, sequence_parallel=True, sequence=1022), "sequence divides"),
        (Request(world=2, expert=2), "experts divide"),
        (Request(world=2, pipeline=2, task="prefix"), "prefix tuning without pipeline"),
        (Request(world=2, pipeline=2, generation_evaluation=True), "generation-evaluation without pipeline"),
    ],
)
def test_each_rule_refuses_and_the_nearest_plan_is_legal(fake_family, request_, rule, monkeypatch):
    monkeypatch.setattr("zoo_core.matrix.limits.LIMITS", {})
    error = refusal(fake_family, request_)
    assert rule in error.what and "zoo/fake-1b" in error.what
    assert error.why
    assert "nearest legal plan" in error.todo


def test_key_value_heads_are_split_or_copied(fake_family):
    error = refusal(fake_family, Request(world=3, tensor=3), {"num_attention_heads": 6, "hidden_size": 48})
    assert "key/value heads" in error.what


def test_a_table_row_that_does_not_split_is_named(fake_family):
    error = refusal(fake_family, Request(world=4, tensor=4), {"intermediate_size": 98})
    assert "parameters split" in error.what
    assert "fake.layers.0.mlp.up.weight" in error.why and "98" in error.why


def test_a_refused_cell_and_an_exclusion_stop_the_plan(fake_family):
    cells = {"pipeline_parallel": Support("refused", "its layers share state")}
    error = refusal(fake_family, Request(world=4, pipeline=2), cells=cells)
    assert "the family supports it" in error.what and "its layers share state" in error.why
    pair = (Exclusion("tensor_parallel", "sharding_stage2", "never tried"),)
    error = refusal(fake_family, Request(world=4, tensor=2, sharding_stage=2), exclusions=pair)
    assert "the family combines them" in error.what and "never tried" in error.why
    assert "stage1" in error.todo


def test_a_world_that_is_too_small_says_how_many(fake_family):
    error = refusal(fake_family, Request(world=1, tensor=2, pipeline=2))
    assert "--nproc 4" in error.todo
    error = refusal(fake_family, Request(world=2, nodes=2, tensor=2, pipeline=2))
    assert "--nproc 2" in error.todo and "2 machines" in error.todo


def test_the_nearest_plan_keeps_what_it_can(fake_family):
    todo = refusal(fake_family, Request(world=8, tensor=2, pipeline=2, sharding_stage=2)).todo
    assert "--tensor_parallel_degree 2 --pipeline_parallel_degree 2" in todo and "--sharding stage1" in todo
    todo = refusal(fake_family, Request(world=8, tensor=2, data=2, sharding_stage=1)).todo
    assert "--sharding_parallel_degree 2" in todo and "--data_parallel_degree 2" in todo
    todo = refusal(fake_family, Request(world=4, pipeline=4, virtual_stages=2, accumulate=4)).todo
    assert "--gradient_accumulation_steps 8" in todo and "--virtual_pp_degree 2" in todo


def test_a_model_that_refuses_everything_has_no_nearest_plan(fake_family):
    error = refusal(fake_family, Request(), cells={"pretrain": Support("refused", "inference only")})
    assert "no degrees" in error.todo


def test_every_rule_has_a_name_a_statement_and_evidence():
    assert len({rule.name for rule in RULES}) == len(RULES)
    assert all(rule.statement.endswith(".") and rule.evidence for rule in RULES)


def test_judge_gives_a_verdict_for_each_rule(fake_family):
    architecture, config = family(fake_family)
    found = judge(Request(world=3, tensor=3), facts(architecture, config))
    assert [verdict.rule for verdict in found] == list(RULES)
    assert {v.rule.name for v in found if not v.legal} == {
        "heads divide",
        "key/value heads divide or copy",
        "parameters split",
    }


def test_shares_add_up(fake_family):
    architecture, config = family(fake_family)
    table = architecture.table(config)
    single = share(compose(Request(), architecture, config), table)
    parts = share(compose(Request(world=4, tensor=2, pipeline=2, accumulate=2), architecture, config), table)
    assert sum(part.global_elements for part in parts) == single[0].global_elements
    assert sorted(name for part in parts for name in part.parameters) == sorted(table)
    assert parts[0].layers[0] == "embed" and parts[1].layers[-1] == "lm_head"
    assert parts[0].blocks == parts[1].blocks == 4


def test_a_tied_head_counts_once_on_one_stage_and_again_on_another(fake_family):
    architecture, config = family(fake_family, {"tie_word_embeddings": True})
    table = architecture.table(config)
    embedding = 1000 * 64
    single = share(compose(Request(), architecture, config), table)[0].global_elements
    untied = replace(config, tie_word_embeddings=False)
    assert share(compose(Request(), architecture, untied), architecture.table(untied))[0].global_elements == (
        single + embedding
    )
    parts = share(compose(Request(world=2, pipeline=2, accumulate=2), architecture, config), table)
    assert sum(part.global_elements for part in parts) == single + embedding


def test_the_description_says_what_matters(fake_family):
    text = compose(Request(world=8, tensor=4, pipeline=2, accumulate=4, sequence=128), *family(fake_family)).describe()
    assert "tensor 4" in text and "8 processes" in text
    assert "blocks 0-3" in text and "lm_head" in text
    assert "each held 2 times" in text
    assert "512 tokens" in text
