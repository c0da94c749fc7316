"""`zoo plugins`: what is installed, and what is wrong with it."""

from __future__ import annotations

from collections.abc import Sequence

from zoo_core.cli._text import print_json, table
from zoo_core.cli._words import nothing_left, take_switch
from zoo_core.registry import registry

__all__ = ["complete", "main"]


_OWN = {"--json": "print JSON"}

_HELP = """Usage: zoo plugins [--json]

List the installed plugins, and what is wrong with broken ones.
"""


def complete(words: Sequence[str], incomplete: str) -> dict[str, str]:
    """Return the options."""
    return _OWN


def main(words: Sequence[str], with_traceback: bool) -> int:
    """Print the plugins; return 0."""
    wants_help, rest = take_switch(words, "--help", "-h")
    as_json, rest = take_switch(rest, "--json")
    if wants_help:
        print(_HELP, end="")
        return 0
    nothing_left(rest, "plugins", _OWN)
    _show(as_json)
    return 0


def _show(as_json: bool) -> None:
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
        print("no plugin is installed; pip install zoo-llama, say")
        return
    rows = [
        (a.name, a.distribution, a.version, a.family, str(len(a.capabilities.models)), "ok")
        for a in found.architectures
    ]
    rows += [(b.name, b.distribution, "", "", "", "broken") for b in found.broken]
    print(table(("PLUGIN", "PACKAGE", "VERSION", "FAMILY", "MODELS", "STATE"), rows, right=(4,)))
    for b in found.broken:
        print(f"\n{b.name} is broken\n  why: {b.reason}\n  do:  {b.todo}")
