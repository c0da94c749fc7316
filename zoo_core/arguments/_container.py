"""All arguments of one run, frozen; written to JSON for worker processes and read back exactly."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from zoo_core.arguments._data import DataArguments
from zoo_core.arguments._finetune import FinetuneArguments
from zoo_core.arguments._generation import GenerationArguments
from zoo_core.arguments._launch import LaunchArguments
from zoo_core.arguments._model import ModelArguments
from zoo_core.arguments._parallel import ParallelArguments
from zoo_core.arguments._registry import BY_ANY_NAME, GROUPS, OVERRIDES
from zoo_core.arguments._training import TrainingArguments
from zoo_core.errors import ConfigError

__all__ = ["Arguments"]

_FORMAT = 1
_MAPPINGS = ("overrides", "given", "ignored", "spelt")


def _empty() -> Mapping[str, Any]:
    return MappingProxyType({})


@dataclass(frozen=True)
class Arguments:
    """Everything the user asked for, with defaults filled in.

    `overrides` are architecture settings by configuration name, for `ModelConfig.replace`. `given` maps each argument
    that a source set to that source ("file a.json", "--max_steps", "-o"), and `spelt` to the name the user wrote
    where it is another. `ignored` maps FleetX keys that change nothing to the reason. `warnings` are lines to print.
    """

    task: str
    launch: LaunchArguments = field(default_factory=LaunchArguments)
    model: ModelArguments = field(default_factory=ModelArguments)
    data: DataArguments = field(default_factory=DataArguments)
    training: TrainingArguments = field(default_factory=TrainingArguments)
    parallel: ParallelArguments = field(default_factory=ParallelArguments)
    generation: GenerationArguments = field(default_factory=GenerationArguments)
    finetune: FinetuneArguments = field(default_factory=FinetuneArguments)
    overrides: Mapping[str, Any] = field(default_factory=_empty)
    given: Mapping[str, str] = field(default_factory=_empty)
    ignored: Mapping[str, str] = field(default_factory=_empty)
    spelt: Mapping[str, str] = field(default_factory=_empty)
    warnings: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in _MAPPINGS:
            object.__setattr__(self, name, MappingProxyType(dict(getattr(self, name))))

    def value(self, name: str) -> Any:
        """Return an argument by its name or alias, without knowing its group.

        Raises:
            KeyError: there is no such argument.
        """
        spec = BY_ANY_NAME[name]
        if spec.group == OVERRIDES:
            return self.overrides.get(spec.name)
        return getattr(getattr(self, spec.group), spec.name)

    def replace(self, **changes: Any) -> Arguments:
        """Return a copy with arguments changed by name (their types are the caller's care).

        Raises:
            KeyError: there is no such argument.
        """
        by_group: dict[str, dict[str, Any]] = {}
        for name, value in changes.items():
            spec = BY_ANY_NAME[name]
            by_group.setdefault(spec.group, {})[spec.name] = value
        overrides = {**self.overrides, **by_group.pop(OVERRIDES, {})}
        groups = {group: dataclasses.replace(getattr(self, group), **values) for group, values in by_group.items()}
        return dataclasses.replace(self, overrides=overrides, **groups)

    def to_json(self) -> str:
        """Return the arguments as JSON text; `from_json` gives back an equal object."""
        groups = {name: dataclasses.asdict(getattr(self, name)) for name in GROUPS}
        rest = {name: dict(getattr(self, name)) for name in _MAPPINGS}
        content = {"format": _FORMAT, "task": self.task, **groups, **rest, "warnings": self.warnings}
        return json.dumps(content, indent=1, allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> Arguments:
        """Read what `to_json` wrote.

        Raises:
            ConfigError: the text is not what this version of zoo wrote.
        """
        try:
            content = json.loads(text)
            if content.pop("format") != _FORMAT:
                raise ValueError("another format number")
            groups = {name: group(**_frozen(content.pop(name))) for name, group in GROUPS.items()}
            return cls(**groups, **{name: _frozen(value) for name, value in content.items()})
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise ConfigError("the handed-over arguments cannot be read", f"{type(error).__name__}: {error}",
                              "start launcher and workers with the same version of zoo") from None  # fmt: skip


def _frozen(value: Any) -> Any:
    """Return JSON data with every list as a tuple, as arguments hold them."""
    if isinstance(value, list):
        return tuple(_frozen(item) for item in value)
    if isinstance(value, dict):
        return {key: _frozen(item) for key, item in value.items()}
    return value
