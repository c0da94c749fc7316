"""Every argument by name and by alias."""

from __future__ import annotations

import dataclasses
from typing import Any

from zoo_core.arguments._data import DataArguments
from zoo_core.arguments._finetune import FinetuneArguments
from zoo_core.arguments._generation import GenerationArguments
from zoo_core.arguments._launch import LaunchArguments
from zoo_core.arguments._model import ConfigArguments, ModelArguments
from zoo_core.arguments._parallel import ParallelArguments
from zoo_core.arguments._spec import Spec, spec_of
from zoo_core.arguments._training import TrainingArguments

__all__ = ["BY_ANY_NAME", "GROUPS", "OVERRIDES", "SPECS", "TASKS"]

OVERRIDES = "overrides"
"""The pretended group of architecture settings: they end in `Arguments.overrides`, when set."""

TASKS = ("pretrain", "sft", "lora", "prefix", "dpo", "predict", "eval", "export", "compress", "serve")

GROUPS: dict[str, type[Any]] = {
    "launch": LaunchArguments,
    "model": ModelArguments,
    "data": DataArguments,
    "training": TrainingArguments,
    "parallel": ParallelArguments,
    "generation": GenerationArguments,
    "finetune": FinetuneArguments,
}

_ALL: dict[str, type[Any]] = {**GROUPS, OVERRIDES: ConfigArguments}

SPECS: dict[str, Spec] = {
    entry.name: spec_of(group, entry) for group, cls in _ALL.items() for entry in dataclasses.fields(cls)
}

BY_ANY_NAME: dict[str, Spec] = {name: spec for spec in SPECS.values() for name in (spec.name, *spec.aliases)}
