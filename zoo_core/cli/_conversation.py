"""What a chat remembers, what of it the model reads, and the files it is kept in. No paddle."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from zoo_core._atomic import written_beside
from zoo_core.data.sft import BadLine
from zoo_core.data.sft.conversation import json_object
from zoo_core.errors import ConfigError, TokenizerError
from zoo_core.generate.choice import Sampling
from zoo_core.tokenizers import Message, check_messages

__all__ = ["Conversation", "Fitted", "Settings"]


@dataclass(frozen=True)
class Settings:
    """How answers are made; each can be changed while one chats."""

    temperature: float = 0.8
    top_k: int = 0
    top_p: float = 0.95
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    max_new_tokens: int = 512
    seed: int = 0

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1 or self.seed < 0:
            name = "seed" if self.seed < 0 else "max_new_tokens"
            raise ConfigError(
                f"{name} is {getattr(self, name)}", f"it has to be {'0' if name == 'seed' else '1'} or above"
            )
        _ = self.sampling

    @property
    def sampling(self) -> Sampling:
        """How tokens are chosen.

        Raises:
            ConfigError: a value is out of its range.
        """
        return Sampling(self.temperature, self.top_k, self.top_p, self.min_p, self.repetition_penalty)

    def changed(self, name: str, text: str) -> Settings:
        """Return the settings with one of them as a user has typed it.

        Raises:
            ConfigError: there is no such setting, or the text is no value for it.
        """
        name = name.replace("-", "_")
        if name not in vars(self):
            raise ConfigError(f"there is no setting {name}", "", f"there are {', '.join(vars(self))}")
        kind = type(vars(self)[name])
        try:
            value = kind(text)
        except ValueError:
            raise ConfigError(
                f"{name} is {text!r}", f"it is {'a whole number' if kind is int else 'a number'}"
            ) from None
        return Settings(**{**vars(self), name: value})

    def __str__(self) -> str:
        return "\n".join(f"  {name:<20}{value:g}" for name, value in vars(self).items())


@dataclass(frozen=True)
class Fitted:
    """What the model reads.

    Args:
        ids: of the conversation, or of its later part.
        left_out: the first so many rounds are not in it.
    """

    ids: Sequence[int]
    left_out: int


@dataclass
class Conversation:
    """Questions and answers by turns.

    Args:
        system: what the model is told beforehand; empty for nothing.
        messages: of user and assistant.
    """

    system: str = ""
    messages: list[Message] = field(default_factory=list)

    @property
    def whole(self) -> list[Message]:
        """All messages, the system's first."""
        return [*self.head, *self.messages]

    @property
    def head(self) -> list[Message]:
        """The system's message, if there is one."""
        return [{"role": "system", "content": self.system}] if self.system else []

    def ask(self, question: str) -> None:
        """Add what the user says."""
        self.messages.append({"role": "user", "content": question})

    def answer(self, text: str) -> None:
        """Add what the model says; nothing takes the question back."""
        if text:
            self.messages.append({"role": "assistant", "content": text})
        else:
            self.undo()

    def undo(self) -> str:
        """Take the last question and its answer back; returns the question, empty where there is none."""
        while self.messages:
            message = self.messages.pop()
            if message["role"] == "user":
                return message["content"]
        return ""

    def fitted(self, written: Callable[[Sequence[Message]], list[int]], context: int, answer: int) -> Fitted:
        """Return what fits the context with room for an answer: the oldest rounds are left out first.

        Args:
            written: a conversation as ids.
            context: tokens of the longest text.
            answer: most tokens of an answer; it gets a quarter of the context at most.

        Raises:
            ConfigError: the last question alone is too long.
            TokenizerError: the family's form does not know such a conversation.
        """
        room = context - min(answer, max(context // 4, 1))
        asked = [number for number, message in enumerate(self.messages) if message["role"] == "user"]
        ids: list[int] = []
        for left_out, first in enumerate(asked):
            ids = written([*self.head, *self.messages[first:]])
            if len(ids) <= room:
                return Fitted(ids, left_out)
        raise ConfigError(
            f"this message makes a prompt of {len(ids)} tokens",
            f"the model's context is {context}, and {context - room} of it are kept for the answer",
            "say it in fewer words",
        )

    def save(self, file: Path) -> None:
        """Write the conversation as a line that fine-tuning and prediction read, too.

        Raises:
            ConfigError: the file cannot be written.
        """
        try:
            with written_beside(file) as stream:
                stream.write(
                    json.dumps({"messages": self.whole}, ensure_ascii=False).encode("utf-8", "replace") + b"\n"
                )
        except OSError as error:
            raise ConfigError(f"cannot write {file}", error.strerror or str(error), "name another file") from None

    @classmethod
    def load(cls, file: Path) -> Conversation:
        """Read what `save` wrote.

        Raises:
            ConfigError: there is no such file, or no conversation in it.
        """
        try:
            record: dict[str, Any] = json_object(file.read_bytes(), str(file))
            messages: list[Message] = record["messages"]
            check_messages(messages)
        except OSError as error:
            raise ConfigError(f"cannot read {file}", error.strerror or str(error), "name another file") from None
        except (BadLine, TokenizerError) as error:
            raise ConfigError(f"no conversation in {file}", f"{error.what}: {error.why}") from None
        except (KeyError, TypeError, AttributeError):
            raise ConfigError(f"no conversation in {file}", 'it has no "messages"', "/save writes such files") from None
        system = messages[0]["content"] if messages[0]["role"] == "system" else ""
        turns = list(messages[1:] if system or messages[0]["role"] == "system" else messages)
        if turns and turns[-1]["role"] == "user":
            turns.pop()  # a question that was not answered
        return cls(system, turns)
