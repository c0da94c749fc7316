"""What each rank holds: layers, parameters, bytes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod

from zoo_core import layout
from zoo_core.layout import Rule
from zoo_core.plan.plan import Plan

__all__ = ["Share", "owner", "share"]


@dataclass(frozen=True)
class Share:
    """What a rank of one pipeline stage holds.

    Args:
        stage: number of the stage.
        layers: single-card prefixes, in the order they run.
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


def owner(name: str, prefixes: Mapping[str, int]) -> int | None:
    """Return the layer whose prefix `name` begins with, the longest one; `None` when there is none."""
    words = name.split(".")
    for length in range(len(words), 0, -1):
        layer = prefixes.get(".".join(words[:length]))
        if layer is not None:
            return layer
    return None


def share(plan: Plan, table: Mapping[str, Rule]) -> tuple[Share, ...]:
    """Return what the ranks of each stage hold.

    A tied head on the embedding's stage is the same values and is counted once; on another stage it is held again.
    """
    prefixes = {prefix: index for index, prefix in enumerate(plan.layers)}
    names: list[list[str]] = [[] for _ in range(plan.pipeline)]
    local, whole = [0] * plan.pipeline, [0] * plan.pipeline
    counted: set[tuple[int, str]] = set()
    for name, rule in table.items():
        layer = owner(name, prefixes)
        stage = plan.stage_of(layer) if layer is not None else 0
        names[stage].append(name)
        if (stage, rule.single) in counted:
            continue
        counted.add((stage, rule.single))
        local[stage] += prod(layout.local_shape(rule, plan.tensor))
        whole[stage] += prod(rule.shape)
    shares = []
    for stage in range(plan.pipeline):
        held = [layer for start, stop in plan.chunks(stage) for layer in range(start, stop)]
        shares.append(
            Share(
                stage,
                tuple(plan.layers[layer] for layer in held),
                sum(plan.blocks[layer] for layer in held),
                tuple(names[stage]),
                local[stage],
                whole[stage],
            )
        )
    return tuple(shares)
