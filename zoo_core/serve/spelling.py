"""How tokens are written in `logprobs`: each with its text where it stands, and where that begins in the answer."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from zoo_core.serve.jobs import Score
from zoo_core.tokenizers import Tokenizer
from zoo_core.tokenizers.base import REPLACEMENT

if TYPE_CHECKING:
    from zoo_core.generate.rules import Step

__all__ = ["Speller", "Spelled", "Word", "chat_logprobs", "completion_logprobs"]

_CONTEXT = 4
"""Tokens before that are decoded with one: some tokenizers drop the space before the first."""
_UNLIKELY = -9999.0
"""OpenAI's number for a probability of 0, whose logarithm JSON cannot say."""


@dataclass(frozen=True)
class Word:
    """A token as text, with its log-probability; `whole` unless it is a part of a character only."""

    text: str
    logprob: float | None
    whole: bool = True


@dataclass(frozen=True)
class Spelled:
    """A token of an answer, the likeliest ones in its place, and the offset of its text, in characters."""

    word: Word
    top: tuple[Word, ...]
    offset: int


class Speller:
    """Spells tokens one after another.

    Args:
        tokenizer: whose tokens they are.
        before: ids before the first.
        offset: where the first one's text begins.
    """

    def __init__(self, tokenizer: Tokenizer, before: Sequence[int] = (), offset: int = 0) -> None:
        self._tokenizer = tokenizer
        self._context = list(before[-_CONTEXT:])
        self._waiting: list[int] = []
        self._offset = offset

    def step(self, step: Step) -> Spelled:
        """Spell what a pass gave a row; an end token has no text, and is spelled all the same."""
        token, offset = step.token, self._offset
        if token is None:
            ended = next((t for t, logprob in step.top if logprob == step.logprob), self._tokenizer.eos_id)
            word = Word("", step.logprob) if ended is None else self._word(ended, step.logprob)
        else:
            word = self._word(token, step.logprob)
        top = tuple(self._word(other, logprob) for other, logprob in step.top)
        if token is not None:
            self._move(token)
        return Spelled(word, top, offset)

    def score(self, token: int, score: Score) -> Spelled:
        """Spell a token of a prompt."""
        offset = self._offset
        found = Spelled(
            self._word(token, score.logprob), tuple(self._word(other, value) for other, value in score.top), offset
        )
        self._move(token)
        return found

    def _word(self, token: int, logprob: float | None) -> Word:
        before = self._tokenizer.decode(self._context)
        text = self._tokenizer.decode([*self._context, token])
        whole = text.startswith(before) and REPLACEMENT not in text[len(before) :] and len(text) > len(before)
        spelled = text[len(before) :] if whole else self._tokenizer.pieces([token])[0]
        return Word(spelled, None if logprob is None else max(logprob, _UNLIKELY), whole)

    def _move(self, token: int) -> None:
        """Go beyond a token. The text of one that ends within a character counts with that of the one that ends it."""
        self._waiting.append(token)
        context = self._context[: len(self._context) - len(self._waiting) + 1]
        before = self._tokenizer.decode(context, skip_special_tokens=True)
        text = self._tokenizer.decode([*context, *self._waiting], skip_special_tokens=True)[len(before) :]
        self._context = [*self._context, token][-2 * _CONTEXT :]
        if not text.endswith(REPLACEMENT) or len(self._waiting) >= _CONTEXT:
            self._offset += len(text)
            self._waiting = []


def completion_logprobs(words: Iterable[Spelled]) -> dict[str, Any]:
    """Return `logprobs` of /v1/completions; the chosen token is in `top_logprobs` even when it is not likely."""
    tokens, values, tops, offsets = [], [], [], []
    for one in words:
        tokens.append(one.word.text)
        values.append(one.word.logprob)
        offsets.append(one.offset)
        top: dict[str, float | None] = {}
        for other in (*one.top, one.word):
            top.setdefault(other.text, other.logprob)  # two ids may have one text: the likelier comes first
        tops.append(top if one.word.logprob is not None else None)
    return {"tokens": tokens, "token_logprobs": values, "top_logprobs": tops, "text_offset": offsets}


def chat_logprobs(words: Iterable[Spelled]) -> dict[str, Any]:
    """Return `logprobs` of /v1/chat/completions."""
    content = [{**_entry(one.word), "top_logprobs": [_entry(other) for other in one.top]} for one in words]
    return {"content": content, "refusal": None}


def _entry(word: Word) -> dict[str, Any]:
    return {
        "token": word.text,
        "logprob": word.logprob,
        "bytes": list(word.text.encode("utf-8", "replace")) if word.whole else None,
    }
