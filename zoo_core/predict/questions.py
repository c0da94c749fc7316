"""One line of a file of questions. No paddle."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from zoo_core.data.sft import BadLine
from zoo_core.data.sft.conversation import json_object, shown, texts_of
from zoo_core.errors import TokenizerError
from zoo_core.tokenizers import Message, check_messages

__all__ = ["Question", "parse_question"]

_EXPECTED = (
    'write {"src": "question"}, with "tgt" where the answer is known, {"messages": [{"role": "user", "content": '
    '"question"}]}, or {"prompt": "text to continue"}'
)


@dataclass(frozen=True)
class Question:
    """What is asked.

    Args:
        messages: a conversation whose last message is the user's; none for a text that is continued as it is.
        text: that text.
        target: the answer that the file has for it; empty where there is none.
    """

    messages: tuple[Message, ...]
    text: str = ""
    target: str = ""

    @property
    def source(self) -> str | list[str]:
        """The question, the questions of all turns, or the text."""
        asked = [message["content"] for message in self.messages if message["role"] == "user"]
        return (asked[0] if len(asked) == 1 else asked) if self.messages else self.text


def parse_question(line: bytes, place: str) -> Question:
    """Return what a line asks.

    A line is `{"src": ...}`, a text, or a list of the user's texts with the answers to all but the last in `tgt`, and
    perhaps a `system`; `{"messages": [...]}`; or `{"prompt": text}`. The answer to the last question may stand in `tgt`
    or as the last message: answers are then measured by it, and the model does not see it.

    Args:
        line: its bytes.
        place: `FILE:NUMBER`, for messages.

    Raises:
        BadLine: it is none of these; says what is wrong with it.
    """
    record = json_object(line, place)
    if "messages" in record:
        return _from_messages(record["messages"], place)
    if "src" in record:
        return _from_turns(record, place)
    if "prompt" not in record:
        keys = ", ".join(sorted(record)) or "nothing"
        raise BadLine(f"{place} asks nothing", f"it has {keys}", _EXPECTED)
    text = record["prompt"]
    if not isinstance(text, str):
        raise BadLine(f"{place}: prompt is no text", f"it is {shown(text)}", _EXPECTED)
    targets = _texts(record, "tgt", place)
    if len(targets) > 1:
        raise BadLine(f"{place}: tgt has {len(targets)} texts", "a prompt has one answer", _EXPECTED)
    return Question((), text, "".join(targets))


def _from_messages(messages: Any, place: str) -> Question:
    if not isinstance(messages, list) or not all(isinstance(message, dict) for message in messages):
        raise BadLine(f"{place}: messages is no list of objects", f"it is {shown(messages)}", _EXPECTED)
    known: list[Message] = [{key: v for key, v in message.items() if v is not None} for message in messages]
    _check(known, place)
    target = known.pop()["content"] if known[-1]["role"] == "assistant" else ""
    return _asked(known, target, place)


def _from_turns(record: Mapping[str, Any], place: str) -> Question:
    questions, answers = texts_of(record["src"], "src", place), _texts(record, "tgt", place)
    if len(answers) not in (len(questions) - 1, len(questions)):
        raise BadLine(
            f"{place}: src and tgt do not belong together",
            f"{len(questions)} questions and {len(answers)} answers",
            "give each question but the last an answer",
        )
    context = record.get("context")
    system = record.get("system", context.get("system") if isinstance(context, dict) else None)
    if system is not None and not isinstance(system, str):
        raise BadLine(f"{place}: system is no text", f"it is {shown(system)}", "write a text, or leave it out")
    messages: list[Message] = [{"role": "system", "content": system}] if system else []
    for question, answer in zip(questions, answers, strict=False):
        messages += [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    target = ""
    if len(answers) == len(questions):
        target = messages.pop()["content"]
    else:
        messages.append({"role": "user", "content": questions[-1]})
    return _asked(messages, target, place)


def _texts(record: Mapping[str, Any], name: str, place: str) -> list[str]:
    """The texts of a key that may be missing, or stand empty, as files without answers have it."""
    value = record.get(name)
    return [] if value in (None, "", []) else texts_of(value, name, place)


def _check(messages: list[Message], place: str) -> None:
    try:
        check_messages(messages)
    except TokenizerError as error:
        raise BadLine(f"{place}: {error.what}", error.why, error.todo) from None


def _asked(messages: list[Message], target: str, place: str) -> Question:
    if not messages or messages[-1]["role"] != "user":
        raise BadLine(f"{place}: nothing is asked", "there is no message of a user to answer", _EXPECTED)
    _check(messages, place)
    return Question(tuple(messages), target=target)
