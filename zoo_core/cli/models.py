"""`zoo models`: the named models of the installed plugins."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from zoo_core.capabilities import ModelEntry
from zoo_core.cli._text import count_text, print_json, table
from zoo_core.cli._words import nothing_left, split_model, take_option, take_switch
from zoo_core.errors import UnknownModelError, nearest
from zoo_core.registry import Architecture, Registry, registry

__all__ = ["complete", "main"]


_OWN = {"--family": "only the models of this family", "--json": "print JSON"}

_HELP = """Usage: zoo models [PATTERN] [--family NAME] [--json]

List the models of the installed plugins, those whose name holds PATTERN if it is given.

Options:
"""


def complete(words: Sequence[str], incomplete: str) -> dict[str, str]:
    """Return the options."""
    return _OWN


def main(words: Sequence[str], with_traceback: bool) -> int:
    """Print the models; return 0.

    Raises:
        UnknownModelError: there is none.
    """
    wants_help, rest = take_switch(words, "--help", "-h")
    as_json, rest = take_switch(rest, "--json")
    family, rest = take_option(rest, "--family")
    if wants_help:
        print(_HELP + "\n".join(f"  {name:<10}{text}" for name, text in _OWN.items()))
        return 0
    pattern, rest = split_model(rest)
    nothing_left(rest, "models", _OWN)
    _show(pattern or "", family, as_json)
    return 0


def _show(pattern: str, family: str | None, as_json: bool) -> None:
    found = registry()
    if family:
        family = found.family(family).family
    chosen = [
        (architecture, entry)
        for architecture, entry in found.models
        if pattern.casefold() in entry.name.casefold() and family in (None, architecture.family)
    ]
    if as_json:
        print_json({"models": [_as_dict(*pair) for pair in chosen]})
        return
    if not chosen:
        raise _nothing(found, pattern)
    head = ("MODEL", "FAMILY", "PARAMETERS", "LAYERS", "HIDDEN", "CONTEXT", "NOTE")
    print(table(head, [_row(*pair) for pair in chosen], right=(2, 3, 4, 5)))
    if found.broken:
        print(f"\nbroken and left out: {_names(found)}; `zoo plugins` says why", file=sys.stderr)


def _names(found: Registry) -> str:
    return ", ".join(plugin.name for plugin in found.broken)


def _row(architecture: Architecture, entry: ModelEntry) -> tuple[str, ...]:
    c = entry.config
    size = count_text(architecture.parameter_count(c))
    numbers = (str(c.num_hidden_layers), str(c.hidden_size), str(c.max_position_embeddings))
    return (entry.name, architecture.family, size, *numbers, entry.note)


def _as_dict(architecture: Architecture, entry: ModelEntry) -> dict[str, Any]:
    return {
        "name": entry.name,
        "family": architecture.family,
        "distribution": architecture.distribution,
        "parameters": architecture.parameter_count(entry.config),
        "note": entry.note,
        "config": entry.config.to_hf(),
    }


def _nothing(found: Registry, pattern: str) -> UnknownModelError:
    if found.broken and not found.architectures:
        return UnknownModelError("there are no models", "every installed plugin is broken", "`zoo plugins` says why")
    if not found.architectures:
        return UnknownModelError("there are no models", "no plugin is installed", "pip install zoo-llama, say")
    near = nearest(pattern, [entry.name for _, entry in found.models])
    if near:
        todo = f"did you mean {near!r}?"
    else:
        todo = (
            f"broken and left out: {_names(found)}; `zoo plugins` says why"
            if found.broken
            else "`zoo models` lists all"
        )
    return UnknownModelError(f"no model's name holds {pattern!r}", f"there are {len(found.models)} models", todo)
