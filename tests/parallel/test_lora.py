"""Adapters under every layout equal those of the single process: losses, norms, saved adapters, logits, resharding.

Twenty steps with clipping, weight decay, recompute, dropout before the adapters and LoRA+. The workers also compare
every frozen weight with what it was, bit by bit. Losses and norms are compared with AdamW's default epsilon, weights
and logits with epsilon 1e-3, as in test_equality.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import parallel_cases as cases
import pytest
from parallel_cases import BOTH, TOLERANCE
from parallel_jobs import Results, tensors

from zoo_core.registry import registry

STEPS, HALFWAY = 20, 10
LORA: dict[str, Any] = {"rank": 4, "alpha": 16.0, "dropout": 0.1, "plus": 4.0}
WITH_EXPERTS = {**LORA, "dropout": 0.0}

QUICK = {
    "llama": (
        "tp2", "tp2+sp", "pp2", "sharding2-stage2", "tp2xpp2", "auto-tp2+spxsharding2-stage3", "static-auto-dp2",
    ),
    "gpt3-fused": ("tp2+sp", "tp2xpp2"),
    "deepseek_v3": ("ep2",),
}  # fmt: skip
SOAK = {
    "llama": (
        "dp2", "sharding2-stage1", "sharding2-stage3", "tp4", "tp2+spxpp2", "tp2xsharding2-stage1",
        "tp2xsharding2-stage2", "tp2xsharding2-stage3",
        "auto-dp2", "auto-tp2", "auto-tp2+sp", "auto-dp2xtp2", "auto-sharding2-stage1", "auto-sharding2-stage2",
        "auto-sharding2-stage3", "static-dp2", "static-auto-dp2xtp2", "static-auto-tp2+spxsharding2-stage3",
    ),
    "llama-fused": ("tp4", "tp4+sp", "tp2xpp2", "auto-tp2+sp"),
    "llama-8": ("pp4-interleaved",),
    "gpt3-fused": (
        "tp2", "pp2", "sharding2-stage1", "sharding2-stage2", "sharding2-stage3", "tp2xsharding2-stage1",
        "tp2xsharding2-stage2", "tp2xsharding2-stage3",
        "auto-tp2+sp",
    ),
    "bloom": ("tp2", "tp2+sp", "tp2xpp2", "auto-tp2+sp"),
    **dict.fromkeys(("qwen", "baichuan", "chatglm", "chatglm2", "opt", "glm"), ("tp2+sp", "auto-tp2+sp")),
    "deepseek_v3": (
        "tp2", "tp2+sp", "pp2", "tp2xpp2", "sharding2-stage1", "sharding2-stage2", "sharding2-stage3",
        "tp2xsharding2-stage1", "ep2xtp2", "ep2xtp2+sp", "ep2xpp2", "ep2xsharding2-stage1",
        "auto-tp2+sp",
    ),
}  # fmt: skip
CASES = [(model, layout) for model, layouts in QUICK.items() for layout in layouts]
CASES += [(model, layout) for model, layouts in SOAK.items() for layout in layouts]
SLOW = {(model, layout) for model, layouts in SOAK.items() for layout in layouts}

RESUMED = [
    ("llama", "tp2", "single"),
    ("llama", "tp2", "auto-tp2+spxsharding2-stage3"),
    ("llama", "single", "tp2+sp"),
    ("llama", "tp2", "tp2xpp2"),
]


def name_of(model: str, layout: str, source: str = "") -> str:
    return f"lora-{model}@{source + '-to-' if source else ''}{layout}"


def weight_steps_of(model: str) -> int:
    """After how many steps adapters are compared: more of the model that shows every layout under both engines."""
    return 10 if model == "llama" else 3


def task_of(model: str, layout: str) -> dict[str, Any]:
    """A case's two runs: for losses and norms, and for weights."""
    last = weight_steps_of(model)
    return {
        "id": name_of(model, layout),
        "model": model,
        "layout": layout,
        "recompute": "none" if layout == "single" else cases.recompute_of((model, layout)),
        "lora": WITH_EXPERTS if model == "deepseek_v3" else LORA,
        "runs": {
            "steps": {"epsilon": cases.DEFAULT_EPSILON, "last": STEPS, "rate": 1, "save_at": [HALFWAY]},
            "weights": {
                "epsilon": cases.WEIGHTS_EPSILON, "last": last, "rate": 1, "save_at": [last], "logits": True,
            },
        },
    }  # fmt: skip


