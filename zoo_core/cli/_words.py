"""Words of a command line that the arguments room parses: taking a command's own options off, and completing names."""

from __future__ import annotations

from collections.abc import Sequence

from zoo_core.arguments._registry import SPECS
from zoo_core.cli._failures import UsageFailure
from zoo_core.registry import registry

__all__ = ["argument_flags", "model_names", "split_model", "take_option", "take_switch"]


def argument_flags() -> dict[str, str]:
    """Return every argument's flag and what it means, for completion."""
    return {f"--{name}": spec.help for name, spec in SPECS.items()}


def model_names() -> dict[str, str]:
    """Return every installed model's name and note, for completion."""
    return {entry.name: entry.note for _, entry in registry().models}


def split_model(words: Sequence[str]) -> tuple[str | None, list[str]]:
    """Take a leading MODEL off the words: the first one, unless it is a flag or an argument file."""
    if words and not words[0].startswith("-") and not words[0].endswith((".json", ".yaml", ".yml")):
        return words[0], list(words[1:])
    return None, list(words)


def take_switch(words: Sequence[str], *names: str) -> tuple[bool, list[str]]:
    """Take a yes-or-no option off the words."""
    return any(name in words for name in names), [word for word in words if word not in names]


def take_option(words: Sequence[str], name: str) -> tuple[str | None, list[str]]:
    """Take an option with a value off the words, written `--name value` or `--name=value`; the last one counts.

    Raises:
        UsageFailure: the value is missing.
    """
    found, rest, position = None, [], 0
    while position < len(words):
        word = words[position]
        if word == name:
            if position + 1 == len(words):
                raise UsageFailure(f"{name} needs a value")
            found = words[position + 1]
            position += 2
            continue
        if word.startswith(f"{name}="):
            found = word.partition("=")[2]
        else:
            rest.append(word)
        position += 1
    return found, rest
