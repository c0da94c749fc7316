"""Putting the sources together: files, flags, `-o`; the later wins."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from zoo_core.arguments._coerce import coerce
from zoo_core.arguments._container import Arguments
from zoo_core.arguments._derive import Draft, derive
from zoo_core.arguments._effects import effect_line
from zoo_core.arguments._files import Key, Tree, read_tree
from zoo_core.arguments._flags import read_words
from zoo_core.arguments._registry import GROUPS, OVERRIDES, SPECS, TASKS
from zoo_core.arguments._translate import Setting, settings
from zoo_core.errors import ConfigError, nearest

__all__ = ["load_arguments"]


def load_arguments(task: str, sources: str | Path | Iterable[str | Path] = (), argv: Sequence[str] = ()) -> Arguments:
    """Read all sources of arguments; the later wins: files in their order, then flags, then `-o`.

    Args:
        task: what runs ("pretrain", "sft", ...; see TASKS).
        sources: JSON or YAML argument files, or one.
        argv: the words after `zoo run TASK`; argument files among them are read after `sources`.

    Returns:
        The arguments, checked one by one and against each other.

    Raises:
        ConfigError: an unknown task, key or flag (the nearest is suggested), a value of the wrong type or out of
            range, a malformed file, arguments that contradict each other, or no model.
    """
    if task not in TASKS:
        near = nearest(task, TASKS)
        todo = f"did you mean {near}?" if near else ""
        raise ConfigError(f"unknown task {task!r}", f"tasks: {', '.join(TASKS)}", todo)
    words = read_words(argv)
    files = [sources] if isinstance(sources, (str, Path)) else sources
    collected = _Collected(Draft(task))
    tree, rank = Tree(), 0
    for rank, path in enumerate([*map(Path, files), *words.files], start=1):
        own = read_tree(path)
        tree.update(own)
        collected.add(settings(tree, set(own.leaves)), rank, f"file {path}")
    for spec, text, typed in words.flags:
        setting = Setting(spec.name, spec, text, f"by {typed}", spec.name)
        collected.add([setting], rank + 1, typed, explicit=True)
    if words.overrides.leaves:
        tree.update(words.overrides)
        touched: set[Key] = set(words.overrides.leaves)
        collected.add(settings(tree, touched), rank + 2, "-o")
    collected.draft.fleetx_model = ("Model", "name") in tree.leaves
    return collected.finish()


class _Collected:
    """Settings of the sources so far."""

    def __init__(self, draft: Draft) -> None:
        self.draft = draft
        self.given: dict[str, str] = {}
        self.overrides: dict[str, Any] = {}
        self.ignored: dict[str, str] = {}
        self.spelt: dict[str, str] = {}

    def add(self, found: Iterable[Setting], rank: int, source: str, explicit: bool = False) -> None:
        """Lay one source over the earlier ones. `explicit`: an empty value is a value, not the default."""
        draft = self.draft
        for setting in found:
            name = setting.name
            if setting.unused:
                self.ignored[name] = setting.unused
                continue
            value = setting.value
            if value is not None and setting.spec is not None:
                value = coerce(setting.spec, value, setting.where, setting.typed)
            elif isinstance(value, list):
                value = tuple(value)
            self._refuse_second(name, value, rank, setting.where)
            if value is None and not explicit:
                for store in (draft.values, draft.where, draft.rank, self.given):
                    store.pop(name, None)
                self.spelt.pop(name, None)
                continue
            draft.values[name], draft.where[name], draft.rank[name] = value, setting.where, rank
            self.given[name] = source
            if setting.typed != name:
                self.spelt[name] = setting.typed

    def _refuse_second(self, name: str, value: Any, rank: int, where: str) -> None:
        """Two names of one argument with two values in one file are a mistake, not an order."""
        draft = self.draft
        earlier = draft.where.get(name, "")
        same_file = where.startswith("in file ") and earlier.split(", line ")[0] == where.split(", line ")[0]
        if same_file and draft.rank[name] == rank and value is not None and draft.values[name] != value:
            raise ConfigError(f"{name} is set twice", f"{draft.values[name]!r} {earlier}, {value!r} {where}",
                              "keep one of them")  # fmt: skip

    def finish(self) -> Arguments:
        """Derive, check, and freeze."""
        draft = self.draft
        derive(draft)
        groups: dict[str, dict[str, Any]] = {group: {} for group in (*GROUPS, OVERRIDES)}
        for name, value in draft.values.items():
            groups[SPECS[name].group if name in SPECS else OVERRIDES][name] = value
        made = Arguments(
            task=draft.task,
            overrides=groups.pop(OVERRIDES),
            given={name: source for name, source in self.given.items() if draft.given(name)},
            ignored=self.ignored,
            spelt=self.spelt,
            **{group: GROUPS[group](**values) for group, values in groups.items()},
        )
        line = effect_line(made, made.training.device)
        warnings = ((line,) if line else ()) + tuple(draft.notes)
        return Arguments(**{**vars(made), "warnings": warnings})
