"""A checkpoint of any layout goes on in any other: states bit for bit as they were saved, then the same losses."""

from __future__ import annotations

import json

import numpy as np
import parallel_cases as cases
import pytest
from parallel_cases import TOLERANCE, task_id
from parallel_jobs import tensors

PAIRS = [
    ("llama", "tp2xpp2", "tp2xpp2"),
    ("llama", "tp2xpp2", "tp2xpp2xsharding2-stage1"),
    ("llama", "sharding2-stage3", "nodes2-dp2xtp2"),
    ("llama-fused", "tp4+sp", "tp2xsharding2-stage3"),
    ("llama", "tp4", "pp2xsharding2-stage1"),
    ("qwen-8", "pp4-interleaved", "single"),
    ("gpt3-8", "pp4-interleaved", "pp4-interleaved"),
    ("gpt3", "tp2xpp2", "sharding2-stage2"),
    ("bloom", "tp2xsharding2-stage1", "sharding2-stage3"),
    ("baichuan", "tp2xpp2", "tp2+sp"),
    ("chatglm", "tp2xpp2", "sharding2-stage1"),
    ("deepseek_v3", "ep2xtp2+sp", "pp2"),
    ("deepseek_v3", "tp2xpp2", "ep4xdp2xsharding2-stage1"),
    ("deepseek_v3", "ep2xdp4", "ep2xpp2"),
    ("opt", "sharding2-stage2", "sharding2-stage2"),
    ("glm", "sharding2-stage3", "sharding2-stage3"),
    # from one engine to the other, and on in its own
    ("llama", "tp2xsharding2-stage1", "auto-dp2xtp2"),
    ("llama", "auto-tp2+spxsharding2-stage3", "tp2xpp2"),
    ("llama", "auto-sharding2-stage2", "auto-sharding2-stage2"),
    ("llama", "tp2xsharding2-stage1", "static-auto-dp2xtp2"),
    ("llama-fused", "auto-tp2+spxsharding2-stage3", "tp4"),
    ("gpt3", "tp2xpp2", "auto-tp2+spxsharding2-stage3"),
    ("deepseek_v3", "auto-tp2+spxsharding2-stage3", "ep2xtp2+sp"),
]
"""(model, layout that saves, layout that goes on): every family; gpt3 and glm have dropout, with the masks of the
step's number. What saves is a case of test_equality too, so that going on is all that is added."""

pytestmark = pytest.mark.parametrize(
    ("model", "source", "layout"), PAIRS, ids=[f"{model}-{source}-to-{layout}" for model, source, layout in PAIRS]
)


def test_loaded_states_are_the_saved_ones(trained, model, source, layout):
    step = f"checkpoint-{cases.halfway_of(model)}"
    saved = trained.path(task_id(model, source)) / "steps" / step
    again = trained.path(task_id(model, f"{source}-to-{layout}")) / "resumed" / "resaved" / step
    for group in ("model", "optimizer"):
        wanted, found = tensors(saved, group), tensors(again, group)
        assert found.keys() == wanted.keys() and wanted
        for name in wanted:
            assert found[name].tobytes() == wanted[name].tobytes(), name
    states = [json.loads((folder / "trainer_state.json").read_text())["beta_powers"] for folder in (saved, again)]
    assert states[0] == states[1]


def test_the_same_losses_follow(trained, model, source, layout):
    found = trained.of(task_id(model, f"{source}-to-{layout}"))["resumed"]["steps"]
    halfway = cases.halfway_of(model)
    assert len(found) == cases.steps_of(model) - halfway >= 3
    if source == layout:
        assert found == trained.of(task_id(model, layout))["steps"]["steps"][halfway:]
    single = trained.of(task_id(model, "single"))["steps"]["steps"][halfway:]
    np.testing.assert_allclose(found, single, **TOLERANCE)
