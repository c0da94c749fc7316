"""Pretraining: the loop, on a corpus."""

from __future__ import annotations

from collections.abc import Sequence

from zoo_core.arguments import Arguments
from zoo_core.plan import Plan
from zoo_core.registry import Found
from zoo_core.train.datasets import open_data
from zoo_core.train.loop import train
from zoo_core.train.prepared import Prepared

__all__ = ["run"]


def run(arguments: Arguments, plan: Plan, found: Found, prepared: Prepared, words: Sequence[str]) -> int:
    """Pretrain; see `zoo_core.train.loop.train`."""
    return train(arguments, plan, found, prepared, words, open_data)
