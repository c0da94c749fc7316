"""What all argument groups share: a frozen dataclass whose methods are written once instead of generated for each.

Generating `__init__` and `__eq__` for 250 fields costs 25 ms of every start of `zoo`; these cost none.
"""

from __future__ import annotations

import dataclasses
from typing import Any, TypeVar

__all__ = ["Group", "group"]

_Class = TypeVar("_Class")


def group(cls: type[_Class]) -> type[_Class]:
    """Make a subclass of `Group` a frozen dataclass."""
    return dataclasses.dataclass(frozen=True, init=False, eq=False, repr=False)(cls)


class Group:
    """A set of arguments, given by name; the others have their defaults."""

    def __init__(self, **values: Any) -> None:
        names = [entry.name for entry in dataclasses.fields(self)]  # type: ignore[arg-type]
        for name in values:
            if name not in names:
                raise TypeError(f"{type(self).__name__} has no argument {name!r}")
        vars(self).update({name: values.get(name, getattr(type(self), name)) for name in names})

    def __eq__(self, other: object) -> bool:
        return vars(self) == vars(other) if type(self) is type(other) else NotImplemented

    def __hash__(self) -> int:
        return hash(tuple(vars(self).items()))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in vars(self).items())})"
