"""What the HTTP side hands to the thread that owns the model, and what comes back. No paddle, no HTTP."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from zoo_core.generate.rules import Row, Rules, Step

__all__ = ["Event", "Failure", "Job", "Rows", "Score", "Text", "Watch", "Worker"]


class Text(Protocol):
    """The text of one answer's tokens, cut before a stop string; see `zoo_core.generate.texts.AnswerText`."""

    stopped: bool

    def add(self, token: int) -> str:
        """Return the text that is certain after this token."""
        ...

    def end(self) -> str:
        """Return what is left."""
        ...


class Rows(Protocol):
    """Rows that are decoded together and come and go; see `zoo_core.generate.pool.Pool`."""

    def add(self, row: Row, rules: Rules) -> int:
        """Let a row join; return its ticket."""
        ...

    def drop(self, ticket: int) -> None:
        """Let a row leave at once."""
        ...

    def step(self) -> dict[int, Step]:
        """Make one pass; return what each row got."""
        ...


@dataclass(frozen=True)
class Score:
    """What the model gives a token of a prompt.

    Args:
        logprob: natural logarithm of its probability after what is before it; `None` of the first token.
        top: the likeliest tokens in its place with theirs, best first.
    """

    logprob: float | None
    top: tuple[tuple[int, float], ...] = ()


class Worker(Protocol):
    """The model, as the one thread that owns it sees it. An empty adapter name is the base model."""

    def use(self, adapter: str) -> None:
        """Run with this adapter from now on."""
        ...

    def pool(self) -> Rows:
        """Make the rows of one adapter."""
        ...

    def scores(self, prompts: Sequence[Sequence[int]], top: int) -> list[list[Score]]:
        """Score the tokens of prompts with the adapter in use, each with the `top` likeliest."""
        ...


@dataclass(frozen=True)
class Failure:
    """Why a job has no answer.

    Args:
        kind: "model" (an error in it), "timeout", or "stopped" (the server was told to stop).
        message: one sentence for the client.
    """

    kind: str
    message: str


@dataclass(frozen=True)
class Event:
    """News of a job. The one with a `finish` or a `failure` is its last.

    Args:
        text: text that is certain since the event before.
        steps: of the tokens since then, whether or not their text is certain.
        finish: "stop" or "length".
        failure: instead of a finish.
        prompt: scores of the prompt's tokens, once, where the job asks for them.
    """

    text: str = ""
    steps: tuple[Step, ...] = ()
    finish: str = ""
    failure: Failure | None = None
    prompt: tuple[Score, ...] | None = None


@dataclass(eq=False)
class Job:
    """One answer that is wanted.

    Args:
        row: the prompt, the most new tokens (0 where only scores are wanted) and the seed.
        rules: how tokens are chosen.
        text: takes the tokens.
        deliver: called with each event, from the thread that owns the model; returns soon.
        adapter: name of the adapter it runs with.
        stream: deliver text as it comes; otherwise one event brings all.
        score_top: score the prompt, with so many likeliest tokens at each place; `None` for no scores.
        deadline: when it is given up, on the scheduler's clock, seconds.
    """

    row: Row
    rules: Rules
    text: Text
    deliver: Callable[[Event], None]
    adapter: str = ""
    stream: bool = False
    score_top: int | None = None
    deadline: float = math.inf
    cancelled: bool = field(default=False, init=False)
    arrived: float = field(default=0.0, init=False)


class Watch(Protocol):
    """Told of what happens, for measurements; called from the thread that owns the model."""

    def first(self, seconds: float) -> None:
        """A job got its first token so long after it came."""
        ...

    def following(self, seconds: float) -> None:
        """A job got another token so long after the one before."""
        ...

    def ended(self, job: Job, tokens: int, how: str) -> None:
        """A job ended: "stop", "length", "cancelled", or a failure's kind."""
        ...
