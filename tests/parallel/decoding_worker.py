"""One process of a launch: decodes with tiny models, each on a mesh of its own.

    decoding_worker.py TASKS.json OUT

A task is `{"id", "model", "layout"}`; what the last rank found goes to `OUT/ID/result.json`: of every way to decode the
tokens, and of all ranks a digest of them, since ranks choose each for itself.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import paddle.distributed as dist
import parallel_cases as cases
from parallel_worker import mesh_of

from zoo_core.engine.build import Source
from zoo_core.engine.engine import Engine
from zoo_core.generate import Row, Rules, Sampling, beam_search
from zoo_core.generate.passes import EnginePasses
from zoo_core.generate.pool import Pool
from zoo_core.layout import Rule, local_shape, pieces
from zoo_core.plan import Request, compose
from zoo_core.registry import registry
from zoo_core.testing.models import random_weights

NEW = 12
LENGTHS = (5, 9, 2)
GREEDY, DRAWN = Sampling(temperature=0.0), Sampling(temperature=1.3, top_k=40, top_p=0.9)
VARIED = Sampling(temperature=0.0, presence_penalty=50.0)
"""Greedy, but never a token twice: a random model would say one for ever."""


def of_random(table: dict[str, Rule], degree: int, rank: int) -> Source:
    """This rank's parts of random weights that let the model say many things."""
    whole = random_weights(table)

    def part(rule: Rule) -> np.ndarray[Any, Any]:
        values = whole[rule.single]
        if rule.dim is None:
            return values
        local, index = np.zeros(local_shape(rule, degree), np.float32), (slice(None),) * rule.dim
        for p in pieces(rule, degree, rank):
            local[(*index, slice(p.offset, p.offset + p.stop - p.start))] = values[(*index, slice(p.start, p.stop))]
        return local

    return part


def rows_of(model: str, vocab_size: int) -> list[Row]:
    """Prompts of unequal length; those of the families with blanks end with what opens one."""
    random = np.random.default_rng(3)
    behind = [501, 502] if model == "chatglm" else []
    return [
        Row([*random.integers(5, vocab_size - 20, length).tolist(), *behind], NEW - number, (4, number))
        for number, length in enumerate(LENGTHS)
    ]


def pooled(passes: EnginePasses, rows: list[Row], rules: Rules, chunk: int = 512, late: int = 0) -> list[list[int]]:
    """What rows get of a pool; the last one joins `late` steps after the others."""
    pool, found, left, steps = Pool(passes, len(rows), 64, chunk), {}, list(rows), 0
    while left or pool.free < len(rows):
        while left and (len(left) > 1 or steps >= late):
            found[pool.add(left.pop(0), rules)] = []
        for ticket, step in pool.step().items():
            assert step.finish != "error"
            found[ticket] += [] if step.token is None else [step.token]
        steps += 1
    return list(found.values())


def decoded(task: dict[str, Any]) -> dict[str, Any]:
    name, changes = cases.MODELS[task["model"]]
    found = registry().find(name)
    config = found.config.replace(**{**found.architecture.capabilities.scales["tiny"], **changes})
    layout = cases.LAYOUTS[task["layout"]]
    # interleaving is for training runs, which evaluate by what they generate
    accumulate = layout.accumulate if "virtual_stages" in layout.degrees else 1
    request = Request(world=layout.world, task="logits", accumulate=accumulate, **layout.degrees)
    mesh = mesh_of(task["layout"], compose(request, found.architecture, config))
    table = found.architecture.table(config)
    engine = Engine(mesh, found.architecture, config, of_random(table, mesh.plan.tensor, mesh.place.tensor))
    passes, rows = EnginePasses(engine), rows_of(task["model"], config.vocab_size)
    beams = beam_search(passes, rows, Rules(VARIED), 3, length_penalty=1.0, num_return_sequences=2)
    drawn = pooled(passes, rows, Rules(DRAWN))
    tokens = {
        "greedy": pooled(passes, rows, Rules(GREEDY)),
        "varied": pooled(passes, rows, Rules(VARIED)),
        "in pieces": pooled(passes, rows, Rules(VARIED), chunk=3 * len(rows)),
        "joined late": pooled(passes, rows, Rules(VARIED), late=3),
        "drawn": drawn,
        "ended": pooled(passes, rows, Rules(DRAWN, ends=(drawn[1][4],))),
        "beams": [list(beam.tokens) for row in beams for beam in row],
    }
    scores = [beam.score for row in beams for beam in row]
    everyone: list[Any] = []
    if mesh.plan.world > 1:
        dist.all_gather_object(everyone, tokens)
        assert all(theirs == tokens for theirs in everyone), "ranks disagree"
    mesh.barrier()
    return {"tokens": tokens, "scores": scores, "rank": mesh.rank, "world": mesh.plan.world}


def main(tasks: Path, out: Path) -> None:
    for task in json.loads(tasks.read_text(encoding="utf-8")):
        result = out / task["id"] / "result.json"
        found = decoded(task)
        if found["rank"] == found["world"] - 1:
            result.parent.mkdir(parents=True, exist_ok=True)
            result.with_suffix(".part").write_text(json.dumps(found), encoding="utf-8")
            result.with_suffix(".part").rename(result)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
