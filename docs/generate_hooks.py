"""The generated parts of the hook reference: the five hooks and the types they deal in, read from the source.

Nothing is imported: griffe reads the files, so that the page needs no paddle, which `zoo_ops.Cache` would load.
"""

from __future__ import annotations

import html
import re
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import griffe
from words import words

from zoo_core.arguments._registry import SPECS

__all__ = ["blocks"]

ROOT = Path(__file__).parents[1]

TYPES: tuple[tuple[str, tuple[str, ...]], ...] = (
    (
        "Capabilities",
        tuple(f"zoo_core.capabilities.{n}" for n in ("Capabilities", "ModelEntry", "Support", "Exclusion")),
    ),
    ("Configuration", ("zoo_core.config.ModelConfig",)),
    (
        "Parameter table",
        tuple(
            f"zoo_core.layout.{n}"
            for n in ("Rule", "Column", "FusedColumn", "Part", "Row", "Vocab", "Replicate", "Init")
        ),
    ),
    ("Pipeline list", ("zoo_core.pipeline.PipeLayer",)),
    (
        "Batch and cache",
        ("zoo_ops.batch.Batch", "zoo_ops.batch.Output", "zoo_ops.cache.Cache", "zoo_ops.cache.LayerCache"),
    ),
    ("Tokenizer", tuple(f"zoo_core.tokenizers.base.{n}" for n in ("Tokenizer", "BatchTokenizer", "ChatTokenizer"))),
)
"""Title of a section -> the types it shows."""

_STARS = {griffe.ParameterKind.var_positional: "*", griffe.ParameterKind.var_keyword: "**"}
_FACTORIES = {"field(default_factory=dict)": "{}", "field(default_factory=list)": "[]"}

Say = Callable[[str], str]


@cache
def _package(name: str) -> griffe.Module:
    loader = griffe.GriffeLoader(search_paths=[ROOT, ROOT / "ops"], docstring_parser="google")
    found = loader.load(name)
    assert isinstance(found, griffe.Module)
    return found


def _at(path: str) -> griffe.Object:
    package, _, rest = path.partition(".")
    found = _package(package)[rest]
    assert isinstance(found, griffe.Object)
    return found


def _paragraphs(text: str) -> list[str]:
    return [" ".join(paragraph.split()) for paragraph in text.strip().split("\n\n") if paragraph.strip()]


def _sections(item: griffe.Object) -> tuple[list[str], dict[str, str], list[tuple[str, str]]]:
    """Return the paragraphs of a docstring, the meaning of each argument, and (error, when) of what it raises."""
    text: list[str] = []
    arguments: dict[str, str] = {}
    raised: list[tuple[str, str]] = []
    for section in item.docstring.parse("google", warnings=False) if item.docstring else []:
        if section.kind is griffe.DocstringSectionKind.text:
            text += _paragraphs(section.value)
        elif section.kind is griffe.DocstringSectionKind.parameters:
            arguments |= {p.name.strip(): " ".join(p.description.split()) for p in section.value}
        elif section.kind is griffe.DocstringSectionKind.raises:
            raised += [(str(e.annotation), " ".join(e.description.split())) for e in section.value]
    together = {part.strip(): said for name, said in arguments.items() for part in name.split(",")}
    return text, together, raised


def _signature(function: griffe.Function, name: str = "") -> str:
    parts, star = [], False
    for parameter in function.parameters:
        if parameter.name in ("self", "cls"):
            continue
        if parameter.kind is griffe.ParameterKind.keyword_only and not star:
            parts.append("*")
            star = True
        mark = {griffe.ParameterKind.var_positional: "*", griffe.ParameterKind.var_keyword: "**"}.get(
            parameter.kind, ""
        )
        star = star or mark == "*"
        text = mark + parameter.name
        if parameter.annotation is not None:
            text += f": {parameter.annotation}"
        if parameter.default is not None and not mark:
            text += f" = {parameter.default}" if parameter.annotation is not None else f"={parameter.default}"
        parts.append(text)
    returns = "" if function.returns is None else f" -> {function.returns}"
    return f"{name or function.name}({', '.join(parts)}){returns}"


def _code(found: re.Match[str]) -> str:
    return f"<code>{html.escape(found[1]).replace('|', '&#124;')}</code>"


def _cell(text: str) -> str:
    """A pipe in code is written so that a table of GitHub and of the site both show it."""
    code = re.sub(r"`([^`]*\|[^`]*)`", _code, text)
    return code.replace("|", "\\|")


def _hooks(say: Say) -> Iterator[str]:
    for name, found in _at("zoo_core.hookspecs").members.items():
        if not isinstance(found, griffe.Function):
            continue
        text, _, raised = _sections(found)
        yield f"### `{name}`"
        yield f"```python\ndef {_signature(found)}\n```"
        yield from map(say, text)
        yield from (f"{say('Raises')} `{error}`: {say(when)}" for error, when in raised)


