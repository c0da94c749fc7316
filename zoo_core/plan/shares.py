"""What each rank holds: layers, parameters, bytes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod

from zoo_core import layout
from zoo_core.layout import Rule
from zoo_core.plan.owner import owners
from zoo_core.plan.plan import Plan

__all__ = ["Share", "share"]


@dataclass(frozen=True)
class Share:
    """What a rank of one pipeline stage holds.

    Args:
        stage: number of the stage.
        layers: their labels, in the order they run.
        blocks: how many of them are decoder blocks.
        parameters: names of the parameters.
        local_elements: elements on each rank of the stage, padding and copies included.
        global_elements: elements of the whole parameters of this stage.
    """

    stage: int
    layers: tuple[str, ...]
    blocks: int
    parameters: tuple[str, ...]
    local_elements: int
    global_elements: int

    def bytes(self, each: int = 4) -> int:
        """Bytes of the weights on each rank, at `each` bytes an element."""
        return self.local_elements * each


def share(plan: Plan, table: Mapping[str, Rule]) -> tuple[Share, ...]:
    """Return what the ranks of each stage hold.

    A tied head on the embedding's stage is the same values and is counted once; on another stage it is held again.
    """
    owned = owners(table, plan.layers, plan.blocks)
    names: list[list[str]] = [[] for _ in range(plan.pipeline)]
    local, whole = [0] * plan.pipeline, [0] * plan.pipeline
    counted: set[tuple[int, str]] = set()
    for name, rule in table.items():
        stage = plan.stage_of(owned[name])
        names[stage].append(name)
        if (stage, rule.single) in counted:
            continue
        counted.add((stage, rule.single))
        whole[stage] += prod(rule.shape)
        if rule.expert is not None and rule.expert % plan.expert:
            continue  # of every `expert` experts a rank holds one
        local[stage] += prod(layout.local_shape(rule, plan.tensor))
    shares = []
    for stage in range(plan.pipeline):
        held = [layer for start, stop in plan.chunks(stage) for layer in range(start, stop)]
        shares.append(
            Share(
                stage,
                tuple(plan.labels[layer] for layer in held),
                sum(plan.blocks[layer] for layer in held),
                tuple(names[stage]),
                local[stage],
                whole[stage],
            )
        )
    return tuple(shares)
