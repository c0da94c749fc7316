"""`zoo plugins`: what is installed, and what is wrong with it."""

from __future__ import annotations

import click

from zoo_core.cli._text import print_json, table
from zoo_core.registry import registry

__all__ = ["command"]


@click.command(name="plugins")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(as_json: bool) -> None:
    """List the installed plugins, and what is wrong with broken ones."""
    found = registry()
    if as_json:
        print_json(
            {
                "plugins": [
                    {
                        "name": a.name,
                        "distribution": a.distribution,
                        "version": a.version,
                        "family": a.family,
                        "models": len(a.capabilities.models),
                    }
                    for a in found.architectures
                ],
                "broken": [
                    {"name": b.name, "distribution": b.distribution, "reason": b.reason, "todo": b.todo}
                    for b in found.broken
                ],
            }
        )
        return
    if not found.architectures and not found.broken:
        click.echo("no plugin is installed; pip install zoo-llama, say")
        return
    rows = [
        (a.name, a.distribution, a.version, a.family, str(len(a.capabilities.models)), "ok")
        for a in found.architectures
    ]
    rows += [(b.name, b.distribution, "", "", "", "broken") for b in found.broken]
    click.echo(table(("PLUGIN", "PACKAGE", "VERSION", "FAMILY", "MODELS", "STATE"), rows, right=(4,)))
    for b in found.broken:
        click.echo(f"\n{b.name} is broken\n  why: {b.reason}\n  do:  {b.todo}")
