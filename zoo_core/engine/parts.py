"""Which parameters and states a rank holds, which of equal copies is written, and how a part is read back.

Known from the plan and the table alone. No paddle: the engine asks here, and so do tests that simulate ranks.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from zoo_core.checkpoint import Reader
from zoo_core.layout import Rule
from zoo_core.plan import Plan, owners

__all__ = ["Parts", "element_type", "has_expert", "read_state", "read_weight", "tied_across_stages"]


def element_type(rule: Rule, dtype: str) -> str:
    """The element type of a parameter in a model of `dtype`.

    What has a type of its own keeps it, and buffers that are moved by small steps stay float32.
    """
    return rule.dtype or ("float32" if rule.buffer else dtype)


def has_expert(rule: Rule, degree: int, place: int) -> bool:
    """Whether place `place` of the expert axis holds the parameter; every place holds what is not an expert's."""
    if degree == 1 or rule.expert is None or rule.experts is None:
        return True
    share = len(rule.experts) // degree
    return place * share <= rule.expert - rule.experts.start < (place + 1) * share


def tied_across_stages(plan: Plan, table: Mapping[str, Rule]) -> frozenset[str]:
    """Names of the parameters that layers of different pipeline stages share: of the first and of the last."""
    if plan.pipeline == 1:
        return frozenset()
    return frozenset(name for name, held in _stages(plan, table).items() if len(held) > 1)


def _stages(plan: Plan, table: Mapping[str, Rule]) -> dict[str, set[int]]:
    """The pipeline stages that hold each parameter, a tied one by its owner's name."""
    if plan.pipeline == 1:
        return {rule.single: {0} for rule in table.values()}
    owned = owners(table, plan.layers, plan.blocks)
    stages: dict[str, set[int]] = {}
    for name, rule in table.items():
        stages.setdefault(rule.single, set()).add(plan.stage_of(owned[name]))
    return stages


class Parts:
    """The parameters of one rank of a plan.

    Args:
        plan: the plan; where it has stages, with its layers.
        rank: global rank.
        table: single-card name -> row.
    """

    def __init__(self, plan: Plan, rank: int, table: Mapping[str, Rule]) -> None:
        self.plan, self.rank, self.place = plan, rank, plan.coordinates(rank)
        self._stages = _stages(plan, table)
        self._table = table

    def names(self) -> tuple[str, ...]:
        """The parameters this rank holds, a tied one by its owner's name."""
        axis = (self.plan.expert, self.plan.replica_of(self.rank) % self.plan.expert)
        return tuple(
            name
            for name, stages in self._stages.items()
            if self.place.pipe in stages and has_expert(self._table[name], *axis)
        )

    def _writes(self, rule: Rule, shared_out: bool) -> bool:
        """Whether this rank writes, where `shared_out` says that it does among those of the sharding axis."""
        if self.plan.expert > 1 and rule.expert is not None:
            return self.rank == self.plan.expert_copies(self.rank)[0]
        # a tied weight lies on both ends of the pipeline: the first writes it
        return self.place.data == 0 and shared_out and self.place.pipe == min(self._stages[rule.single])

    def writes_weight(self, rule: Rule, turn: int, flat: tuple[int, int] | None) -> bool:
        """Whether this rank writes a weight it holds.

        Args:
            turn: number of the parameter among those of the rank: whole copies are shared out over the sharding axis,
                so that all its ranks write.
            flat: the range of the flattened local parameter that it holds under stage 3; `None` for the whole.
        """
        return self._writes(rule, flat is not None or turn % self.plan.sharding == self.place.sharding)

    def writes_state(self, rule: Rule, flat: tuple[int, int] | None) -> bool:
        """Whether this rank writes an optimizer state it holds (under stages 1 and 2 one rank of the axis has it)."""
        alone = flat is not None or (self.plan.sharding_stage in (1, 2) and not self.plan.semi_auto)
        return self._writes(rule, alone or self.place.sharding == 0)


def read_weight(
    reader: Reader, rule: Rule, degree: int, rank: int, dtype: str, group: str = ""
) -> np.ndarray[Any, Any]:
    """Read this rank's part of a weight in the element type that it has in a run of `dtype`; see `Reader.read_weight`.

    Args:
        degree: size of the tensor axis, `rank` the place on it.
        group: the files of a checkpoint that it is in, where they are not the model's.

    Raises:
        CheckpointError: the weight is missing or has another shape.
    """
    return reader.read_weight(rule.name, degree, rank, element_type(rule, dtype), group)


def read_state(
    reader: Reader, name: str, role: str, degree: int, rank: int, flat: tuple[int, int] | None
) -> np.ndarray[Any, Any]:
    """Read this rank's part of an optimizer state, float32; an fp32 copy that was not saved is the weight itself.

    Raises:
        CheckpointError: a state is missing or has another shape.
    """
    if role.endswith("master") and not reader.has(name, role):
        role = role.removesuffix("master") + "weight"
    return reader.read_local(name, degree, rank, flat, dtype="float32", role=role)
