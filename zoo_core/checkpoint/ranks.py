"""The processes that save, or check, a checkpoint together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

__all__ = ["Ranks"]


def _alone(text: str) -> Sequence[str]:
    return [text]


@dataclass(frozen=True)
class Ranks:
    """This process among those that save together.

    Args:
        rank: of `world`, counted over all processes.
        exchange: gives this process's text to all and returns everybody's in rank order; a barrier. It must allow
            for the time the slowest rank needs to write its part.
    """

    rank: int = 0
    world: int = 1
    exchange: Callable[[str], Sequence[str]] = field(default=_alone)
