"""Text of tokens as they come. A token may end within a character: its text waits for the rest."""

from __future__ import annotations

from zoo_core.tokenizers import Tokenizer
from zoo_core.tokenizers.base import REPLACEMENT

__all__ = ["TextStream"]

_LONGEST = 4
"""Bytes of the longest UTF-8 character: after as many tokens a U+FFFD at the end is no unfinished character."""


class TextStream:
    """Turns tokens into pieces of text; put together they are the text of all tokens, if that is whole characters.

    A few tokens of context are decoded with each new one, because some tokenizers drop the space before the first.

    Args:
        tokenizer: whose tokens they are.
        prompt: the ids before, for context; their text is not given out.
    """

    def __init__(self, tokenizer: Tokenizer, prompt: tuple[int, ...] = ()) -> None:
        self._tokenizer = tokenizer
        self._context = list(prompt[-_LONGEST:])
        self._waiting: list[int] = []

    def add(self, token: int) -> str:
        """Return the text that is certain after `token`; empty while a character is unfinished."""
        self._waiting.append(token)
        text = self._new_text()
        if text.endswith(REPLACEMENT) and len(self._waiting) < _LONGEST:
            return ""
        return self._give(text)

    def end(self) -> str:
        """Return what is left; an unfinished character is U+FFFD."""
        return self._give(self._new_text()) if self._waiting else ""

    def _new_text(self) -> str:
        before = self._tokenizer.decode(self._context, skip_special_tokens=True)
        return self._tokenizer.decode([*self._context, *self._waiting], skip_special_tokens=True)[len(before) :]

    def _give(self, text: str) -> str:
        self._context = [*self._context, *self._waiting][-_LONGEST:]
        self._waiting = []
        return text
