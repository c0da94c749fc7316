"""One line of a fine-tuning file as a conversation."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from zoo_core.data.sft.lines import BadLine
from zoo_core.errors import TokenizerError
from zoo_core.tokenizers import Message, check_messages

__all__ = ["json_object", "parse_line", "shown", "texts_of"]

_EXPECTED = (
    'write {"src": "question", "tgt": "answer"}, lists of both for several turns, or {"messages": [{"role": "user", '
    '"content": "question"}, {"role": "assistant", "content": "answer"}]}'
)


def parse_line(line: bytes, place: str) -> list[Message]:
    """Return the messages of a line, of which the last is the assistant's.

    A line is `{"src": ..., "tgt": ...}`, texts or lists of as many texts, perhaps with a `system`; or
    `{"messages": [...]}`.

    Args:
        line: its bytes.
        place: `FILE:NUMBER`, for messages.

    Raises:
        BadLine: it is neither of these; says what is wrong with it.
    """
    record = json_object(line, place)
    messages = _from_messages(record, place) if "messages" in record else _from_turns(record, place)
    try:
        check_messages(messages)
    except TokenizerError as error:
        raise BadLine(f"{place}: {error.what}", error.why, error.todo) from None
    if messages[-1]["role"] != "assistant":
        raise BadLine(f"{place}: the conversation ends without an answer", "answers are learned", _EXPECTED)
    for message in messages:
        if message["role"] == "assistant" and not message["content"].strip():
            raise BadLine(f"{place}: an answer is empty", "there is nothing to learn from it", "take the line out")
    return messages


def json_object(line: bytes, place: str) -> dict[str, Any]:
    """Return the JSON object that a line is.

    Raises:
        BadLine: it is none.
    """
    try:
        record = json.loads(line.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise BadLine(
            f"{place} is not UTF-8", f"byte {error.start + 1} of the line: {error.reason}", "convert it, with iconv say"
        ) from None
    except (ValueError, RecursionError) as error:
        what, why = f"{place} is not JSON", str(error)
        if line.lstrip()[:1] == b"[":
            why = "the file seems to be one JSON array over many lines"
        raise BadLine(what, why, "write one JSON object a line; `jq -c '.[]'` makes that of an array") from None
    if not isinstance(record, dict):
        what = "an array" if isinstance(record, list) else f"a {type(record).__name__}"
        todo = "write one JSON object a line" if isinstance(record, list) else _EXPECTED
        raise BadLine(f"{place} is {what}", "a line is one JSON object", todo)
    return record


def _from_messages(record: Mapping[str, Any], place: str) -> list[Message]:
    messages = record["messages"]
    if not isinstance(messages, list) or not all(isinstance(message, dict) for message in messages):
        raise BadLine(f"{place}: messages is no list of objects", f"it is {shown(messages)}", _EXPECTED)
    return [{key: value for key, value in message.items() if value is not None} for message in messages]


def _from_turns(record: Mapping[str, Any], place: str) -> list[Message]:
    for name in ("src", "tgt"):
        if name not in record:
            keys = ", ".join(sorted(record)) or "nothing"
            raise BadLine(f"{place} has no {name}", f"it has {keys}", _EXPECTED)
    questions, answers = (texts_of(record[name], name, place) for name in ("src", "tgt"))
    if len(questions) != len(answers):
        why = f"{len(questions)} questions and {len(answers)} answers"
        raise BadLine(f"{place}: src and tgt differ in length", why, "give each question an answer")
    context = record.get("context")
    system = record.get("system", context.get("system") if isinstance(context, dict) else None)
    if system is not None and not isinstance(system, str):
        raise BadLine(f"{place}: system is no text", f"it is {shown(system)}", "write a text, or leave it out")
    messages: list[Message] = [{"role": "system", "content": system}] if system else []
    for question, answer in zip(questions, answers, strict=True):
        messages += [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return messages


def texts_of(value: Any, name: str, place: str) -> list[str]:
    """Return a text, or a list of texts, as a list.

    Raises:
        BadLine: it is neither, or empty.
    """
    texts = [value] if isinstance(value, str) else value
    if isinstance(texts, list) and texts and all(isinstance(text, str) for text in texts):
        return texts
    if texts == []:
        raise BadLine(f"{place}: {name} is an empty list", "there is no turn", _EXPECTED)
    raise BadLine(f"{place}: {name} is neither a text nor a list of texts", f"it is {shown(value)}", _EXPECTED)


def shown(value: Any) -> str:
    """Return the beginning of a value as JSON, for messages."""
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else text[:57] + "..."
