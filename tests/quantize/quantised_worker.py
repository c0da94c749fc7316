"""One process of a launch: trains adapters beside quantised weights, each task on a mesh of its own.

    quantised_worker.py TASKS.json OUT

A task is `{"id", "folder", "layout"}`; what the last rank found goes to `OUT/ID/result.json`.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "parallel"))

import numpy as np  # noqa: E402
import parallel_cases as cases  # noqa: E402
from parallel_worker import mesh_of  # noqa: E402

from zoo_core.checkpoint import Reader  # noqa: E402
from zoo_core.engine.build import from_both, from_seed  # noqa: E402
from zoo_core.engine.engine import Engine  # noqa: E402
from zoo_core.engine.optimizer import OptimizerSettings  # noqa: E402
from zoo_core.engine.state import from_checkpoint  # noqa: E402
from zoo_core.peft import LoraSpec  # noqa: E402
from zoo_core.plan import Request, compose  # noqa: E402
from zoo_core.registry import find  # noqa: E402

LORA, STEPS, SEED = LoraSpec(rank=4, alpha=8.0), 3, 11


def trained(folder: str, layout: str) -> dict[str, Any]:
    """Losses and norms of a few steps, and the logits after them where they are whole on this rank."""
    found, spread = find(folder), cases.LAYOUTS[layout]
    config, architecture = found.config, found.architecture
    request = Request(
        world=spread.world, micro_batch=spread.micro, accumulate=spread.accumulate, sequence=cases.SEQUENCE,
        **spread.degrees,
    )  # fmt: skip
    mesh = mesh_of(layout, compose(request, architecture, config))
    with Reader(folder, architecture.table(config)) as reader:
        base = from_checkpoint(reader, mesh)
        source = from_both(base, from_seed(SEED, config, mesh.plan.tensor, mesh.place.tensor))
        settings = OptimizerSettings(epsilon=1e-3)
        engine = Engine(mesh, architecture, config, source, settings=settings, gather_logits=True, lora=LORA)
        whole = Engine(mesh, architecture, config, base, gather_logits=True)
    before = {name: held.tensor.numpy().copy() for name, held in engine.held.items() if "quant_" in name}
    assert before
    steps = []
    for step in range(STEPS):
        fields = cases.samples(step, config.vocab_size)
        result = engine.train_step(cases.micro_batches(fields, spread, mesh.replica), 0.05)
        steps.append((result.loss, result.grad_norm))
    for name, values in before.items():
        assert np.array_equal(engine.held[name].tensor.numpy(), values), name
    logits = whole.logits({"input_ids": cases.samples(97, config.vocab_size, 2)["input_ids"]})
    mesh.barrier()
    rows = None if logits is None else logits[:, -1].numpy().tolist()
    return {"steps": steps, "logits": rows, "last": mesh.rank == mesh.plan.world - 1}


def main(tasks: Path, out: Path) -> None:
    for task in json.loads(tasks.read_text(encoding="utf-8")):
        found = trained(task["folder"], task["layout"])
        if found["last"]:
            result = out / task["id"] / "result.json"
            result.parent.mkdir(parents=True, exist_ok=True)
            result.with_suffix(".part").write_text(json.dumps(found), encoding="utf-8")
            result.with_suffix(".part").rename(result)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
