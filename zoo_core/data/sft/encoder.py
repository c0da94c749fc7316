"""Conversations as ids, with which of them are answers, within the limits of length."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile

from zoo_core.data.sft.lines import BadLine
from zoo_core.data.sft.plain import PlainForm
from zoo_core.errors import DataError, TokenizerError
from zoo_core.tokenizers import ChatTokenizer, Message, Tokenizer

__all__ = ["ENCODINGS", "Encoded", "Encoder", "Limits"]

ENCODINGS = ("chat", "plain")

_PROBE: tuple[Message, ...] = ({"role": "user", "content": "a"}, {"role": "assistant", "content": "b"})
_TRIES = 8
_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


@dataclass(frozen=True)
class Limits:
    """The longest that a sample may be, in tokens.

    Args:
        source: the prompt of a conversation of one turn, special tokens included.
        target: the last answer; `None` for what `total` leaves.
        total: all of it.
    """

    source: int = 1024
    target: int | None = None
    total: int = 2048


@dataclass(frozen=True)
class Encoded:
    """A sample.

    Args:
        ids: its tokens.
        answers: where its answers are, as (first, after the last) in `ids`; never at 0, as nothing is before it.
        source_cut, answer_cut: tokens that were cut off the sources and off the last answer.
    """

    ids: list[int]
    answers: tuple[tuple[int, int], ...]
    source_cut: int = 0
    answer_cut: int = 0

    @property
    def learned(self) -> int:
        """How many tokens bear a loss."""
        return sum(stop - start for start, stop in self.answers)


class Encoder:
    """Writes conversations down as the family does, or plainly where it has no form.

    The chat form is the tokenizer's `chat`: answers are what follows the prompts in the whole conversation. Where the
    form writes an earlier prompt otherwise than the whole conversation does (ChatGLM's numbers its rounds in one text,
    Qwen3's template drops earlier reasoning), the last answer alone is learned, as in PaddleNLP: the earlier ones are
    then in a form that the model never writes itself. An answer that the form leaves without an end gets the end token,
    or the model would never stop.

    The plain form is that of PaddleNLP for base models (see `PlainForm`).

    Args:
        tokenizer: of the model.
        limits: of length.
        form: "chat" or "plain"; `None` chats where the tokenizer can.
        vocab_size: of the model; `None` does not look.

    Raises:
        TokenizerError: "chat" is asked for, and the tokenizer cannot.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        limits: Limits | None = None,
        form: str | None = None,
        vocab_size: int | None = None,
    ) -> None:
        self.tokenizer, self.limits, self.vocab_size = tokenizer, limits or Limits(), vocab_size
        self._turn = threading.Lock()  # tokenizers are told by an attribute whether to parse special tokens
        self.form, self.why_plain = form or "chat", ""
        if self.form == "chat":
            try:
                if not isinstance(tokenizer, ChatTokenizer):
                    raise TokenizerError("this tokenizer has no chat form", "its family defines none", "")
                tokenizer.chat(_PROBE)
            except TokenizerError as error:
                if form == "chat":
                    raise
                self.form, self.why_plain = "plain", error.what
        self._plain = PlainForm(tokenizer)

    def encode(self, messages: Sequence[Message], place: str) -> Encoded:
        """Return a conversation that ends with an answer as a sample of at most `limits.total` tokens.

        What is too long loses, in this order: earlier turns, the beginning of the question, the end of the answer.

        Args:
            place: `FILE:NUMBER`, for messages.

        Raises:
            BadLine: the form does not know such a conversation, or leaves no room for an answer.
            DataError: the model's vocabulary lacks an id.
        """
        limits = self.limits
        try:
            with self._turn:
                if self.form == "chat":
                    made = self._chat(messages)
                else:
                    made = self._plain.encode(messages, (limits.source, limits.target, limits.total))
        except TokenizerError as error:
            raise BadLine(f"{place}: {error.what}", error.why, error.todo) from None
        ids, answers, *cut = made
        spans = ((max(start, 1), stop) for start, stop in answers)
        found = Encoded(ids, tuple(span for span in spans if span[0] < span[1]), *cut)
        if not found.answers:
            raise BadLine(
                f"{place}: there is no room for the answer",
                f"the prompt alone takes the {self.limits.total} tokens of max_length",
                "raise max_length",
            )
        if self.vocab_size is not None and max(ids) >= self.vocab_size:
            raise DataError(
                f"{place} has the token id {max(ids)}",
                f"the model's vocabulary has {self.vocab_size}",
                "give the tokenizer of this model",
            )
        return found

    @property
    def filler(self) -> int:
        """An id to fill rows up with."""
        known = (self.tokenizer.pad_id, self.tokenizer.eos_id)
        return next((t for t in known if t is not None and t < (self.vocab_size or t + 1)), 0)

    def _chat(self, messages: Sequence[Message]) -> tuple[list[int], tuple[tuple[int, int], ...], int, int]:
        limits, source_cut, answer_cut = self.limits, 0, 0
        ids, answers = self._written(messages)
        turns = [number for number, message in enumerate(messages) if message["role"] == "user"]
        head = messages[: turns[0]] if turns else messages[:0]
        before = len(ids)
        while len(ids) > limits.total and len(turns) > 1:
            turns = turns[1:]
            ids, answers = self._written([*head, *messages[turns[0] :]])
        source_cut += before - len(ids)
        start, stop = answers[-1]
        target = min(stop - start, limits.target or limits.total)
        room = max(1, limits.total - target)
        if len(turns) == 1:
            room = min(room, limits.source)
            if start > room:
                shorter = self._shortened([*head, *messages[turns[0] :]], start, room)
                ids, answers = self._written(shorter)
                source_cut += start - answers[-1][0]
                start, stop = answers[-1]
        last = min(start + target, limits.total)
        if last < stop:
            answer_cut = stop - last
            ids, answers = ids[:last], (*answers[:-1], (start, last))
        return ids, answers, source_cut, answer_cut

    def _written(self, messages: Sequence[Message]) -> tuple[list[int], tuple[tuple[int, int], ...]]:
        """The whole conversation, and where in it the answers are that can be learned; the last one always."""
        chat = self.tokenizer.chat  # type: ignore[attr-defined]
        ids: list[int] = chat(messages)
        spans: list[tuple[int, int]] = []
        places = [number for number, message in enumerate(messages) if message["role"] == "assistant"]
        for number in places:
            last = number == places[-1]
            prompt = chat(messages[:number])
            upto = ids if last else chat(messages[: number + 1])
            same = _common(prompt, ids)
            if not last and (same < len(prompt) or _common(upto, ids) < len(upto)):
                spans = []
                continue
            spans.append((same, self._without_gap(ids, same, len(upto), messages[number]["content"])))
        start, stop = spans[-1]
        if not self._is_special(ids[stop - 1]) and self.tokenizer.eos_id is not None:
            ids, stop = [*ids[:stop], self.tokenizer.eos_id], stop + 1
        spans[-1] = (start, stop)
        return ids[:stop], tuple(spans)

    def _without_gap(self, ids: list[int], start: int, stop: int, content: str) -> int:
        """Where an answer ends: before the line break that a template puts behind the token of its end."""
        end = stop
        while end > start + 1 and not self.tokenizer.decode([ids[end - 1]]).strip():
            end -= 1
        return end if end < stop and self._is_special(ids[end - 1]) else stop

    def _is_special(self, token: int) -> bool:
        if token == self.tokenizer.eos_id:
            return True
        seen = self.tokenizer.decode([token])
        return bool(seen) and not self.tokenizer.decode([token], skip_special_tokens=True)

    def _shortened(self, messages: Sequence[Message], length: int, room: int) -> list[Message]:
        """The one question without its beginning, so that the prompt of `length` tokens has at most `room`."""
        question = max(number for number, message in enumerate(messages) if message["role"] == "user")
        tokens = self.tokenizer.encode(messages[question]["content"], parse_special=False)
        shorter, kept = list(messages), len(tokens)
        for _ in range(_TRIES):
            kept = max(0, kept - (length - room))
            text = self.tokenizer.decode(tokens[len(tokens) - kept :]) if kept else ""
            shorter[question] = {**messages[question], "content": text.lstrip(_REPLACEMENT)}
            length = len(self.tokenizer.chat(shorter[: question + 1]))  # type: ignore[attr-defined]
            if length <= room or not kept:
                break
        return shorter


def _common(prompt: Sequence[int], ids: Sequence[int]) -> int:
    """How many ids the two begin with in common."""
    if list(ids[: len(prompt)]) == list(prompt):
        return len(prompt)
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(prompt, ids, strict=False)))
