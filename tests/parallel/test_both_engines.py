"""The semi-automatic engine equals the manual one over ten steps, in the layouts that both have.

`test_equality.py` holds each against the single process; what they are off by may not add up.
"""

from __future__ import annotations

import numpy as np
import parallel_cases as cases
import pytest
from parallel_cases import TOLERANCE, task_id
from parallel_jobs import tensors

MODELS = ("llama", "qwen", "gpt3-ten", "deepseek_v3-ten")

pytestmark = [
    pytest.mark.soak,
    pytest.mark.parametrize(
        ("model", "layout", "other"),
        [(model, name, f"auto-{name}") for model in MODELS for name in cases.BOTH],
    ),
]


def test_losses_and_norms(trained, model, layout, other):
    first, second = (np.array(trained.of(task_id(model, at))["steps"]["steps"]) for at in (layout, other))
    assert len(first) == cases.STEPS
    np.testing.assert_allclose(second, first, **TOLERANCE)


def test_saved_weights(trained, model, layout, other):
    step = f"weights/checkpoint-{cases.STEPS}"
    first, second = (tensors(trained.path(task_id(model, at)) / step, "model") for at in (layout, other))
    assert second.keys() == first.keys() and first
    for name in first:
        np.testing.assert_allclose(second[name], first[name], rtol=1e-5, atol=1e-6, err_msg=name)
