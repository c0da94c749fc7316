"""From a raw value (JSON, YAML or a flag's text) to an argument's type, or an error that says what was expected."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any

from zoo_core.arguments._spec import Spec
from zoo_core.errors import ConfigError

__all__ = ["coerce", "expected", "literal"]

_TRUE = ("true", "yes", "on", "1")
_FALSE = ("false", "no", "off", "0")
_EMPTY = ("none", "null", "")


def _bool(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    text = str(value).lower()
    if isinstance(value, (int, float, str)) and text in _TRUE + _FALSE:
        return text in _TRUE
    raise ValueError


def _int(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise ValueError
    try:
        return int(value) if not isinstance(value, float) else _int(str(value))
    except ValueError:
        number = float(value)
        if not number.is_integer():
            raise ValueError from None
        return int(number)


def _float(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise ValueError
    number = float(value)
    if not math.isfinite(number):
        raise ValueError
    return number


def _str(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise ValueError
    return str(value)


def _items(value: Any, item: Callable[[Any], Any]) -> tuple[Any, ...]:
    if isinstance(value, str):
        value = value.replace(",", " ").split()
    return tuple(item(part) for part in (value if isinstance(value, (list, tuple)) else (value,)))


_CONVERT: dict[str, Callable[[Any], Any]] = {
    "bool": _bool,
    "int": _int,
    "float": _float,
    "str": _str,
    "tuple[int, ...]": lambda value: _items(value, _int),
    "tuple[str, ...]": lambda value: () if value in ("none", "None") else _items(value, _str),
}

_NOUN = {
    "bool": "true or false",
    "int": "a whole number",
    "float": "a number",
    "str": "text",
    "tuple[int, ...]": "whole numbers such as 0,1,2",
    "tuple[str, ...]": "names such as a,b",
}


def expected(spec: Spec) -> str:
    """Return what the argument accepts, in words."""
    if spec.choices:
        return "one of " + ", ".join(spec.choices)
    bounds = [
        (spec.minimum, "at least"),
        (spec.above, "above"),
        (spec.maximum, "at most"),
        (spec.below, "below"),
    ]
    limits = [f"{word} {bound:g}" for bound, word in bounds if bound is not None]
    return _NOUN[spec.base] + (", " + " and ".join(limits) if limits else "")


def _in_range(spec: Spec, value: Any) -> bool:
    numbers = value if isinstance(value, tuple) else (value,)
    return all(
        (spec.minimum is None or number >= spec.minimum)
        and (spec.maximum is None or number <= spec.maximum)
        and (spec.above is None or number > spec.above)
        and (spec.below is None or number < spec.below)
        for number in numbers
    )


def _choose(spec: Spec, value: Any) -> str:
    # YAML 1.1 reads a bare `no` as false, and `evaluation_strategy: no` is what people write.
    text = "no" if value is False else _str(value)
    for choice in spec.choices:
        if choice.lower() == text.lower():
            return choice
    raise ValueError


def _convert(spec: Spec, value: Any) -> Any:
    if spec.optional and isinstance(value, str) and value.lower() in _EMPTY:
        return None
    if spec.parse is not None:
        return spec.parse(value)
    converted = _choose(spec, value) if spec.choices else _CONVERT[spec.base](value)
    if spec.base not in ("str", "bool", "tuple[str, ...]") and not _in_range(spec, converted):
        raise ValueError
    return converted


def coerce(spec: Spec, value: Any, where: str, typed: str) -> Any:
    """Return `value` as the argument's type.

    Args:
        spec: the argument.
        value: what a file or a flag said; never None.
        where: the source, for the error ("in file a.json, line 3", "by --max_steps").
        typed: the name as the user wrote it.

    Raises:
        ConfigError: the value is of another type, out of range, or not one of the choices.
    """
    try:
        return _convert(spec, value)
    except (ValueError, OverflowError) as error:
        wanted = str(error) if spec.parse is not None and str(error) else expected(spec)
        todo = f"give {typed} {wanted}"
        if spec.name == "device" and str(value)[:1].isdigit():
            todo = f"to choose devices say --devices {value}; --device names the kind (gpu, xpu, cpu)"
        raise ConfigError(f"{typed} = {_show(value)} is not {wanted}", f"it is set {where}", todo) from None


def _show(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def literal(text: str) -> Any:
    """Return the value that the text of a `-o Section.key=TEXT` stands for: number, list, true/false, nothing, or text.

    Examples: "1024" is 1024, "[969,30,1]" a list, "None" and "" None, "core_attn" itself.
    """
    lowered = text.strip().lower()
    if lowered in _EMPTY:
        return None
    if lowered in ("true", "false"):
        return lowered == "true"
    try:
        return json.loads(text.replace("'", '"'), parse_constant=lambda name: name)
    except ValueError:
        return text
