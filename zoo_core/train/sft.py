"""Fine-tuning on conversations, of all weights or of adapters: the loop, on answers."""

from __future__ import annotations

from collections.abc import Sequence

from zoo_core.arguments import Arguments
from zoo_core.plan import Plan
from zoo_core.registry import Found
from zoo_core.train.conversations import open_conversations
from zoo_core.train.loop import train
from zoo_core.train.prepared import Prepared

__all__ = ["run"]


def run(arguments: Arguments, plan: Plan, found: Found, prepared: Prepared, words: Sequence[str]) -> int:
    """Fine-tune; see `zoo_core.train.loop.train`."""
    return train(arguments, plan, found, prepared, words, open_conversations)
