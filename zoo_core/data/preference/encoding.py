"""Pairs of answers as ids, behind one prompt, within the limits of length."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from zoo_core.data.preference.record import Pair
from zoo_core.data.sft import Encoded, Encoder, Limits
from zoo_core.tokenizers import Message, Tokenizer

__all__ = ["EncodedPair", "PairEncoder"]

_ANY = 1 << 40


@dataclass(frozen=True)
class EncodedPair:
    """A pair; of both samples only the last answer counts.

    Args:
        chosen, rejected: the prompt with each answer.
    """

    chosen: Encoded
    rejected: Encoded

    @property
    def longest(self) -> int:
        """Tokens of the longer sample."""
        return max(len(self.chosen.ids), len(self.rejected.ids))


class PairEncoder:
    """Writes pairs down as fine-tuning writes conversations.

    A pair that fits stays as it is. Of one that is too long, as in PaddleNLP, the prompt is cut first, down to
    `longest_prompt`, and then the answers; both samples keep the same prompt. It loses its earlier turns first, then
    the beginning of its question.

    Args:
        tokenizer: of the model.
        longest: tokens that prompt and answer may have together.
        longest_prompt: tokens of a prompt that had to be cut; half of `longest` where it leaves no answer any room.
        form: "chat" or "plain"; `None` chats where the tokenizer can.
        vocab_size: of the model; `None` does not look.

    Raises:
        TokenizerError: "chat" is asked for, and the tokenizer cannot.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        longest: int,
        longest_prompt: int,
        form: str | None = None,
        vocab_size: int | None = None,
    ) -> None:
        self.longest = longest
        self.longest_prompt = longest_prompt if longest_prompt < longest else max(longest // 2, 1)
        self.whole = Encoder(tokenizer, Limits(_ANY, None, _ANY), form, vocab_size)
        limits = Limits(self.longest_prompt, longest - self.longest_prompt, longest)
        self._cut = Encoder(tokenizer, limits, self.whole.form, vocab_size)

    def encode(self, pair: Pair, place: str) -> EncodedPair:
        """Return a pair as samples of at most `longest` tokens.

        Args:
            place: `FILE:NUMBER`, for messages.

        Raises:
            BadLine: the form does not know such a conversation, or leaves no room for an answer.
            DataError: the model's vocabulary lacks an id.
        """
        prompt = list(pair.prompt)
        made = _both(self.whole, prompt, pair, place)
        before = made.chosen.answers[-1][0]
        while made.longest > self.longest and (shorter := _without_a_turn(prompt)) is not None:
            prompt = shorter
            made = _both(self.whole, prompt, pair, place)
        if made.longest > self.longest:
            made = _both(self._cut, prompt, pair, place)
        cut = before - made.chosen.answers[-1][0]
        return EncodedPair(replace(made.chosen, source_cut=cut), replace(made.rejected, source_cut=cut))


def _both(encoder: Encoder, prompt: Sequence[Message], pair: Pair, place: str) -> EncodedPair:
    def written(answer: str) -> Encoded:
        made = encoder.encode([*prompt, {"role": "assistant", "content": answer}], place)
        return replace(made, answers=made.answers[-1:])

    return EncodedPair(written(pair.chosen), written(pair.rejected))


def _without_a_turn(prompt: Sequence[Message]) -> list[Message] | None:
    """The prompt without its first question and answer; `None` where there is one question only."""
    questions = [number for number, message in enumerate(prompt) if message["role"] == "user"]
    return [*prompt[: questions[0]], *prompt[questions[1] :]] if len(questions) > 1 else None
