"""Every legal layout equals the single process: losses, gradient norms, evaluation, saved weights, logits.

Ten steps with accumulation, clipping that bites, recompute, weight decay, unequal numbers of labels, tied embeddings.
Losses and norms are compared with AdamW's default epsilon; weights and logits with epsilon 1e-3, because a parameter
whose gradient is zero in exact arithmetic has its rounding noise amplified to whole steps by the default.
"""

from __future__ import annotations

import numpy as np
import parallel_cases as cases
import pytest
from parallel_cases import TOLERANCE, task_id
from parallel_jobs import tensors

from zoo_core.registry import registry

pytestmark = pytest.mark.parametrize(
    ("model", "layout"),
    [
        pytest.param(*case, id="-".join(case), marks=[pytest.mark.soak] if case in cases.IN_SOAK else [])
        for case in cases.CASES
    ],
)


@pytest.fixture(autouse=True)
def claims(zoo_evidence, model, layout):
    """What the four comparisons of a case prove."""
    name, _ = cases.MODELS[model]
    zoo_evidence(registry().find(name).architecture.family, *cases.cells_of((model, layout)), tier="T2", model=name)


def test_losses_and_norms(trained, model, layout):
    single = np.array(trained.of(task_id(model, "single"))["steps"]["steps"])
    found = np.array(trained.of(task_id(model, layout))["steps"]["steps"])
    assert (single[:, 1] > cases.CLIP).all(), "clipping does not bite, so it is not tested"
    assert found.shape == single.shape == (cases.steps_of(model), 3)
    np.testing.assert_array_equal(found[:, 2], single[:, 2])
    np.testing.assert_allclose(found, single, **TOLERANCE)


def test_evaluation(trained, model, layout):
    single = trained.of(task_id(model, "single"))["steps"]["evaluations"]
    found = trained.of(task_id(model, layout))["steps"]["evaluations"]
    assert len(found) == 1
    for (total, tokens, _), (expected, count, _) in zip(found, single, strict=True):
        assert tokens == count
        np.testing.assert_allclose(total / tokens, expected / count, **TOLERANCE)


def test_saved_weights(trained, model, layout):
    step = f"weights/checkpoint-{cases.weight_steps_of(model)}"
    single = tensors(trained.path(task_id(model, "single")) / step, "model")
    found = tensors(trained.path(task_id(model, layout)) / step, "model")
    assert found.keys() == single.keys()
    for name in single:
        # tighter than elsewhere: ten steps move some weights by 1e-4 only
        np.testing.assert_allclose(found[name], single[name], rtol=1e-5, atol=1e-6, err_msg=name)


def test_logits_of_the_saved(trained, model, layout):
    single = np.load(trained.path(task_id(model, "single")) / "weights" / "logits.npy")
    found = np.load(trained.path(task_id(model, layout)) / "weights" / "logits.npy")
    np.testing.assert_allclose(found, single, **TOLERANCE)
