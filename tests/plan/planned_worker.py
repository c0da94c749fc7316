"""One process of a launch: takes a step or two of each task on a mesh of its own, and measures what a rank holds.

    planned_worker.py TASKS.json OUT

A task is `{"id", "model", "scale", "config", "request", "steps", "words"}`: a model, a scale of its family, changes of
its configuration, the fields of a `Request`, and perhaps arguments that say what is trained. Each rank writes
`OUT/ID/rankN.json`, and when all have, the last one `OUT/ID/result.json`.
"""

from __future__ import annotations

import json
import sys
from dataclasses import astuple, replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "parallel"))

import numpy as np  # noqa: E402
import parallel_cases as cases  # noqa: E402

from zoo_core.arguments import load_arguments  # noqa: E402
from zoo_core.engine.build import from_seed  # noqa: E402
from zoo_core.engine.engine import Engine  # noqa: E402
from zoo_core.engine.mesh import Mesh, make_mesh  # noqa: E402
from zoo_core.engine.optimizer import OptimizerSettings  # noqa: E402
from zoo_core.peft import prefix_from_arguments, spec_from_arguments  # noqa: E402
from zoo_core.plan import Plan, Request, compose  # noqa: E402
from zoo_core.registry import registry  # noqa: E402
from zoo_ops import set_dropout_state  # noqa: E402

SEED = 7

_meshes: dict[Any, Mesh] = {}


def mesh_of(plan: Plan) -> Mesh:
    """The mesh of a plan, kept as long as what fleet is told of it does not change."""
    key = (plan.world, plan.data, plan.sharding, plan.tensor, plan.pipeline, plan.expert, plan.sequence_parallel,
           plan.accumulate, plan.micro_batch)  # fmt: skip
    if key not in _meshes:
        _meshes.clear()
        _meshes[key] = make_mesh(plan)
    return replace(_meshes[key], plan=plan)


def bytes_of(tensor: Any) -> int:
    """Bytes that a tensor holds now: none once it was given away."""
    return tensor.size * tensor.element_size() if tensor is not None and tensor._is_initialized() else 0


def batches_of(plan: Plan, replica: int, step: int, vocabulary: int) -> list[dict[str, np.ndarray]]:
    """This replica's micro batches of a step whose samples do not depend on the plan."""
    fields = cases.samples(step, vocabulary, plan.global_batch)
    parted = {n: v.reshape(plan.accumulate, plan.replicas, plan.micro_batch, -1) for n, v in fields.items()}
    return [{name: values[i, replica] for name, values in parted.items()} for i in range(plan.accumulate)]


def run(task: dict[str, Any]) -> tuple[Mesh, dict[str, Any]]:
    """Build, take the steps, measure."""
    found = registry().find(task["model"])
    architecture = found.architecture
    config = found.config.replace(**architecture.capabilities.scales[task["scale"]]).replace(**task["config"])
    request = Request(**{**task["request"], "sequence": cases.SEQUENCE})
    plan = compose(replace(request, pipeline_cuts=tuple(request.pipeline_cuts)), architecture, config)
    mesh = mesh_of(plan)
    source = from_seed(SEED, config, plan.tensor, mesh.place.tensor)
    arguments = load_arguments("pretrain", (), ["--model", task["model"], *task.get("words", ())])
    added = {"lora": spec_from_arguments(arguments), "prefix": prefix_from_arguments(arguments, config)}
    engine = Engine(mesh, architecture, config, source, settings=OptimizerSettings(), **added)
    updater = engine.updater
    seen: dict[str, Any] = {"place": astuple(mesh.place), "losses": [], "gradients": 0}
    update = updater.step

    def step(*args: Any) -> Any:
        grads = [updater._gradient(h) for h in engine.held.values() if not h.rule.buffer]
        seen["gradients"] = max(seen["gradients"], sum(map(bytes_of, grads)))
        return update(*args)

    updater.step = step
    for number in range(task["steps"]):
        set_dropout_state(SEED, number)
        batches = batches_of(plan, mesh.replica, number, config.vocab_size)
        seen["losses"].append(engine.train_step(batches, 1e-3).loss)
    seen["weights"] = sum(bytes_of(updater.weight(name)) for name in engine.held)
    seen["optimizer"] = sum(bytes_of(state.tensor) for state in updater.states())
    return mesh, seen


def main(tasks: Path, out: Path) -> None:
    for task in json.loads(tasks.read_text(encoding="utf-8")):
        print(f"starts {task['id']}", flush=True)
        mesh, seen = run(task)
        folder = out / task["id"]
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"rank{mesh.rank}.json").write_text(json.dumps(seen), encoding="utf-8")
        mesh.barrier()
        if mesh.rank == mesh.plan.world - 1:
            ranks = [json.loads((folder / f"rank{r}.json").read_text()) for r in range(mesh.plan.world)]
            part = folder / "result.part"
            part.write_text(json.dumps({"ranks": ranks}), encoding="utf-8")
            part.rename(folder / "result.json")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
