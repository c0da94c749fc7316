"""From a file's tree of keys to settings of arguments: PaddleNLP's flat keys and FleetX's sections."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from zoo_core.arguments._files import Key, Tree
from zoo_core.arguments._fleetx import COMPOSITES, RENAMED, SECTIONS, UNUSED
from zoo_core.arguments._registry import BY_ANY_NAME, SPECS
from zoo_core.arguments._spec import Spec
from zoo_core.errors import ConfigError, nearest

__all__ = ["Setting", "settings"]

_MADE = {key for composite in COMPOSITES for key in composite.keys}


class Setting(NamedTuple):
    """One key of a source, translated.

    `spec` is None for an architecture setting that only the model's plugin knows (`name` is its name) and, when
    `unused` is set, for a key that changes nothing (`unused` says why). A `value` of None means the default. `typed`
    is the key as the user wrote it.
    """

    name: str
    spec: Spec | None
    value: Any
    where: str
    typed: str
    unused: str = ""


def settings(tree: Tree, touched: set[Key]) -> Iterator[Setting]:
    """Yield the settings of `tree` that depend on a key in `touched`, in the tree's order.

    Raises:
        ConfigError: a key is unknown (the nearest known one is suggested) or has a value without a translation.
    """
    dotted = {key: ".".join(key) for key in tree.leaves}
    values = {dotted[key]: value for key, value in tree.leaves.items() if value is not None}
    where = {dotted[key]: text for key, text in tree.where.items()}
    changed = {dotted[key] for key in tree.leaves if key in touched}
    for composite in COMPOSITES:
        causes = [key for key in (*composite.keys, *composite.reads) if key in changed]
        if not causes:
            continue
        try:
            made = composite.make(values)
        except ConfigError as error:
            raise ConfigError(error.what, f"{error.why}; it is set {where[causes[-1]]}", error.todo) from None
        for name, value in made.items():
            yield Setting(name, SPECS[name], value, where[causes[-1]], causes[-1])
    for key, value in tree.leaves.items():
        if dotted[key] in changed:
            yield from _single(key, dotted[key], value, where[dotted[key]], values)


def _single(key: Key, path: str, value: Any, where: str, values: dict[str, Any]) -> Iterator[Setting]:
    if path in _MADE:
        return
    if path in UNUSED:
        unused = UNUSED[path]
        if value is not None and value not in unused.fits:
            yield Setting(path, None, value, where, path, unused.why)
        return
    if len(key) > 2 and key[0] == "Data" and key[1] != "Train":
        yield from _other_data(path, value, where, values)
        return
    spec = _spec(key, path)
    if spec is not None:
        yield Setting(spec.name, spec, value, where, path)
    elif key[0] == "Model" and len(key) == 2:
        yield Setting(key[1], None, value, where, path)
    else:
        raise _unknown(key, path, where)


def _spec(key: Key, path: str) -> Spec | None:
    if path in RENAMED:
        return SPECS[RENAMED[path]]
    if len(key) == 1:
        return BY_ANY_NAME.get(path)
    found = BY_ANY_NAME.get(key[1]) if len(key) == 2 else None
    return found if found is not None and found.group in SECTIONS.get(key[0], ()) else None


def _other_data(path: str, value: Any, where: str, values: dict[str, Any]) -> Iterator[Setting]:
    """Evaluation and test data are parts of the training corpus; what differs from Data.Train is named."""
    _, part, rest = path.split(".", 2)
    twin = f"Data.Train.{rest}"
    if twin not in RENAMED and twin not in UNUSED:
        raise ConfigError(f"unknown key {path}", f"it is set {where}", _suggest(path, [*RENAMED, *UNUSED]))
    fits = twin in UNUSED and value in UNUSED[twin].fits
    if value is not None and not fits and twin in values and value != values[twin]:
        why = f"{part} data are a part of Data.Train's, by its split"
        yield Setting(path, None, value, where, path, why)


def _unknown(key: Key, path: str, where: str) -> ConfigError:
    if len(key) == 1:
        known: Iterable[str] = BY_ANY_NAME
    elif key[0] in SECTIONS:
        groups = SECTIONS[key[0]]
        own = [f"{key[0]}.{name}" for name, spec in BY_ANY_NAME.items() if spec.group in groups]
        known = [*own, *(k for k in (*RENAMED, *UNUSED, *_MADE) if k.startswith(key[0] + "."))]
    else:
        near = nearest(key[0], SECTIONS)
        todo = f"did you mean the section {near}?" if near else "sections: " + ", ".join(SECTIONS)
        return ConfigError(f"unknown key {path}", f"it is set {where}", todo)
    return ConfigError(f"unknown key {path}", f"it is set {where}", _suggest(path, known))


def _suggest(name: str, known: Iterable[str]) -> str:
    near = nearest(name, known)
    return f"did you mean {near}?" if near else "docs/en/arguments.md lists every argument"
