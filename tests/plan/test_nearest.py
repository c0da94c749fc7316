"""The nearest legal plan: always legal, never worse than another legal one, and typed flags that work."""

from __future__ import annotations

import shlex
from itertools import product

import pytest

from zoo_core.arguments import load_arguments
from zoo_core.errors import PlanError
from zoo_core.plan import Request, compose, facts, from_arguments, judge
from zoo_core.plan.nearest import distance, nearest_legal
from zoo_core.registry import Registry


@pytest.fixture(scope="module")
def model(fake_family):
    architecture = Registry({"fake": fake_family.plugin()}).family("fake")
    return architecture, fake_family.config()


def legal(request, known):
    return all(verdict.legal for verdict in judge(request, known))


@pytest.mark.parametrize("world", [1, 4, 6, 8])
def test_no_legal_plan_is_nearer(model, world):
    """Against an exhaustive search written here: every tp, pp, sharding and stage of the world."""
    known = facts(*model)
    sizes = [d for d in range(1, world + 1) if world % d == 0]
    everything = [
        Request(
            world=world, tensor=t, pipeline=p, sharding=s, sharding_stage=stage, data=world // (t * p * s), accumulate=8
        )
        for t, p, s, stage in product(sizes, sizes, sizes, range(4))
        if world % (t * p * s) == 0 and (stage > 0) == (s > 1)
    ]
    allowed = [request for request in everything if legal(request, known)]
    refused = 0
    for tensor, pipeline, stage in product((1, 2, 3, 4), (1, 2, 3), (0, 2, 3)):
        asked = Request(world=world, tensor=tensor, pipeline=pipeline, sharding_stage=stage, accumulate=8)
        if legal(asked, known):
            continue
        refused += 1
        found = nearest_legal(asked, known)
        assert legal(found, known)
        assert distance(asked, found) <= min(distance(asked, other) for other in allowed) + 1e-9
    assert refused > 5


ASKED = [
    "--tp 3", "--tp 16", "--pp 3", "--pp 2 --sharding stage2", "--pp 4 --vpp 2 --accumulate_steps 4", "--pp 2 --vpp 2",
    "--tp 2 --dp 2 --sharding stage1", "--sharding_degree 4", "--tp 4 --sequence_parallel --max_seq_length 1022",
    "--pp 2 --pp_cuts 9", "--pp 16", "--ep_degree 2", "--tp 8 --pp 2 --sharding 'stage3 offload'", "--nnodes 3",
]  # fmt: skip


@pytest.mark.parametrize("world", [1, 2, 8, 24])
@pytest.mark.parametrize("asked", ASKED)
def test_the_flags_that_are_proposed_are_accepted(model, asked, world):
    base = ["--model", "zoo/fake-1b", *shlex.split(asked)]
    try:
        compose(from_arguments(load_arguments("pretrain", (), base), world), *model)
        return
    except PlanError as error:
        assert "nearest legal plan" in error.todo
        flags = shlex.split(error.todo.split("nearest legal plan on ")[1].split(": ", 1)[1])
    plan = compose(from_arguments(load_arguments("pretrain", (), [*base, *flags]), world), *model)
    assert plan.world == world