def _table(rows: list[tuple[str, str, str, str]], say: Say) -> str:
    head = "| " + " | ".join(say(word) for word in ("name", "type", "default", "meaning")) + " |"
    return "\n".join([head, "|---|---|---|---|", *(f"| {' | '.join(map(_cell, row))} |" for row in rows)])


def _fields(item: griffe.Class, meanings: dict[str, str], say: Say) -> list[tuple[str, str, str, str]]:
    """Rows of the public fields of a dataclass or protocol; of another class, of its constructor's parameters."""
    rows: list[tuple[str, str, str, str]] = []
    plain = "dataclass" not in item.labels and "Protocol" not in map(str, item.bases)
    for name, member in {} if plain else item.members.items():
        if not isinstance(member, griffe.Attribute) or name.startswith("_") or member.annotation is None:
            continue
        if "property" in member.labels or str(member.annotation).startswith("ClassVar"):
            continue
        default = "" if member.value is None else f"`{_FACTORIES.get(str(member.value), member.value)}`"
        own = " ".join(member.docstring.value.split()) if member.docstring else ""
        meaning = meanings.get(name) or own or (SPECS[name].help if name in SPECS else "")
        rows.append((f"`{name}`", f"`{member.annotation}`", default, say(meaning) if meaning else ""))
    if plain and "__init__" in item.members:
        made = item.members["__init__"]
        assert isinstance(made, griffe.Function)
        for parameter in made.parameters:
            if parameter.name != "self":
                meaning = meanings.get(parameter.name, "")
                rows.append((f"`{parameter.name}`", f"`{parameter.annotation}`", "", say(meaning) if meaning else ""))
    return rows


def _methods(item: griffe.Class, say: Say) -> Iterator[str]:
    for name, member in item.members.items():
        if not member.docstring or (name.startswith("_") and name not in ("__getitem__", "__post_init__")):
            continue
        if isinstance(member, griffe.Function):
            shown = _signature(member)
        elif isinstance(member, griffe.Attribute) and "property" in member.labels:
            shown = name if member.annotation is None else f"{name}: {member.annotation}"
        else:
            continue
        text, arguments, raised = _sections(member)
        said = [*map(say, text), *(f"`{n}`: {say(meaning)}" for n, meaning in arguments.items())]
        said += [f"{say('Raises')} `{error}`: {say(when)}" for error, when in raised]
        yield f"- `{shown}`  \n  " + "  \n  ".join(said)


def _type(path: str, say: Say) -> Iterator[str]:
    item = _at(path)
    assert isinstance(item, griffe.Class)
    yield f"### `{item.name}`"
    yield f"```python\nfrom {_home(path)} import {item.name}\n```"
    text, meanings, raised = _sections(item)
    yield from map(say, text)
    yield from _legend(path, say)
    bases = [str(base) for base in item.bases if str(base) not in ("Protocol", "object")]
    if bases:
        yield f"{say('All of')} {', '.join(f'[`{base}`](#{base.lower()})' for base in bases)}{say(', and:')}"
    rows = _fields(item, meanings, say)
    if rows:
        yield _table(rows, say)
    yield from (f"{say('Raises')} `{error}`: {say(when)}" for error, when in raised)
    methods = list(_methods(item, say))
    if methods:
        yield "\n".join(methods)


def _home(path: str) -> str:
    """The shortest module that a type can be imported from."""
    *modules, name = path.split(".")
    for count in range(1, len(modules)):
        module = _at(".".join(modules[:count])) if count > 1 else _package(modules[0])
        if isinstance(module.filepath, Path) and f'"{name}"' in module.filepath.read_text(encoding="utf-8"):
            return ".".join(modules[:count])
    return ".".join(modules)


def _legend(path: str, say: Say) -> Iterator[str]:
    """What the letters of shapes stand for in a module."""
    module = _at(path.rpartition(".")[0])
    for paragraph in _paragraphs(module.docstring.value) if module.docstring else []:
        if paragraph.startswith("Shape legend"):
            yield say(paragraph)


def blocks(language: str) -> dict[str, str]:
    """Return the generated parts of the page by name: the contract's version, the hooks, the types."""
    say = words(language)
    version = _at("zoo_core.hookspecs").members["CONTRACT_VERSION"]
    assert isinstance(version, griffe.Attribute)
    types = []
    for title, paths in TYPES:
        types.append(f"## {say(title)}")
        for path in paths:
            types += _type(path, say)
    return {
        "contract": f"```python\nCONTRACT_VERSION = {version.value}\n```",
        "hooks": "\n\n".join(_hooks(say)),
        "types": "\n\n".join(types),
    }
