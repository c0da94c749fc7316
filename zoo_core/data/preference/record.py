"""One line of a file of preferences as a prompt with two answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from zoo_core.data.sft import BadLine
from zoo_core.data.sft.conversation import json_object, shown, texts_of
from zoo_core.errors import TokenizerError
from zoo_core.tokenizers import Message, check_messages

__all__ = ["Pair", "parse_pair"]

_EXPECTED = (
    'write {"src": "question", "tgt": [], "response": ["one answer", "another"], "sort": [1, 0]}, the higher number '
    'for the better; or {"prompt": "question", "chosen": "answer", "rejected": "answer"}'
)


@dataclass(frozen=True)
class Pair:
    """A conversation that ends with a question, and two answers to it.

    Args:
        prompt: its messages.
        chosen, rejected: the better and the worse answer.
    """

    prompt: tuple[Message, ...]
    chosen: str
    rejected: str


def parse_pair(line: bytes, place: str) -> Pair:
    """Return the pair of a line.

    A line is PaddleNLP's `{"src", "tgt", "response", "sort"}`: questions, the earlier answers (one less), two answers
    to the last question, and two numbers of which the higher marks the better; perhaps with a `system`. Or TRL's
    `{"prompt", "chosen", "rejected"}`: texts or lists of messages, where lists may do without the prompt and begin with
    it both.

    Args:
        line: its bytes.
        place: `FILE:NUMBER`, for messages.

    Raises:
        BadLine: it is neither of these; says what is wrong with it.
    """
    record = json_object(line, place)
    if "chosen" in record or "rejected" in record:
        prompt, chosen, rejected = _of_trl(record, place)
    else:
        prompt, chosen, rejected = _of_paddlenlp(record, place)
    try:
        check_messages(prompt)
    except TokenizerError as error:
        raise BadLine(f"{place}: {error.what}", error.why, error.todo) from None
    if prompt[-1]["role"] != "user":
        raise BadLine(f"{place}: the prompt does not end with a question", "its last message is not the user's",
                      _EXPECTED)  # fmt: skip
    for name, answer in (("chosen", chosen), ("rejected", rejected)):
        if not answer.strip():
            raise BadLine(f"{place}: the {name} answer is empty", "there is nothing to compare", "take the line out")
    return Pair(tuple(prompt), chosen, rejected)


def _needed(record: Mapping[str, Any], names: Sequence[str], place: str) -> None:
    for name in names:
        if name not in record:
            keys = ", ".join(sorted(record)) or "nothing"
            raise BadLine(f"{place} has no {name}", f"it has {keys}", _EXPECTED)


def _of_paddlenlp(record: Mapping[str, Any], place: str) -> tuple[list[Message], str, str]:
    _needed(record, ("src", "response", "sort"), place)
    questions = texts_of(record["src"], "src", place)
    earlier = record.get("tgt") or []
    answers = texts_of(earlier, "tgt", place) if earlier else []
    if len(questions) != len(answers) + 1:
        why = f"{len(questions)} questions and {len(answers)} answers before the response"
        raise BadLine(f"{place}: src has not one text more than tgt", why, "give tgt an answer to each but the last")
    responses, sort = record["response"], record["sort"]
    if not isinstance(responses, list) or len(responses) != 2 or not all(isinstance(r, str) for r in responses):
        raise BadLine(f"{place}: response is no list of two texts", f"it is {shown(responses)}", _EXPECTED)
    ranks = [rank for rank in sort if isinstance(rank, int | float)] if isinstance(sort, list) else []
    if len(ranks) != 2 or len(sort) != 2:
        raise BadLine(f"{place}: sort is no list of two numbers", f"it is {shown(sort)}", _EXPECTED)
    if ranks[0] == ranks[1]:
        raise BadLine(f"{place}: both answers have the rank {ranks[0]}", "none is preferred", "take the line out")
    better = int(ranks[1] > ranks[0])
    messages = _system(record, place)
    for question, answer in zip(questions, [*answers, None], strict=True):
        messages.append({"role": "user", "content": question})
        if answer is not None:
            messages.append({"role": "assistant", "content": answer})
    return messages, responses[better], responses[1 - better]


def _system(record: Mapping[str, Any], place: str) -> list[Message]:
    system = record.get("system")
    if system is not None and not isinstance(system, str):
        raise BadLine(f"{place}: system is no text", f"it is {shown(system)}", "write a text, or leave it out")
    return [{"role": "system", "content": system}] if system else []


def _of_trl(record: Mapping[str, Any], place: str) -> tuple[list[Message], str, str]:
    _needed(record, ("chosen", "rejected"), place)
    prompt, chosen, rejected = record.get("prompt"), record["chosen"], record["rejected"]
    if isinstance(chosen, str) and isinstance(rejected, str):
        _needed(record, ("prompt",), place)
        return [*_system(record, place), *_prompt(prompt, place)], chosen, rejected
    begun = _prompt(prompt, place) if prompt is not None else []
    better, worse = (_messages(value, name, place) for value, name in ((chosen, "chosen"), (rejected, "rejected")))
    if better[:-1] != worse[:-1]:
        raise BadLine(f"{place}: chosen and rejected differ before the last message",
                      "they are to be answers to one question", _EXPECTED)  # fmt: skip
    for name, messages in (("chosen", better), ("rejected", worse)):
        if messages[-1].get("role") != "assistant" or not isinstance(messages[-1].get("content"), str):
            raise BadLine(f"{place}: {name} does not end with an answer",
                          f"its last message is {shown(messages[-1])}", _EXPECTED)  # fmt: skip
    return [*_system(record, place), *begun, *better[:-1]], better[-1]["content"], worse[-1]["content"]


def _prompt(prompt: Any, place: str) -> list[Message]:
    return [{"role": "user", "content": prompt}] if isinstance(prompt, str) else _messages(prompt, "prompt", place)


def _messages(value: Any, name: str, place: str) -> list[Message]:
    if not isinstance(value, list) or not value or not all(isinstance(message, dict) for message in value):
        raise BadLine(f"{place}: {name} is neither a text nor a list of messages", f"it is {shown(value)}", _EXPECTED)
    return [{key: text for key, text in message.items() if text is not None} for message in value]
