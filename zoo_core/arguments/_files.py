"""Reading argument files: JSON and YAML to a tree that remembers which file and line each key came from."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from zoo_core.errors import ConfigError

__all__ = ["Tree", "read_tree"]

Key = tuple[str, ...]


@dataclass
class Tree:
    """Nested keys of one file with its bases.

    `leaves` maps a path of keys ("Model", "hidden_size") to its value in file order; `where` maps the same path to
    "in file NAME, line N". An empty value is None.
    """

    leaves: dict[Key, Any] = field(default_factory=dict)
    where: dict[Key, str] = field(default_factory=dict)

    def put(self, key: Key, value: Any, where: str) -> None:
        """Set one leaf; what stood at, under or above the same path goes. An empty section says nothing."""
        related = [k for k in self.leaves if k[: len(key)] == key or key[: len(k)] == k]
        if value is None and any(len(k) > len(key) for k in related):
            return
        for other in related:
            self.drop(other)
        self.leaves[key], self.where[key] = value, where

    def drop(self, key: Key) -> None:
        """Forget one leaf."""
        del self.leaves[key], self.where[key]

    def under(self, prefix: Key) -> list[Key]:
        """Return the paths of the leaves below `prefix`."""
        return [key for key in self.leaves if key[: len(prefix)] == prefix]

    def update(self, other: Tree) -> None:
        """Lay `other` over this tree."""
        for key, value in other.leaves.items():
            self.put(key, value, other.where[key])


def read_tree(path: Path) -> Tree:
    """Read an argument file, its `_base_` files below it.

    Raises:
        ConfigError: the file is missing, of an unknown kind, malformed, has a key twice, is not a mapping, or inherits
            from a missing file or from itself.
    """
    return _read(path, ())


def _read(path: Path, children: tuple[Path, ...]) -> Tree:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        why = f"{children[-1]} names it as its _base_" if children else "there is no such file"
        raise ConfigError(f"argument file {path} does not exist", why, "check the path") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"argument file {path} cannot be read", str(error), "give a UTF-8 text file") from None
    if path.suffix == ".json":
        pairs = _json_pairs(path, text)
    elif path.suffix in (".yaml", ".yml"):
        pairs = _yaml_pairs(path, text)
    else:
        raise ConfigError(f"argument file {path} is of an unknown kind", f"its name ends in {path.suffix!r}",
                          "give a .json, .yaml or .yml file")  # fmt: skip
    own = Tree()
    for key, value, line in pairs:
        own.put(key, value, f"in file {path}, line {line}" if line else f"in file {path}")
    return _with_base(path, own, (*children, path.resolve()))


def _with_base(path: Path, own: Tree, chain: tuple[Path, ...]) -> Tree:
    base_name = own.leaves.get(("_base_",))
    if ("_base_",) in own.leaves:
        own.drop(("_base_",))
    alone = [key[:-1] for key, value in own.leaves.items() if key[-1] == "_inherited_" and not value]
    for key in [key for key in own.leaves if key[-1] == "_inherited_"]:
        own.drop(key)
    if base_name is None:
        return own
    if not isinstance(base_name, str):
        raise ConfigError(f"_base_ of {path} is not a file name", f"it is {base_name!r}", "write one relative path")
    base_path = path.parent / base_name
    if base_path.resolve() in chain:
        steps = " -> ".join(p.name for p in (*chain, base_path.resolve()))
        raise ConfigError(f"_base_ of {path} inherits from itself", steps, "break the circle")
    tree = _read(base_path, chain)
    for prefix in alone:
        for key in tree.under(prefix):
            tree.drop(key)
    tree.update(own)
    return tree


def _json_pairs(path: Path, text: str) -> Iterable[tuple[Key, Any, int]]:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key, value in pairs:
            if key in found:
                lines = [str(text.count("\n", 0, m.start()) + 1) for m in _mentions(key, text)]
                raise ConfigError(f"{key!r} stands twice in {path}", f"lines {', '.join(lines)}", "keep one of them")
            found[key] = value
        return found

    def refuse(name: str) -> Any:
        raise ConfigError(f"{path} holds {name}", "it is not a JSON number", "write a finite number")

    try:
        root = json.loads(text, object_pairs_hook=unique, parse_constant=refuse)
    except json.JSONDecodeError as error:
        raise ConfigError(f"{path} is not valid JSON", f"line {error.lineno}, column {error.colno}: {error.msg}",
                          "a comma may be missing or left over") from None  # fmt: skip
    if not isinstance(root, dict):
        raise ConfigError(f"{path} is not a JSON object", "the outermost value is not {...}", 'write {"key": value}')

    def walk(node: dict[str, Any], prefix: Key) -> Iterable[tuple[Key, Any, int]]:
        for key, value in node.items():
            if isinstance(value, dict):
                yield from walk(value, (*prefix, key))
            else:
                first = next(_mentions(key, text), None)
                yield (*prefix, key), value, text.count("\n", 0, first.start()) + 1 if first else 0

    return walk(root, ())


def _mentions(key: str, text: str) -> Iterator[re.Match[str]]:
    return re.finditer(re.escape(json.dumps(key, ensure_ascii=False)) + r"\s*:", text)


def _yaml_pairs(path: Path, text: str) -> Iterable[tuple[Key, Any, int]]:
    import yaml  # 60 ms to import, and most runs read no YAML

    loader = yaml.SafeLoader(text)

    def walk(node: yaml.MappingNode, prefix: Key) -> Iterable[tuple[Key, Any, int]]:
        seen: dict[str, int] = {}
        for key_node, _ in node.value:
            key = str(key_node.value)
            line = key_node.start_mark.line + 1
            if key in seen:
                dotted = ".".join((*prefix, key))
                lines = f"lines {seen[key]}, {line}"
                raise ConfigError(f"{dotted!r} stands twice in {path}", lines, "keep one of them")
            seen[key] = line
        loader.flatten_mapping(node)
        for key_node, value_node in node.value:
            key, line = str(key_node.value), key_node.start_mark.line + 1
            if isinstance(value_node, yaml.MappingNode):
                yield from walk(value_node, (*prefix, key))
            else:
                yield (*prefix, key), loader.construct_object(value_node, deep=True), line

    try:
        root = loader.get_single_node()
        if root is None:
            return []
        if not isinstance(root, yaml.MappingNode):
            raise ConfigError(f"{path} is not a mapping", "the outermost value has no keys", "write `key: value` lines")
        return list(walk(root, ()))
    except yaml.YAMLError as error:
        why = " ".join(str(error).split())
        raise ConfigError(f"{path} is not valid YAML", why, "check indentation and colons") from None
    finally:
        loader.dispose()
