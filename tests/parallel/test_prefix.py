"""Prefixes under every layout equal those of the single process: losses, norms, saved prefixes, logits, resharding.

Twenty steps with clipping, weight decay and recompute. The workers also compare every frozen weight with what it was,
bit by bit. Losses and norms are compared with AdamW's default epsilon, weights and logits with epsilon 1e-3, as in
test_equality.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import parallel_cases as cases
import pytest
from parallel_cases import TOLERANCE
from parallel_jobs import Results, tensors

from zoo_core.registry import registry

STEPS, WEIGHT_STEPS, HALFWAY = 20, 3, 10
PREFIX, PROJECTED = {"tokens": 5}, {"tokens": 5, "hidden": 24}

QUICK = {
    "llama": ("tp2+sp", "sharding2-stage2"),
    "llama*": ("tp2+sp",),
    "deepseek_v3": ("tp2+sp",),
    "chatglm2": ("tp2",),
}
"""Models, one with * has a projection."""
SOAK = {
    "llama": ("tp2", "dp2", "sharding2-stage1", "sharding2-stage3", "tp4", "tp4+sp", "tp2xsharding2-stage2"),
    "llama*": ("dp2", "sharding2-stage1", "tp4", "tp2xsharding2-stage1"),
    "gpt3-fused": ("tp2", "tp2+sp", "dp2", "sharding2-stage2"),
    "bloom": ("tp2", "tp2+sp", "dp2"),
    "baichuan": ("tp2",),
    "opt": ("tp2",),
    "qwen": ("tp2+sp",),
    "deepseek_v3": ("tp2", "dp2", "sharding2-stage2", "sharding2-stage3", "ep2xtp2"),
    "deepseek_v3*": ("tp2+sp",),
    "chatglm": ("tp2",),
    "chatglm2": ("tp2+sp", "dp2", "sharding2-stage2", "tp4"),
    "glm": ("tp2",),
}
CASES = [(model, layout) for model, layouts in QUICK.items() for layout in layouts]
CASES += [(model, layout) for model, layouts in SOAK.items() for layout in layouts]
SLOW = {(model, layout) for model, layouts in SOAK.items() for layout in layouts}

RESUMED = [("llama", "tp2+sp", "single"), ("llama*", "single", "tp2+sp")]


def name_of(model: str, layout: str, source: str = "") -> str:
    return f"prefix-{model.replace('*', '-projected')}@{source + '-to-' if source else ''}{layout}"


def task_of(model: str, layout: str) -> dict[str, Any]:
    """A case's two runs: for losses and norms, and for weights."""
    plain = model.removesuffix("*")
    weights = {"epsilon": cases.WEIGHTS_EPSILON, "last": WEIGHT_STEPS, "save_at": [WEIGHT_STEPS], "logits": True}
    return {
        "id": name_of(model, layout),
        "model": plain,
        "layout": layout,
        "recompute": "none" if layout == "single" else cases.recompute_of((plain, layout)),
        "prefix": PREFIX if plain == model else PROJECTED,
        "runs": {
            "steps": {"epsilon": cases.DEFAULT_EPSILON, "last": STEPS, "save_at": [HALFWAY]},
            "weights": weights,
        },
    }


def resume_of(model: str, source: str, layout: str, results: Results) -> dict[str, Any]:
    saved = results.folder / name_of(model, source) / "steps" / f"checkpoint-{HALFWAY}"
    run = {"epsilon": cases.DEFAULT_EPSILON, "first": HALFWAY, "last": STEPS, "load": str(saved)}
    return task_of(model, layout) | {"id": name_of(model, layout, source), "runs": {"resumed": run}}


@pytest.fixture(scope="module")
def tuned(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Results:
    """The results of every case that a test to be run names, the single processes first, in one launch a world."""
    results, tasks = Results(tmp_path_factory.mktemp("prefix")), {}
    for item in request.session.items:
        if "tuned" not in getattr(item, "fixturenames", ()):
            continue
        params = item.callspec.params
        model, layout, source = params["model"], params["layout"], params.get("source")
        wanted = [task_of(model, "single"), task_of(model, source or layout)]
        wanted += [resume_of(model, source, layout, results)] if source else []
        tasks |= {task["id"]: task for task in wanted}
    places = list(cases.LAYOUTS)
    order = sorted(tasks.values(), key=lambda task: ("resumed" in task["runs"], places.index(task["layout"])))
    back_on_one = [task for task in order if "resumed" in task["runs"] and task["layout"] == "single"]
    for world in (1, 2, 4):
        own = [task for task in order if cases.LAYOUTS[task["layout"]].world == world and task not in back_on_one]
        results.run(own, world)
    results.run(back_on_one, 1)
    return results


def marked() -> list[Any]:
    return [pytest.param(*case, id="-".join(case), marks=[pytest.mark.soak] if case in SLOW else []) for case in CASES]


@pytest.mark.parametrize(("model", "layout"), marked())
def test_equals_the_single_process(tuned, model, layout, zoo_evidence):
    name = cases.MODELS[model.removesuffix("*")][0]
    zoo_evidence(registry().find(name).architecture.family, "prefix_tuning", tier="T2", model=name)
    single = np.array(tuned.of(name_of(model, "single"))["steps"]["steps"])
    found = np.array(tuned.of(name_of(model, layout))["steps"]["steps"])
    assert found.shape == single.shape == (STEPS, 3)
    assert (single[:, 1] > 0).all() and np.ptp(single[:, 0]) > 1e-3
    np.testing.assert_allclose(found, single, **TOLERANCE)
    theirs, ours = (tuned.path(name_of(model, at)) / "weights" for at in ("single", layout))
    step = f"checkpoint-{WEIGHT_STEPS}"
    expected, held = tensors(theirs / step, "prefix"), tensors(ours / step, "prefix")
    assert held.keys() == expected.keys()
    assert not (ours / step / "model.safetensors.index.json").exists()
    for name in expected:
        np.testing.assert_allclose(held[name], expected[name], rtol=1e-5, atol=1e-6, err_msg=name)
    np.testing.assert_allclose(np.load(ours / "logits.npy"), np.load(theirs / "logits.npy"), **TOLERANCE)


@pytest.mark.parametrize(("model", "source", "layout"), RESUMED)
def test_a_checkpoint_resumes_under_another_layout(tuned, model, source, layout):
    single = np.array(tuned.of(name_of(model, "single"))["steps"]["steps"])[HALFWAY:]
    found = np.array(tuned.of(name_of(model, layout, source))["resumed"]["steps"])
    np.testing.assert_allclose(found, single, **TOLERANCE)
