"""`zoo capabilities MODEL`: what one model can do, who says so, and which tests have shown it."""

from __future__ import annotations

from collections.abc import Sequence

from zoo_core.cli._failures import UsageFailure
from zoo_core.cli._names import model_names
from zoo_core.cli._standings import evidence_lines, standing_table
from zoo_core.cli._text import print_json
from zoo_core.cli._words import nothing_left, split_model, take_switch
from zoo_core.matrix import standings
from zoo_core.registry import find

__all__ = ["complete", "main"]

_OWN = {"--json": "print JSON"}

_HELP = """Usage: zoo capabilities MODEL [--json]

Show what a model can do, a line for each task and strategy: its state, and the test that shows it or the reason.
`zoo matrix --help` says what the states mean. MODEL is a name of `zoo models`, or a folder with config.json.

Options:
"""


def complete(words: Sequence[str], incomplete: str) -> dict[str, str]:
    """Return the options and the models."""
    return _OWN if incomplete.startswith("-") else model_names()


def main(words: Sequence[str], with_traceback: bool) -> int:
    """Print the model's cells and exclusions; return 0.

    Raises:
        UsageFailure: no model is given.
        UnknownModelError: there is none of that name.
        PluginError: the plugin's evidence cannot be read.
    """
    wants_help, rest = take_switch(words, "--help", "-h")
    as_json, rest = take_switch(rest, "--json")
    if wants_help:
        print(_HELP + "\n".join(f"  {name:<10}{text}" for name, text in _OWN.items()))
        return 0
    model, rest = split_model(rest)
    nothing_left(rest, "capabilities", _OWN)
    if model is None:
        raise UsageFailure("zoo capabilities needs a model", "", "zoo capabilities qwen/qwen-7b, say")
    found = find(model)
    architecture = found.architecture
    row, excluded = standings(architecture, found.name), architecture.capabilities.exclusions
    if as_json:
        cells = {cell: one.as_dict() for cell, one in row.items()}
        pairs = [{"first": pair.first, "second": pair.second, "why": pair.why} for pair in excluded]
        print_json({"model": found.name, "family": architecture.family, "cells": cells, "exclusions": pairs})
        return 0
    print(f"{found.name}, of the family {architecture.family} ({architecture.distribution} {architecture.version})")
    print("\n".join([standing_table(row), *evidence_lines(row)]))
    for pair in excluded:
        print(f"{pair.first} does not combine with {pair.second}: {pair.why}")
    return 0
