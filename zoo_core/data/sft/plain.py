"""Question, answer, end: how a base model is tuned, as PaddleNLP does it where there is no chat template."""

from __future__ import annotations

from collections.abc import Sequence

from zoo_core.tokenizers import Message, PromptTokenizer, Tokenizer, rounds

__all__ = ["PlainForm"]

Span = tuple[int, int]


class PlainForm:
    """Writes each question as the tokenizer writes a text of its own, and the answer and the end token right behind.

    Special tokens that a question or an answer spells become their ids, as in PaddleNLP: here a user writes down the
    whole of what the model reads. Later questions follow the end of the answer before. In a family with a prompt form
    of its own (`PromptTokenizer`), or whose special tokens follow the text (ChatGLM), earlier turns are a part of the
    prompt, and the last answer alone is learned.

    Args:
        tokenizer: of the model.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        self._before, self._behind = self._frame()
        own = tokenizer.answer_end_id if isinstance(tokenizer, PromptTokenizer) else None
        self._end = tokenizer.eos_id if own is None else own

    def _frame(self) -> tuple[list[int], list[int]]:
        """What the family puts before and behind a source; an end of text behind it is not meant for prompts."""
        probe = "a"
        body, whole = self.tokenizer.encode(probe), self._prompt(probe)
        at = next((i for i in range(len(whole) - len(body) + 1) if whole[i : i + len(body)] == body), 0)
        before, behind = whole[:at], whole[at + len(body) :]
        is_prompt = isinstance(self.tokenizer, PromptTokenizer)
        return before, [] if not is_prompt and behind == [self.tokenizer.eos_id] else behind

    def _prompt(self, text: str) -> list[int]:
        if isinstance(self.tokenizer, PromptTokenizer):
            return self.tokenizer.prompt(text)
        return self.tokenizer.encode(text, add_special_tokens=True)

    def encode(
        self, messages: Sequence[Message], limits: tuple[int, int | None, int]
    ) -> tuple[list[int], tuple[Span, ...], int, int]:
        """Return ids, where the answers are in them, and how many tokens of source and last answer were cut.

        Args:
            messages: a conversation that ends with an answer.
            limits: of the source with its special tokens, of the last answer, of all.
        """
        source_limit, target_limit, total = limits
        system, pairs = rounds(messages)
        turns = [(question, answer or "") for question, answer in pairs]
        if system:
            turns[0] = (f"{system}\n{turns[0][0]}", turns[0][1])
        if self._behind and len(turns) > 1:
            history = "\n".join(f"{question}\n{answer}" for question, answer in turns[:-1])
            turns = [(f"{history}\n{turns[-1][0]}", turns[-1][1])]
        end = [] if self._end is None else [self._end]
        parts = [(self.tokenizer.encode(question), self.tokenizer.encode(answer) + end) for question, answer in turns]
        frame, cut = len(self._before) + len(self._behind), 0
        while len(parts) > 1 and frame + sum(len(q) + len(a) for q, a in parts) > total:
            cut += sum(map(len, parts.pop(0)))
        question, answer = parts[-1]
        target = min(len(answer), target_limit or total)
        if len(parts) == 1:
            room = max(min(source_limit, total - target) - frame, 0)
            dropped = max(len(question) - room, 0)
            parts[-1], cut = (question[dropped:], answer), cut + dropped
        ids, spans = list(self._before), []
        for number, (question, answer) in enumerate(parts, start=1):
            ids += question + self._behind
            kept = answer[: min(target, max(total - len(ids), 0))] if number == len(parts) else answer
            if kept:
                spans.append((len(ids), len(ids) + len(kept)))
            ids += kept
        return ids[:total], tuple(spans), cut, len(parts[-1][1]) - (spans[-1][1] - spans[-1][0] if spans else 0)
