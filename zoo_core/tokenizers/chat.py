"""Conversations as token ids, for families whose format is written in code rather than in a template.

A format is a sequence of parts. An id stands for itself; a text is encoded alone and as plain text, so that nothing a
user types becomes a special token.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from zoo_core.errors import TokenizerError
from zoo_core.tokenizers.base import Message, Tokenizer

__all__ = ["ChatFormat", "ChatWriter", "Part", "check_messages", "encode_parts", "no_chat", "required_id", "rounds"]

Part = int | str
ChatWriter = Callable[[Tokenizer, Sequence[Message]], list[int]]
"""(tokenizer, messages) -> ids; what a tokenizer's `chat_format` is."""

_ROLES = ("system", "user", "assistant")
_EXPECTED = 'a message is {"role": "system" | "user" | "assistant", "content": "text"}'


def check_messages(messages: Sequence[Message]) -> None:
    """Refuse anything but [system] user assistant user assistant ...

    Raises:
        TokenizerError: no message, one without role or content, an unknown role, a role out of turn.
    """
    if not messages:
        raise TokenizerError("the conversation is empty", "there is nothing to answer", "begin with a user's message")
    before = ""
    for number, message in enumerate(messages, start=1):
        role, content = message.get("role"), message.get("content")
        if not isinstance(role, str) or not isinstance(content, str):
            found = f"it has {', '.join(sorted(message)) or 'nothing'}"
            raise TokenizerError(f"message {number} has no role or no text as content", found, _EXPECTED)
        if role not in _ROLES:
            raise TokenizerError(f"message {number} has the unknown role {role!r}", f"known: {_ROLES}", _EXPECTED)
        in_turn = {"": ("system", "user"), "user": ("assistant",)}.get(before, ("user",))
        if role not in in_turn:
            after = f"after one of {before}" if before else "at the beginning"
            raise TokenizerError(
                f"message {number} of {role} is out of turn",
                f"{after} comes one of {' or '.join(in_turn)}",
                "let user and assistant take turns, after at most one message of system",
            )
        before = role


def rounds(messages: Sequence[Message]) -> tuple[str | None, list[tuple[str, str | None]]]:
    """Return the system's text, and each question with its answer; the last answer is None when it is asked for.

    Raises:
        TokenizerError: as `check_messages`, or there is no user's message.
    """
    check_messages(messages)
    system = messages[0]["content"] if messages[0]["role"] == "system" else None
    turns = [message["content"] for message in messages[0 if system is None else 1 :]]
    if not turns:
        raise TokenizerError("the conversation has no user's message", "there is nothing to answer", "add one")
    answers: list[str | None] = [*turns[1::2], *([None] if len(turns) % 2 else [])]
    return system, list(zip(turns[::2], answers, strict=True))


def encode_parts(tokenizer: Tokenizer, parts: Iterable[Part]) -> list[int]:
    """Return the ids of the parts one after another: ids as they are, each text encoded alone as plain text."""
    ids: list[int] = []
    for part in parts:
        ids.extend([part] if isinstance(part, int) else tokenizer.encode(part, parse_special=False))
    return ids


def required_id(tokenizer: Tokenizer, token: str) -> int:
    """Return the id of a special token that the chat format needs.

    Raises:
        TokenizerError: the tokenizer has none of this name.
    """
    found = tokenizer.token_id(token)
    if found is None:
        raise TokenizerError(
            f"{tokenizer.files[0]} has no token {token!r}",
            "the chat format of this family is written with it",
            "give the tokenizer of the chat weights",
        )
    return found


def no_chat(tokenizer: Tokenizer) -> TokenizerError:
    """Return the error of a tokenizer that knows no chat format."""
    return TokenizerError(
        f"{tokenizer.files[0]} says nothing of conversations",
        "there is no chat template beside it, and its family defines no format for these weights",
        "take the tokenizer of chat weights, or put their tokenizer_config.json or chat_template.jinja beside it",
    )


@dataclass(frozen=True)
class ChatFormat:
    """A format that frames each message by its role, and is otherwise the same at every turn.

    Parts that name a special token are looked up in the tokenizer when a conversation is written, so a format is data.

    Args:
        before: for each role, what comes before the content; the assistant's asks for the answer. A role that is
            missing is refused.
        after: for each role, what comes after the content; nothing for a role that is missing.
        special: the texts in `before`, `after` and `start` that are special tokens and become their ids.
        start: what comes first.
        system: the system's message when the conversation has none; None for none.
        between: what comes between two messages, and between the last user's and the assistant's `before`.
        strip: whether white space around a content is dropped.
    """

    before: Mapping[str, tuple[Part, ...]]
    after: Mapping[str, tuple[Part, ...]]
    special: frozenset[str] = frozenset()
    start: tuple[Part, ...] = ()
    system: str | None = None
    between: tuple[Part, ...] = field(default=())
    strip: bool = False

    def __call__(self, tokenizer: Tokenizer, messages: Sequence[Message]) -> list[int]:
        """Return the ids of the conversation.

        Raises:
            TokenizerError: `messages` is no conversation, has a role that the format lacks, or the tokenizer lacks one
                of the format's special tokens.
        """
        check_messages(messages)
        if self.system is not None and messages[0]["role"] != "system":
            messages = [{"role": "system", "content": self.system}, *messages]

        def ids(parts: tuple[Part, ...]) -> list[int]:
            return encode_parts(tokenizer, [self._looked_up(tokenizer, part) for part in parts])

        written = ids(self.start)
        for number, message in enumerate(messages):
            role, content = message["role"], message["content"]
            if role not in self.before:
                raise TokenizerError(
                    f"this format has no {role} messages", f"it has {', '.join(self.before)}", "leave it out"
                )
            written += ids(self.between) if number else []
            written += ids(self.before[role])
            written += encode_parts(tokenizer, [content.strip() if self.strip else content])
            written += ids(self.after.get(role, ()))
        if messages[-1]["role"] == "user":
            written += ids(self.between) + ids(self.before["assistant"])
        return written

    def _looked_up(self, tokenizer: Tokenizer, part: Part) -> Part:
        return required_id(tokenizer, part) if isinstance(part, str) and part in self.special else part
