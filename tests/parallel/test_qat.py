"""Quantisation-aware training under other layouts: the same spans, and the same steps.

Rounding makes training discontinuous: where another order of a sum moves an input by its last bits, across the middle
between two integers, it is rounded to the other one. Layouts that compute a token's sums alike (pipeline stages,
replicas, and tensor parallelism with and without stages) have to agree to the last digits. Tensor parallelism, whose
sums have another order than a single process', is compared in the first step, where weights are rounded and inputs are
not yet: its loss, its norm, and the spans that every layer's input gave; and over later steps to what rounding moves.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import parallel_cases as cases
import pytest
from parallel_cases import TOLERANCE
from parallel_jobs import Results

STEPS, HALFWAY = 6, 3
SPECS: dict[str, dict[str, Any]] = {
    "channel": {"weight_bits": 8, "activation_bits": 8, "per_channel": True},
    "weight": {"weight_bits": 4, "activation_bits": 8, "per_channel": False},
}
QUICK = (("gpt3", "channel", "pp2"), ("gpt3", "channel", "tp2+sp"), ("gpt3", "weight", "tp2"))
SOAK = (
    ("gpt3", "channel", "sharding2-stage2"), ("gpt3", "channel", "tp2"), ("gpt3", "channel", "tp2xpp2"),
    ("gpt3", "channel", "dp2xtp2"), ("deepseek_v3", "channel", "tp2"), ("deepseek_v3", "channel", "ep2"),
)  # fmt: skip


def name_of(model: str, kind: str, layout: str, more: str = "") -> str:
    return f"qat-{kind}-{model}@{layout}{more}"


def task_of(model: str, kind: str, layout: str) -> dict[str, Any]:
    run = {"epsilon": cases.WEIGHTS_EPSILON, "last": STEPS, "rate": 1, "save_at": [1, HALFWAY]}
    return {
        "id": name_of(model, kind, layout), "model": model, "layout": layout, "qat": SPECS[kind],
        "recompute": "none" if layout == "single" else cases.recompute_of((model, layout)), "runs": {"steps": run},
    }  # fmt: skip


def marked(*layouts: str) -> list[Any]:
    """The cases of these layouts, the long ones marked."""
    found = [(case, ()) for case in QUICK] + [(case, (pytest.mark.soak,)) for case in SOAK]
    return [pytest.param(*case, id="-".join(case), marks=marks) for case, marks in found if case[2] in layouts]


@pytest.fixture(scope="module")
def rounded(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Results:
    """The results of every case that a test to be run names, in one launch a world."""
    results = Results(tmp_path_factory.mktemp("qat"))
    items = [item for item in request.session.items if "rounded" in getattr(item, "fixturenames", ())]
    cases_of = {tuple(item.callspec.params.values()) for item in items if hasattr(item, "callspec")}
    chosen = {("gpt3", "channel", "single"), *cases_of, *((model, kind, "single") for model, kind, _ in cases_of)}
    if any(cases.LAYOUTS[layout].world == 4 for _, _, layout in chosen):
        chosen.add(("gpt3", "channel", "tp2"))
    for world in (1, 2, 4):
        results.run([task_of(*case) for case in sorted(chosen) if cases.LAYOUTS[case[2]].world == world], world)
    saved = results.path(name_of("gpt3", "channel", "single")) / "steps" / f"checkpoint-{HALFWAY}"
    run = {"epsilon": cases.WEIGHTS_EPSILON, "first": HALFWAY, "last": STEPS, "rate": 1, "load": str(saved)}
    again = task_of("gpt3", "channel", "single") | {"id": name_of("gpt3", "channel", "single", "-resumed")}
    results.run([again | {"runs": {"resumed": run}}], 1)
    return results


def steps(results: Results, *case: str) -> np.ndarray:
    return np.array(results.of(name_of(*case))["steps"]["steps"])


def spans(results: Results, *case: str) -> dict[str, float]:
    folder = results.path(name_of(*case)) / "steps" / "checkpoint-1"
    kept = json.loads((folder / "trainer_state.json").read_text())["qat"]["inputs"]
    return {name: total / weight for name, (total, weight) in kept.items()}


@pytest.mark.parametrize(("model", "kind", "layout"), marked("pp2", "sharding2-stage2"))
def test_layouts_that_sum_alike_equal_the_single_process(rounded, model, kind, layout):
    np.testing.assert_allclose(steps(rounded, model, kind, layout), steps(rounded, model, kind, "single"), **TOLERANCE)


@pytest.mark.parametrize(("model", "kind", "layout"), marked("tp2", "tp2+sp", "ep2"))
def test_tensor_parallel_rounds_by_the_same_spans(rounded, model, kind, layout):
    single, found = steps(rounded, model, kind, "single"), steps(rounded, model, kind, layout)
    np.testing.assert_allclose(found[0], single[0], **TOLERANCE)
    theirs, ours = spans(rounded, model, kind, "single"), spans(rounded, model, kind, layout)
    assert ours.keys() == theirs.keys()
    for name in theirs:
        assert ours[name] == pytest.approx(theirs[name], rel=1e-5), name
    np.testing.assert_allclose(found[:, 0], single[:, 0], rtol=1e-3)


def test_resumes_exactly(rounded):
    resumed = np.array(rounded.of(name_of("gpt3", "channel", "single", "-resumed"))["resumed"]["steps"])
    np.testing.assert_array_equal(resumed, steps(rounded, "gpt3", "channel", "single")[HALFWAY:])


@pytest.mark.parametrize(("model", "kind", "layout"), marked("tp2xpp2", "dp2xtp2"))
def test_four_processes_equal_two(rounded, model, kind, layout):
    np.testing.assert_allclose(steps(rounded, model, kind, layout), steps(rounded, model, kind, "tp2"), **TOLERANCE)
