"""A checkpoint of any layout goes on in any other: states bit for bit as they were saved, then the same losses."""

from __future__ import annotations

import json

import numpy as np
import parallel_cases as cases
import pytest
from parallel_cases import TOLERANCE, task_id
from parallel_jobs import tensors

PAIRS = [
    ("llama", "tp2xpp2", "single"),
    ("llama", "tp2xpp2", "dp2"),
    ("llama", "tp2xpp2", "sharding2-stage3"),
    ("llama", "sharding2-stage1", "sharding2-stage2"),
    ("llama", "sharding2-stage2", "sharding2-stage2"),
    ("llama", "sharding2-stage3", "sharding2-stage3"),
    ("llama", "dp2xsharding2-stage2", "tp2+sp"),
    ("llama", "tp2xpp2", "tp2xpp2"),
    ("llama", "tp2xpp2", "tp4"),
    ("llama", "tp2xpp2", "tp2xpp2xsharding2-stage1"),
    ("qwen", "tp4", "tp2"),
    ("qwen", "tp4", "pp2xsharding2-stage1"),
    ("qwen", "pp2xsharding2-stage1", "pp2xsharding2-stage1"),
    ("qwen-8", "pp4-interleaved", "single"),
    ("llama-fused", "tp2xsharding2-stage3", "tp2xsharding2-stage3"),
    ("llama-fused", "tp4", "tp2xsharding2-stage3"),
]
"""(model, layout that saves, layout that goes on)."""

pytestmark = pytest.mark.parametrize(
    ("model", "source", "layout"), PAIRS, ids=[f"{model}-{source}-to-{layout}" for model, source, layout in PAIRS]
)


def test_loaded_states_are_the_saved_ones(trained, model, source, layout):
    step = f"checkpoint-{cases.HALFWAY}"
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
    assert len(found) == cases.STEPS - cases.HALFWAY
    if source == layout:
        assert found == trained.of(task_id(model, layout))["steps"]["steps"][cases.HALFWAY :]
    single = trained.of(task_id(model, "single"))["steps"]["steps"][cases.HALFWAY :]
    np.testing.assert_allclose(found, single, **TOLERANCE)
