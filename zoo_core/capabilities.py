"""What a family can do: its named models, and a cell of support for each task and strategy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from zoo_core.config import ModelConfig

__all__ = ["Capabilities", "Exclusion", "ModelEntry", "State", "Support", "unrecorded"]

State = Literal["verified", "declared", "refused", "not applicable", "untested"]


@dataclass(frozen=True)
class Support:
    """One cell of the capability matrix.

    Args:
        state: one word of the design's vocabulary.
        why: the reason of a refusal, or what is missing for `verified` ("a GPU").
    """

    state: State
    why: str = ""


_PRETRAINING = (
    *("pretrain", "data_parallel", "tensor_parallel", "sequence_parallel", "pipeline_parallel", "virtual_pipeline"),
    *("sharding_stage1", "sharding_stage2", "sharding_stage3", "recompute"),
)


def unrecorded(*more: str) -> dict[str, Support]:
    """The cells of a family that pretrains under every plan and has no recorded run yet; `more` are further such."""
    return {name: Support("declared", "no recorded run") for name in (*_PRETRAINING, *more)}


@dataclass(frozen=True)
class Exclusion:
    """Two strategies that this family cannot combine, and why."""

    first: str
    second: str
    why: str


@dataclass(frozen=True)
class ModelEntry:
    """A named model: `qwen/qwen-7b`, its configuration, and where its weights are published.

    Args:
        name: what users type after `--model`.
        config: the published configuration.
        note: one line for `zoo models` (parameters, context, chat or base).
    """

    name: str
    config: ModelConfig
    note: str = ""


@dataclass(frozen=True)
class Capabilities:
    """What `zoo_core` knows of a family before it builds anything.

    Args:
        family: short name, the prefix of nothing but errors and folders: `llama`.
        config_class: reads and writes this family's `config.json`.
        model_types: values of `model_type` in a Hugging Face `config.json` that this family loads.
        models: the named models.
        scales: sizes for `--scale tiny|small`: configuration fields to replace.
        cells: support by task or strategy name (`pretrain`, `tensor_parallel`, ...); absent means untested.
        exclusions: pairs of strategies that do not combine in this family.
    """

    family: str
    config_class: type[ModelConfig]
    model_types: tuple[str, ...]
    models: tuple[ModelEntry, ...]
    scales: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    cells: Mapping[str, Support] = field(default_factory=dict)
    exclusions: tuple[Exclusion, ...] = ()
