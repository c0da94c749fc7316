"""Runs the cases that were selected, many to a launch: starting four processes costs more than a case does."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))

import parallel_cases as cases  # noqa: E402
from parallel_jobs import Results  # noqa: E402


def task_of(model: str, layout: str, save_halfway: bool = False) -> dict[str, Any]:
    """A case's two runs: for losses and norms, and for weights."""
    steps: dict[str, Any] = {"evaluate_at": [cases.HALFWAY]}
    if save_halfway:
        steps["save_at"] = [cases.halfway_of(model)]
    last = cases.weight_steps_of(model)
    weights = {"last": last, "save_at": [last], "logits": True}
    return {
        "id": cases.task_id(model, layout),
        "model": model,
        "layout": layout,
        "recompute": "none" if layout == "single" else cases.recompute_of((model, layout)),
        "runs": {
            "steps": {"epsilon": cases.DEFAULT_EPSILON, **steps},
            "weights": {"epsilon": cases.WEIGHTS_EPSILON, **weights},
        },
    }


def resume_of(model: str, source: str, layout: str, folder: Path) -> dict[str, Any]:
    """Going on, halfway, from the checkpoint of a case below `folder`."""
    halfway = cases.halfway_of(model)
    saved = folder / cases.task_id(model, source) / "steps" / f"checkpoint-{halfway}"
    run = {"epsilon": cases.DEFAULT_EPSILON, "first": halfway, "load": str(saved), "resave": True}
    return task_of(model, layout) | {"id": cases.task_id(model, f"{source}-to-{layout}"), "runs": {"resumed": run}}


WORLDS = ((4, 1), (8, 1), (2, 1), (1, 1), (4, 2))
"""Processes and machines of each launch, such that what is resumed was saved by an earlier one or the same."""


@pytest.fixture(scope="session")
def trained(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Results:
    """The results of every case that a test to be run names, and those of the single process."""
    results = Results(tmp_path_factory.mktemp("parallel"))
    chosen, resumed = set(), set()
    for item in request.session.items:
        if "trained" in getattr(item, "fixturenames", ()) and Path(__file__).parent in item.path.parents:
            params = item.callspec.params
            model, layout, source = params["model"], params["layout"], params.get("source")
            chosen |= {(model, "single")} | ({(model, layout)} if source in (None, layout) else {(model, source)})
            chosen |= {(model, params["other"])} if "other" in params else set()
            resumed |= {(model, source, layout)} if source else set()
    sources = {(model, source) for model, source, _ in resumed}
    order = list(cases.LAYOUTS)
    tasks = [task_of(*case, case in sources) for case in chosen] + [resume_of(*r, results.folder) for r in resumed]
    tasks.sort(key=lambda task: ("resumed" in task["runs"], order.index(task["layout"]), task["id"]))
    for world, nodes in WORLDS:
        of_world = []
        for task in tasks:
            layout = cases.LAYOUTS[task["layout"]]
            if (layout.world, layout.degrees.get("nodes", 1)) == (world, nodes):
                of_world.append(task)
        results.run(of_world, world, nodes)
    return results
