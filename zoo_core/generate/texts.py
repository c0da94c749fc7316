"""Text of tokens as they come, cut where a stop string begins. No paddle.

A token may end within a character, and a text within what may become a stop string: such text waits for the rest.
"""

from __future__ import annotations

from collections.abc import Sequence

from zoo_core.tokenizers import Tokenizer
from zoo_core.tokenizers.base import REPLACEMENT

__all__ = ["AnswerText", "TextStream"]

_CONTEXT = 4
"""Tokens of context: as many as a character has bytes at most."""

_UNFINISHED = 3
"""Bytes of an unfinished UTF-8 character, and so the most U+FFFD that it reads as."""

_PATIENCE = 64
"""Tokens that are waited with until their text is whole; a model that only gives broken bytes may never end one."""


class TextStream:
    """Turns tokens into pieces of text; put together they are the text of all tokens, if that is whole characters.

    A few tokens of context are decoded with each new one, because some tokenizers drop the space before the first.

    Args:
        tokenizer: whose tokens they are.
        prompt: the ids before, for context; their text is not given out.
    """

    def __init__(self, tokenizer: Tokenizer, prompt: Sequence[int] = ()) -> None:
        self._tokenizer = tokenizer
        self._context = list(prompt[-_CONTEXT:])
        self._waiting: list[int] = []
        self._given = 0

    def add(self, token: int) -> str:
        """Return the text that is certain after `token`; empty while a character is unfinished."""
        self._waiting.append(token)
        text = self._new_text()
        unfinished = min(len(text) - len(text.rstrip(REPLACEMENT)), _UNFINISHED)
        if not unfinished or len(self._waiting) >= _PATIENCE:
            return self._give(text)
        # A token may end one character and begin another: what is whole of it goes out.
        certain = text[: len(text) - unfinished]
        new, self._given = certain[self._given :], max(self._given, len(certain))
        return new

    def end(self) -> str:
        """Return what is left; an unfinished character is U+FFFD."""
        return self._give(self._new_text()) if self._waiting else ""

    def _new_text(self) -> str:
        before = self._tokenizer.decode(self._context, skip_special_tokens=True)
        return self._tokenizer.decode([*self._context, *self._waiting], skip_special_tokens=True)[len(before) :]

    def _give(self, text: str) -> str:
        new, self._given = text[self._given :], 0
        self._context = [*self._context, *self._waiting][-_CONTEXT:]
        self._waiting = []
        return new


class AnswerText:
    """The text of an answer, up to the first stop string, which is no part of it.

    Args:
        tokenizer: whose tokens they are.
        prompt: the ids before.
        stop: texts that end the answer; empty ones are passed over.
    """

    def __init__(self, tokenizer: Tokenizer, prompt: Sequence[int], stop: Sequence[str] = ()) -> None:
        self.stopped = False
        self._stream = TextStream(tokenizer, prompt)
        self._stop = [text for text in stop if text]
        self._held = ""

    def add(self, token: int) -> str:
        """Return the text that is certain after `token`; when a stop string came, the last, and `stopped` is set."""
        return self._certain(self._stream.add(token))

    def end(self) -> str:
        """Return what was held back, when no more tokens come."""
        text = self._certain(self._stream.end()) + self._held
        self._held = ""
        return text

    def _certain(self, new: str) -> str:
        if self.stopped:
            return ""
        text = self._held + new
        found = [place for place in map(text.find, self._stop) if place >= 0]
        if found:
            self.stopped, self._held = True, ""
            return text[: min(found)]
        kept = max((_overlap(text, stop) for stop in self._stop), default=0)
        self._held = text[len(text) - kept :]
        return text[: len(text) - kept]


def _overlap(text: str, stop: str) -> int:
    """Characters at the end of `text` that `stop` begins with."""
    longest = min(len(text), len(stop) - 1)
    return next((size for size in range(longest, 0, -1) if text.endswith(stop[:size])), 0)