def resume_of(model: str, source: str, layout: str, results: Results) -> dict[str, Any]:
    saved = results.folder / name_of(model, source) / "steps" / f"checkpoint-{HALFWAY}"
    run = {"epsilon": cases.DEFAULT_EPSILON, "first": HALFWAY, "last": STEPS, "rate": 1, "load": str(saved)}
    return task_of(model, layout) | {"id": name_of(model, layout, source), "runs": {"resumed": run}}


@pytest.fixture(scope="module")
def adapted(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Results:
    """The results of every case that a test to be run names, in one launch a world."""
    results, tasks = Results(tmp_path_factory.mktemp("lora")), {}
    for item in request.session.items:
        if "adapted" not in getattr(item, "fixturenames", ()):
            continue
        params = item.callspec.params
        model, layout, source = params["model"], params["layout"], params.get("source")
        wanted = [task_of(model, "single"), task_of(model, source or layout)]
        wanted += [resume_of(model, source, layout, results)] if source else []
        wanted += [task_of(model, params["other"])] if "other" in params else []
        tasks |= {task["id"]: task for task in wanted}
    order = sorted(
        tasks.values(), key=lambda task: ("resumed" in task["runs"], list(cases.LAYOUTS).index(task["layout"]))
    )
    for resumed in (False, True):
        for world in (1, 2, 4):
            own = [
                t for t in order if cases.LAYOUTS[t["layout"]].world == world and ("resumed" in t["runs"]) == resumed
            ]
            results.run(own, world)
    return results


def marked() -> list[Any]:
    return [pytest.param(*case, id="-".join(case), marks=[pytest.mark.soak] if case in SLOW else []) for case in CASES]


@pytest.mark.parametrize(("model", "layout"), marked())
def test_equals_the_single_process(adapted, model, layout, zoo_evidence):
    name = cases.MODELS[model][0]
    cells = ["lora"] + ["semi_auto_lora"] * ("auto-" in layout) + ["to_static"] * layout.startswith("static-")
    zoo_evidence(registry().find(name).architecture.family, *cells, tier="T2", model=name)
    single = np.array(adapted.of(name_of(model, "single"))["steps"]["steps"])
    found = np.array(adapted.of(name_of(model, layout))["steps"]["steps"])
    assert found.shape == single.shape == (STEPS, 3)
    np.testing.assert_allclose(found, single, **TOLERANCE)
    theirs, ours = (adapted.path(name_of(model, at)) / "weights" for at in ("single", layout))
    step = f"checkpoint-{weight_steps_of(model)}"
    expected, held = tensors(theirs / step, "lora"), tensors(ours / step, "lora")
    assert held.keys() == expected.keys()
    assert all(values.any() for values in expected.values()), "B is zero at first; something was not trained"
    assert not (ours / step / "model.safetensors.index.json").exists()
    for name in expected:
        np.testing.assert_allclose(held[name], expected[name], rtol=1e-5, atol=1e-6, err_msg=name)
    np.testing.assert_allclose(np.load(ours / "logits.npy"), np.load(theirs / "logits.npy"), **TOLERANCE)


@pytest.mark.soak
@pytest.mark.parametrize(("model", "layout", "other"), [("llama", name, f"auto-{name}") for name in BOTH])
def test_the_semi_automatic_engine_equals_the_manual_one(adapted, model, layout, other):
    """What each is off by from the single process may not add up."""
    first, second = (np.array(adapted.of(name_of(model, at))["steps"]["steps"]) for at in (layout, other))
    assert len(first) == STEPS
    np.testing.assert_allclose(second, first, **TOLERANCE)
    step = f"weights/checkpoint-{weight_steps_of(model)}"
    wanted, found = (tensors(adapted.path(name_of(model, at)) / step, "lora") for at in (layout, other))
    assert found.keys() == wanted.keys() and wanted
    for name in wanted:
        np.testing.assert_allclose(found[name], wanted[name], rtol=1e-5, atol=1e-6, err_msg=name)


@pytest.mark.parametrize(("model", "source", "layout"), RESUMED)
def test_a_checkpoint_resumes_under_another_layout(adapted, model, source, layout):
    single = np.array(adapted.of(name_of(model, "single"))["steps"]["steps"])[HALFWAY:]
    found = np.array(adapted.of(name_of(model, layout, source))["resumed"]["steps"])
    np.testing.assert_allclose(found, single, **TOLERANCE)
