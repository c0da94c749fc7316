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
    steps: dict[str, Any] = {"evaluate_at": [cases.HALFWAY, cases.STEPS]}
    if save_halfway:
        steps["save_at"] = [cases.HALFWAY]
    weights = {"save_at": [cases.STEPS], "logits": True}
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


@pytest.fixture(scope="session")
def results(tmp_path_factory: pytest.TempPathFactory) -> Results:
    return Results(tmp_path_factory.mktemp("parallel"))


def run_tasks(results: Results, tasks: list[dict[str, Any]]) -> None:
    """Run tasks, all of a world in one launch."""
    for world, nodes in ((1, 1), (2, 1), (4, 1), (8, 1), (4, 2)):
        of_world = []
        for task in tasks:
            layout = cases.LAYOUTS[task["layout"]]
            if (layout.world, layout.degrees.get("nodes", 1)) == (world, nodes):
                of_world.append(task)
        results.run(of_world, world, nodes)


def selected(request: pytest.FixtureRequest, fixture: str, *names: str) -> list[tuple[str, ...]]:
    """The parameters of every test to be run that uses a fixture."""
    found = [
        tuple(item.callspec.params[name] for name in names)
        for item in request.session.items
        if fixture in getattr(item, "fixturenames", ()) and hasattr(item, "callspec")
    ]
    return list(dict.fromkeys(found))


@pytest.fixture(scope="session")
def trained(request: pytest.FixtureRequest, results: Results) -> Results:
    """The results of every case that a test to be run names, from the seed, and those of the single process."""
    chosen = selected(request, "trained", "model", "layout")
    resumed = selected(request, "resumed", "model", "source", "layout")
    sources = {(model, source) for model, source, _ in resumed}
    chosen += sorted(sources)
    chosen += [(model, layout) for model, source, layout in resumed if layout == source]
    models = dict.fromkeys(model for model, *_ in chosen)
    pairs = dict.fromkeys([*((model, "single") for model in models), *chosen])
    order = list(cases.LAYOUTS)
    tasks = [task_of(*pair, pair in sources) for pair in sorted(pairs, key=lambda pair: order.index(pair[1]))]
    run_tasks(results, tasks)
    return results


@pytest.fixture(scope="session")
def resumed(request: pytest.FixtureRequest, trained: Results) -> Results:
    """The results of resuming, halfway, in another layout than the one that saved."""
    tasks = []
    for model, source, layout in selected(request, "resumed", "model", "source", "layout"):
        saved = trained.folder / cases.task_id(model, source) / "steps" / f"checkpoint-{cases.HALFWAY}"
        run = {"epsilon": cases.DEFAULT_EPSILON, "first": cases.HALFWAY, "load": str(saved), "resave": True}
        task = task_of(model, layout) | {"id": cases.task_id(model, f"{source}-to-{layout}"), "runs": {"resumed": run}}
        tasks.append(task)
    run_tasks(trained, tasks)
    return trained
