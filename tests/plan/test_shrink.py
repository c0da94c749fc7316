"""The plan that a run goes on with when fewer processes are left: legal, near, and of the same global batch."""

from __future__ import annotations

import pytest

from zoo_core.plan import Request, facts, judge, shrunk
from zoo_core.registry import registry


def model_of(name, scale="tiny"):
    found = registry().find(name)
    config = found.config.replace(**found.architecture.capabilities.scales[scale]) if scale else found.config
    return facts(found.architecture, config)


@pytest.mark.parametrize(
    ("model", "most", "asked", "expected"),
    [
        # tensor parallelism stays, a replica goes; three processes have no whole accumulation of four samples
        ("qwen/qwen-7b", 3, {"world": 4, "tensor": 2, "accumulate": 2}, {"world": 2, "tensor": 2, "accumulate": 4}),
        ("qwen/qwen-7b", 1, {"world": 4, "tensor": 2, "accumulate": 2}, {"world": 1, "tensor": 1, "accumulate": 4}),
        ("qwen/qwen-7b", 3, {"world": 4, "micro_batch": 3}, {"world": 3, "micro_batch": 2, "accumulate": 2}),
        (
            "qwen/qwen-7b",
            7,
            {"world": 8, "sharding_stage": 3, "micro_batch": 4},
            {"world": 4, "sharding": 4, "sharding_stage": 3, "micro_batch": 4, "accumulate": 2},
        ),
        (
            "deepseek-ai/DeepSeek-V3",
            3,
            {"world": 4, "expert": 4, "accumulate": 2},
            {"world": 2, "expert": 2, "accumulate": 4},
        ),
        # sequence parallelism has no meaning on one process of the tensor axis
        (
            "qwen/qwen-7b",
            1,
            {"world": 2, "tensor": 2, "sequence_parallel": True, "accumulate": 3},
            {"world": 1, "sequence_parallel": False, "accumulate": 3},
        ),
    ],
)
def test_the_nearest_smaller_plan(model, most, asked, expected):
    found = shrunk(Request(**asked), model_of(model), most)
    assert {name: getattr(found, name) for name in expected} == expected


@pytest.mark.parametrize("model", ["meta-llama/Meta-Llama-3-8B", "deepseek-ai/DeepSeek-V3", "bigscience/bloom-7b1"])
def test_every_smaller_plan_is_legal_and_keeps_the_global_batch(model):
    known = model_of(model, "small")
    asked = (
        Request(world=8, tensor=2, pipeline=2, micro_batch=3, accumulate=4),
        Request(world=8, pipeline=4, virtual_stages=1, micro_batch=2, accumulate=8, sharding_stage=1),
        Request(world=12, sharding_stage=2, sharding=6, micro_batch=5),
        Request(world=8, tensor=4, sequence_parallel=True, sequence=64, accumulate=7),
    )
    for request in asked:
        degrees = request.resolved()
        total = request.micro_batch * request.accumulate * degrees.data * degrees.sharding
        for most in range(1, request.world):
            found = shrunk(request, known, most)
            assert found.world <= most and all(verdict.legal for verdict in judge(found, known))
            after = found.resolved()
            assert found.micro_batch * found.accumulate * after.data * after.sharding == total
            assert found.micro_batch <= request.micro_batch


def test_nothing_fits():
    """Samples that one process cannot read either: the model has learned fewer positions."""
    assert shrunk(Request(world=2, sequence=10**6), model_of("gpt3-345M"), 1) is None
