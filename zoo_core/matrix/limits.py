"""What the core itself cannot do yet, whatever a plugin declares. When a piece of work lands, its line goes."""

from __future__ import annotations

__all__ = ["LIMITS", "lacking"]

LIMITS: dict[str, str] = {}
"""Cell -> what is missing."""


def lacking(cell: str) -> str:
    """Return why the core refuses a cell; empty when it does not."""
    return f"zoo-core has no {LIMITS[cell]} yet" if cell in LIMITS else ""
