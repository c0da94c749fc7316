"""A plan for people and for programs: what `zoo plan` and `zoo run --dry-run` show."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from zoo_core.cli._text import bytes_text, count_text, table
from zoo_core.layout import Rule
from zoo_core.plan import Plan, share
from zoo_core.plan.text import span

__all__ = ["plan_dict", "rank_table", "stage_table"]

_BYTES = 4  # training holds fp32 weights, or fp32 masters beside half-precision ones


def stage_table(plan: Plan, parameters: Mapping[str, Rule]) -> str:
    """Return a table of the stages: layers, and what each of a stage's ranks holds."""
    rows = []
    for part in share(plan, parameters):
        held = " | ".join(span(plan, start, stop) for start, stop in plan.chunks(part.stage))
        sizes = (count_text(part.global_elements), count_text(part.local_elements), bytes_text(part.bytes(_BYTES)))
        rows.append((str(part.stage), str(part.blocks), held, *sizes))
    head = ("STAGE", "BLOCKS", "LAYERS", "PARAMETERS", "A RANK", "FP32 WEIGHTS")
    return table(head, rows, right=(0, 1, 3, 4, 5))


def rank_table(plan: Plan, limit: int = 0) -> str:
    """Return a table of where each rank stands; at most `limit` ranks when it is not 0."""
    shown = plan.world if not limit else min(plan.world, limit)
    rows = []
    for rank in range(shown):
        place = plan.coordinates(rank)
        machine = str(rank // plan.local_world)
        axes = (place.data, place.pipe, place.sharding, place.tensor, plan.replica_of(rank))
        rows.append((str(rank), machine, *map(str, axes)))
    text = table(("RANK", "MACHINE", "DATA", "STAGE", "SHARDING", "TENSOR", "REPLICA"), rows, right=range(7))
    return text + (f"\n... and {plan.world - shown} more; --ranks shows all" if shown < plan.world else "")


def plan_dict(plan: Plan, parameters: Mapping[str, Rule]) -> dict[str, Any]:
    """Return the plan with its stages and ranks as plain data."""
    stages = [
        {
            "stage": part.stage,
            "chunks": [list(chunk) for chunk in plan.chunks(part.stage)],
            "layers": list(part.layers),
            "blocks": part.blocks,
            "parameters": len(part.parameters),
            "elements": part.global_elements,
            "elements_per_rank": part.local_elements,
            "fp32_bytes_per_rank": part.bytes(_BYTES),
        }
        for part in share(plan, parameters)
    ]
    ranks = []
    for rank in range(plan.world):
        place = plan.coordinates(rank)
        ranks.append(
            {"rank": rank, "data": place.data, "pipe": place.pipe, "sharding": place.sharding, "tensor": place.tensor}
        )
    return {**plan.to_dict(), "stages": stages, "ranks": ranks}
