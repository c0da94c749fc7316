"""What a row of a batch is, what holds for it, and what a pass gives it. No paddle."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal

from zoo_core.generate.choice import Sampling

__all__ = ["Finish", "Row", "Rules", "Step"]

Finish = Literal["", "stop", "length", "error"]
"""Why a row has ended: at an end token, at its most tokens, or because its logits are not numbers; "" goes on."""


@dataclass(frozen=True)
class Row:
    """A prompt.

    Args:
        ids: its tokens, at least one.
        max_new_tokens: most tokens that follow it; 0 for a row that only fills up a batch.
        seed: of its draws; the same seed gives the same tokens.
    """

    ids: Sequence[int]
    max_new_tokens: int
    seed: int | tuple[int, ...] = 0


@dataclass(frozen=True)
class Rules:
    """What holds for a row, or for all of a batch.

    Args:
        sampling: how the next token is chosen.
        ends: ids that end a row's text; they are no part of it.
        min_new_tokens: none of `ends` is chosen before there are so many new tokens.
        vocab_size: ids at or above it are never chosen; `None` for all of the model's.
        filler: id of the columns where a row has no token.
        bad_words: runs of ids that are never completed, counting the prompt's.
        logprobs: give the log-probability of each chosen token, and of so many of the likeliest; `None` for none.
            They are the model's own, before anything here has changed them.
    """

    sampling: Sampling
    ends: Collection[int] = ()
    min_new_tokens: int = 0
    vocab_size: int | None = None
    filler: int = 0
    bad_words: tuple[tuple[int, ...], ...] = ()
    logprobs: int | None = None


@dataclass(frozen=True)
class Step:
    """What a pass gave a row.

    Args:
        token: the new one; `None` where the row has ended without one.
        finish: why it has ended; empty while it goes on.
        logprob: of the token, in nats, if the row's rules ask for it.
        top: the likeliest tokens with theirs, the first of equals first.
    """

    token: int | None
    finish: Finish = ""
    logprob: float | None = None
    top: tuple[tuple[int, float], ...] = ()
