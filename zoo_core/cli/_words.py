"""Taking options off the words of a command line, for commands that load no click."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from zoo_core.arguments._registry import BY_ANY_NAME
from zoo_core.cli._failures import UsageFailure
from zoo_core.errors import nearest

__all__ = ["misspelt", "nothing_left", "split_model", "take_option", "take_switch"]


def nothing_left(words: Sequence[str], command: str, known: Iterable[str]) -> None:
    """Check that every word was taken.

    Raises:
        UsageFailure: one is left; suggests the nearest option.
    """
    if not words:
        return
    near = nearest(words[0].partition("=")[0], known)
    todo = f"did you mean {near}?" if near else f"zoo {command} --help says what there is"
    raise UsageFailure(f"zoo {command} does not know {words[0]!r}", "", todo)


def misspelt(words: Sequence[str], own: Iterable[str]) -> None:
    """Check that no word is nearer to an option of the command itself than to any argument of a run.

    Args:
        own: the command's options, which were taken off the words; arguments of runs are judged elsewhere.

    Raises:
        UsageFailure: one is; names the option.
    """
    arguments = {f"--{name}" for name in BY_ANY_NAME}
    own = set(own)
    for word in words:
        typed = word.partition("=")[0]
        flag = "--" + typed.removeprefix("--").replace("-", "_").removeprefix("no_")
        if not typed.startswith("--") or flag in arguments:
            continue
        near = nearest(typed, own | arguments)
        if near in own:
            raise UsageFailure(f"unknown argument {typed}", "it stands on the command line", f"did you mean {near}?")


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
