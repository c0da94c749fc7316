"""One process of a launch, or the only one: scores rows under each of several plans, see `parallel_jobs.Results`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np

from zoo_core import find
from zoo_core.engine.build import from_seed
from zoo_core.engine.engine import Engine
from zoo_core.engine.mesh import make_mesh
from zoo_core.generate import scoring
from zoo_core.plan import Request, compose

SIZES = {"num_hidden_layers": 2, "initializer_range": 0.2}


def rows(config):
    """Rows of unequal lengths; the longest needs two windows of 16."""
    random = np.random.default_rng(3)
    return [random.integers(10, config.vocab_size - 10, size).tolist() for size in (24, 5, 13)]


def main(tasks: Path, out: Path) -> None:
    run(json.loads(tasks.read_text(encoding="utf-8")), out)


def run(tasks: list[dict[str, Any]], out: Path) -> None:
    for task in tasks:
        found = find(task["model"])
        config = found.config.replace(**{**found.architecture.capabilities.scales["tiny"], **SIZES})
        request = Request(task="logits", device="cpu", **task["request"])
        mesh = make_mesh(compose(request, found.architecture, config, task["model"]))
        source = from_seed(5, config, mesh.plan.tensor, mesh.place.tensor)
        engine = Engine(mesh, found.architecture, config, source)
        with patch.object(scoring, "_LOGITS", 12 * config.vocab_size):  # pieces of four places
            results = scoring.score_rows(engine, rows(config), top=2, among=[3, 11], window=16, stride=8)
        arrays = [
            [np.nan_to_num(values.astype(np.float64)).tolist() for values in scoring._arrays(one)] for one in results
        ]
        everyone = mesh.exchange(json.dumps(arrays)) if mesh.plan.world > 1 else [json.dumps(arrays)]
        if mesh.rank == 0:
            folder = out / task["id"]
            folder.mkdir(parents=True, exist_ok=True)
            part = folder / "result.part"
            part.write_text(json.dumps({"ranks": [json.loads(told) for told in everyone]}), encoding="utf-8")
            part.rename(folder / "result.json")
        if mesh.plan.world > 1:
            mesh.barrier()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
