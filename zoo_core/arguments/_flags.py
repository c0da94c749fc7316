"""The command line's words: flags, `-o Section.key=value`, and argument files among them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from zoo_core.arguments._coerce import literal
from zoo_core.arguments._files import Tree
from zoo_core.arguments._registry import BY_ANY_NAME
from zoo_core.arguments._spec import Spec
from zoo_core.errors import ConfigError, nearest

__all__ = ["Words", "read_words"]

_TRUTHS = ("true", "false", "yes", "no", "on", "off", "1", "0")


@dataclass
class Words:
    """What stood on the command line, in its order."""

    flags: list[tuple[Spec, str, str]] = field(default_factory=list)
    """(argument, text, the flag as typed)"""
    overrides: Tree = field(default_factory=Tree)
    files: list[Path] = field(default_factory=list)


def read_words(argv: Sequence[str]) -> Words:
    """Sort the words after `zoo run TASK`.

    Raises:
        ConfigError: an unknown flag (the nearest is suggested), a flag without its value, a stray word, or an `-o`
            that is not key=value.
    """
    found, position = Words(), 0
    while position < len(argv):
        word = argv[position]
        position += 1
        if word in ("-o", "--override"):
            if position == len(argv):
                raise ConfigError(f"{word} stands alone", "nothing follows it", f"write {word} Section.key=value")
            _override(argv[position], found.overrides)
            position += 1
        elif word.startswith("--override=") or (word.startswith("-o") and "=" in word):
            _override(word.removeprefix("--override=").removeprefix("-o"), found.overrides)
        elif word.startswith("--"):
            position = _flag(word, argv, position, found)
        elif _is_file(word):
            found.files.append(Path(word))
        else:
            raise ConfigError(f"unexpected word {word!r}", "it is neither a flag, a flag's value nor an argument file",
                              _hint(word))  # fmt: skip
    return found


def _hint(word: str) -> str:
    name = word.lstrip("-").split("=")[0].replace("-", "_")
    near = name if name in BY_ANY_NAME else nearest(name, BY_ANY_NAME)
    return f"did you mean --{near}?" if near else "argument files end in .json, .yaml or .yml; flags begin with --"


def _is_file(word: str) -> bool:
    return word.endswith((".json", ".yaml", ".yml")) and not word.startswith("-")


def _is_value(word: str) -> bool:
    """Whether a word may be a flag's value: a negative number may, another flag may not."""
    return not word.startswith("-") or word[1:2].isdigit() or word[1:2] == "."


def _override(text: str, tree: Tree) -> None:
    key, equals, value = text.partition("=")
    parts = tuple(part.strip() for part in key.split("."))
    if not equals or not all(parts):
        raise ConfigError(f"-o {text} is not key=value", "", "write -o Model.hidden_size=1024, without spaces")
    tree.put(parts, literal(value), f"by -o {key}")


def _flag(word: str, argv: Sequence[str], position: int, found: Words) -> int:
    typed, equals, text = word.partition("=")
    name = typed.removeprefix("--").replace("-", "_")
    spec = BY_ANY_NAME.get(name)
    if spec is None and name.startswith("no_"):
        positive = BY_ANY_NAME.get(name.removeprefix("no_"))
        if positive is not None and positive.base == "bool" and not equals:
            found.flags.append((positive, "false", typed))
            return position
    if spec is None:
        near = nearest(name, BY_ANY_NAME)
        raise ConfigError(f"unknown argument {typed}", "it stands on the command line",
                          f"did you mean --{near}?" if near else "zoo run TASK --help lists the arguments")  # fmt: skip
    if equals:
        found.flags.append((spec, text, typed))
        return position
    return _values(spec, typed, argv, position, found)


def _values(spec: Spec, typed: str, argv: Sequence[str], position: int, found: Words) -> int:
    """Take the words after a flag that are its values; a yes-or-no flag may stand alone."""
    end = position
    many = spec.base.startswith("tuple") or spec.parse is not None
    while end < len(argv) and _is_value(argv[end]) and not (_is_file(argv[end]) and (many or spec.bare is not None)):
        if spec.base == "bool" and argv[end].lower() not in _TRUTHS:
            break
        end += 1
        if not many:
            break
    taken = argv[position:end]
    if taken:
        found.flags.append((spec, " ".join(taken), typed))
    elif spec.base == "bool" or spec.bare is not None:
        found.flags.append((spec, spec.bare or "true", typed))
    else:
        raise ConfigError(f"{typed} needs a value", spec.help, f"write {typed} VALUE")
    return end
