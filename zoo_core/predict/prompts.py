"""The prompts of a file of questions, as the model reads them. No paddle."""

from __future__ import annotations

from dataclasses import dataclass

from zoo_core.data.sft import BadLine, Encoder, Limits, Lines
from zoo_core.errors import DataError
from zoo_core.predict.questions import Question, parse_question
from zoo_core.tokenizers import Message

__all__ = ["Lengths", "Prompts"]

_ANSWER: Message = {"role": "assistant", "content": "b"}
"""Stands for the answer: an encoder writes whole conversations."""


@dataclass(frozen=True)
class Lengths:
    """The longest that things may be, in tokens.

    Args:
        source: a prompt.
        answer: an answer.
        total: both together.
    """

    source: int
    answer: int
    total: int

    @property
    def prompt(self) -> int:
        """Tokens that a prompt is cut to: it leaves the answer its room, but never takes less than half for itself."""
        return max(1, min(self.source, self.total - min(self.answer, self.total // 2)))

    @property
    def limits(self) -> Limits:
        """The same, for an encoder of conversations with a stand-in for the answer."""
        return Limits(self.prompt, 1, self.prompt + 1)


class Prompts:
    """Prompts by the number of their line, in the form in which evaluation by generating asks.

    Args:
        lines: of the file.
        encoder: with `lengths.limits`.
        lengths: of prompts and answers.
    """

    def __init__(self, lines: Lines, encoder: Encoder, lengths: Lengths) -> None:
        self.lines, self.encoder, self.lengths = lines, encoder, lengths

    def __len__(self) -> int:
        """Return how many questions there are."""
        return len(self.lines)

    def question(self, number: int) -> Question:
        """Return what a line asks.

        Raises:
            BadLine: nothing that can be answered.
        """
        return parse_question(self.lines.read(number), self.lines.place(number))

    def ids(self, number: int) -> tuple[list[int], int]:
        """Return the prompt of a line, and how many tokens were cut off its beginning.

        Raises:
            BadLine: it asks nothing, or the family's form does not know such a conversation.
            DataError: the model's vocabulary lacks an id.
        """
        asked, place = self.question(number), self.lines.place(number)
        if not asked.messages:
            return self._continued(asked.text, place)
        found = self.encoder.encode([*asked.messages, _ANSWER], place)
        ids = found.ids[: found.answers[-1][0]]
        return ids, found.source_cut

    def _continued(self, text: str, place: str) -> tuple[list[int], int]:
        """A text as it is, with what the family adds by itself, which stays when the beginning is cut off."""
        tokenizer, vocab_size = self.encoder.tokenizer, self.encoder.vocab_size
        ids = tokenizer.encode(text, add_special_tokens=True)
        first = tokenizer.bos_id if tokenizer.bos_id is not None else tokenizer.eos_id
        ids = ids or ([] if first is None else [first])
        if not ids:
            raise BadLine(f"{place}: the prompt is empty", "this tokenizer has no token to begin with", "give a text")
        if vocab_size is not None and max(ids) >= vocab_size:
            raise DataError(
                f"{place} has the token id {max(ids)}",
                f"the model's vocabulary has {vocab_size}",
                "give the tokenizer of this model",
            )
        cut = max(len(ids) - self.lengths.prompt, 0)
        kept = 1 if cut and ids[0] == tokenizer.bos_id and self.lengths.prompt > 1 else 0
        return ids[:kept] + ids[cut + kept :], cut

    def look(self) -> tuple[int, int]:
        """Read every line; return how many prompts are cut, and the tokens of the longest.

        Raises:
            BadLine, DataError: of the first line that cannot be answered.
        """
        shortened, longest = 0, 0
        for number in range(len(self)):
            ids, cut = self.ids(number)
            shortened, longest = shortened + (cut > 0), max(longest, len(ids))
        return shortened, longest

    def room(self, prompt: int) -> int:
        """Return the most tokens of an answer behind a prompt of so many."""
        return max(1, min(self.lengths.answer, self.lengths.total - prompt))
