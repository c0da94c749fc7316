"""What every model that continues text can do, be it run by an engine or exported: text in, text out. No paddle."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from zoo_core.config import ModelConfig
from zoo_core.errors import ConfigError, TokenizerError
from zoo_core.generate.choice import Sampling, no_numbers
from zoo_core.generate.pool import Passes, Pool
from zoo_core.generate.rules import Row, Rules
from zoo_core.generate.texts import AnswerText
from zoo_core.tokenizers import ChatTokenizer, Message, Tokenizer
from zoo_core.tokenizers.chat import no_chat

__all__ = ["TextBase"]

_PROBE = ({"role": "user", "content": "a"}, {"role": "assistant", "content": "b"})


@dataclass(frozen=True)
class TextBase(ABC):
    """A model with its tokenizer.

    Args:
        config: of the model.
        tokenizer: its tokenizer.
        folder: where the weights came from.
    """

    config: ModelConfig
    tokenizer: Tokenizer
    folder: Path

    @property
    @abstractmethod
    def context(self) -> int:
        """Tokens of the longest text."""

    @abstractmethod
    def passes(self) -> Passes:
        """What reads tokens."""

    def encode(self, prompt: str) -> list[int]:
        """Return the ids of a prompt, with what the family adds by itself; an empty one is bos, or eos where there is
        no bos.

        Raises:
            ConfigError: the prompt is longer than the model's context, or its ids are not in the model's vocabulary.
        """
        tokenizer, config = self.tokenizer, self.config
        ids = tokenizer.encode(prompt, add_special_tokens=True)
        first = tokenizer.bos_id if tokenizer.bos_id is not None else tokenizer.eos_id
        if not ids and first is not None:
            ids = [first]
        if not ids:
            raise ConfigError("the prompt is empty", "this tokenizer has no token to begin with", "give a prompt")
        if max(ids) >= config.vocab_size:
            raise ConfigError(
                "the tokenizer is not the model's",
                f"it gives the id {max(ids)}; the model has a vocabulary of {config.vocab_size}",
                "name the tokenizer that the model was trained with",
            )
        if len(ids) >= self.context:
            raise ConfigError(
                f"the prompt has {len(ids)} tokens",
                f"the model's context is {self.context}, the new tokens included",
                "give a shorter prompt",
            )
        return ids

    def ends(self) -> frozenset[int]:
        """The ids that end a text: the tokenizer's, and those the model's configuration names."""
        own = self.config.eos_token_id
        named = own if isinstance(own, tuple) else (own,)
        return frozenset(token for token in (self.tokenizer.eos_id, *named) if token is not None)

    def chat_ids(self, messages: Sequence[Message]) -> list[int]:
        """Return the ids of a conversation as the family writes it; after a user's message they ask for the answer.

        Raises:
            TokenizerError: the family has no form for conversations, or not for this one.
        """
        return _chat(self.tokenizer, messages)

    @cached_property
    def _chat_end(self) -> int | None:
        try:
            asked, answered = (_chat(self.tokenizer, _PROBE[:count]) for count in (1, 2))
        except TokenizerError:
            return None
        answer = answered[len(asked) :] if answered[: len(asked)] == asked else []
        # A form may write white space behind its end token, or no end at all.
        special = [token for token in answer if not self.tokenizer.decode([token], skip_special_tokens=True)]
        return special[-1] if special else None

    def chat_ends(self) -> frozenset[int]:
        """The ids that end an answer in a conversation: the token that the family's form has behind one, and `ends`."""
        return self.ends() if self._chat_end is None else self.ends() | {self._chat_end}

    def rules(self, sampling: Sampling, *, chat: bool = False, **more: Any) -> Rules:
        """Return what holds for a row of this model.

        Args:
            chat: the row is a conversation.
            more: as `Rules` takes it.
        """
        ends = self.chat_ends() if chat else self.ends()
        vocab_size = min(self.config.vocab_size, self.tokenizer.vocab_size)
        return Rules(sampling, **{"ends": ends, "vocab_size": vocab_size, **more})

    def pool(self, slots: int, room: int | None = None, chunk: int = 512) -> Pool:
        """Return a pool of rows over this model.

        Args:
            slots: most rows at a time.
            room: most tokens of a row; by default the model's context.
            chunk: as `Pool` takes it.
        """
        return Pool(self.passes(), slots, self.context if room is None else room, chunk)

    def sample(
        self,
        prompt: str,
        max_new_tokens: int = 64,
        sampling: Sampling | None = None,
        seed: int = 0,
        stop: Sequence[str] = (),
    ) -> Iterator[str]:
        """Yield the text that continues `prompt`, piece by piece; it ends at eos, or where the context is full.

        Args:
            sampling: how tokens are chosen; by default greedily.
            stop: texts that end it, too; they are no part of it.

        Raises:
            ConfigError: the prompt does not fit, or the model's logits are not numbers.
        """
        ids = self.encode(prompt)
        yield from self.answer(ids, self.rules(sampling or Sampling(temperature=0.0)), max_new_tokens, seed, stop)

    def answer(
        self, ids: Sequence[int], rules: Rules, max_new_tokens: int, seed: int = 0, stop: Sequence[str] = ()
    ) -> Iterator[str]:
        """Yield the text that follows `ids`, piece by piece, see `sample`."""
        new = min(max_new_tokens, self.context - len(ids))
        pool, text = self.pool(1, len(ids) + new), AnswerText(self.tokenizer, ids, stop)
        ticket, going = pool.add(Row(ids, new, seed), rules), True
        while going:
            step = pool.step().get(ticket)
            if step is None:
                continue
            if step.finish == "error":
                raise no_numbers()
            if step.token is not None:
                yield text.add(step.token)
            going = not step.finish and not text.stopped
        yield text.end()


def _chat(tokenizer: Tokenizer, messages: Sequence[Message]) -> list[int]:
    if not isinstance(tokenizer, ChatTokenizer):
        raise no_chat(tokenizer)
    return tokenizer.chat(messages)
