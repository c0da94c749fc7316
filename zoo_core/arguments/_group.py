"""What all argument groups share: a frozen dataclass whose methods are written once instead of generated for each.

Generating `__init__`, `__eq__` and `__setattr__` for 250 fields costs 30 ms of every start of `zoo`; these cost none.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

if TYPE_CHECKING:
    from typing_extensions import dataclass_transform
else:

    def dataclass_transform(**_: Any) -> Any:
        """Stand in for the type checker's mark, which does nothing at run time."""
        return lambda function: function


__all__ = ["Group", "group"]

_Class = TypeVar("_Class")


@dataclass_transform(frozen_default=True)
def group(cls: type[_Class]) -> type[_Class]:
    """Make a subclass of `Group` a dataclass; `Group` itself makes it frozen."""
    return dataclasses.dataclass(init=False, eq=False, repr=False)(cls)


class Group:
    """A set of arguments, given by name; the others have their defaults."""

    def __init__(self, **values: Any) -> None:
        names = [entry.name for entry in dataclasses.fields(self)]  # type: ignore[arg-type]
        for name in values:
            if name not in names:
                raise TypeError(f"{type(self).__name__} has no argument {name!r}")
        vars(self).update({name: values.get(name, getattr(type(self), name)) for name in names})

    def __setattr__(self, name: str, value: Any) -> NoReturn:
        raise dataclasses.FrozenInstanceError(f"cannot assign to argument {name!r}")

    def __delattr__(self, name: str) -> NoReturn:
        raise dataclasses.FrozenInstanceError(f"cannot delete argument {name!r}")

    def __eq__(self, other: object) -> bool:
        return vars(self) == vars(other) if type(self) is type(other) else NotImplemented

    def __hash__(self) -> int:
        return hash(tuple(vars(self).items()))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in vars(self).items())})"
