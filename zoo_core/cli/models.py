"""`zoo models`: the named models of the installed plugins."""

from __future__ import annotations

from typing import Any

import click

from zoo_core.capabilities import ModelEntry
from zoo_core.cli._text import count_text, print_json, table
from zoo_core.errors import UnknownModelError, nearest
from zoo_core.registry import Architecture, Registry, registry

__all__ = ["command"]


@click.command(name="models")
@click.argument("pattern", required=False, default="")
@click.option("--family", help="Only the models of this family.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(pattern: str, family: str | None, as_json: bool) -> None:
    """List the models of the installed plugins, those whose name holds PATTERN if it is given."""
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
    rows = [_row(*pair) for pair in chosen]
    click.echo(
        table(("MODEL", "FAMILY", "PARAMETERS", "LAYERS", "HIDDEN", "CONTEXT", "NOTE"), rows, right=(2, 3, 4, 5))
    )
    if found.broken:
        names = ", ".join(plugin.name for plugin in found.broken)
        click.echo(f"\nbroken and left out: {names}; `zoo plugins` says why", err=True)


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
    todo = f"did you mean {near!r}?" if near else "`zoo models` lists all"
    return UnknownModelError(f"no model's name holds {pattern!r}", f"there are {len(found.models)} models", todo)
