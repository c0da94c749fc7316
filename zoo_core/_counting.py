"""Numbers of things, in words."""

from __future__ import annotations

__all__ = ["many"]


def many(count: int, name: str) -> str:
    """Return "1 step", "2 steps", "1,024 pairs of answers": the first word of a name is the one that changes."""
    first, space, rest = name.partition(" ")
    end = "" if count == 1 else "es" if first.endswith("s") else "s"
    return f"{count:,} {first}{end}{space}{rest}"
