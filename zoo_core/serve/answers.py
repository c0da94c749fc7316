"""From a job's events to the choices of an answer, whole or in chunks, as OpenAI's API has them."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Sequence
from typing import Any, Literal

from zoo_core.serve.jobs import Event, Job
from zoo_core.serve.spelling import Spelled, Speller, chat_logprobs, completion_logprobs
from zoo_core.tokenizers import Tokenizer

__all__ = ["Answer", "Choice", "DONE", "Kind", "sse"]

Kind = Literal["chat", "completion"]
DONE = b"data: [DONE]\n\n"


def sse(payload: Any) -> bytes:
    """Return one server-sent event. JSON has no line breaks of its own, so one `data:` line holds it."""
    return b"data: " + json.dumps(payload, ensure_ascii=False, allow_nan=False).encode("utf-8", "replace") + b"\n\n"


class Choice:
    """One choice of an answer, as its events come.

    Args:
        index: of the choice.
        job: whose events they are.
        kind: of the answer.
        tokenizer: of the model.
        echo: the prompt's text, if it is to come before the answer's.
        logprobs: whether tokens are spelled with theirs.
    """

    def __init__(
        self, index: int, job: Job, kind: Kind, tokenizer: Tokenizer, echo: str = "", logprobs: bool = False
    ) -> None:
        self.index, self._job, self._kind = index, job, kind
        self._tokenizer, self._logprobs = tokenizer, logprobs
        self._unsaid = echo
        self._speller = Speller(tokenizer, job.row.ids, len(echo))
        self._waiting: list[Spelled] = []
        self._length = 0
        self.tokens = 0
        self.finish: str | None = None

    def take(self, event: Event) -> tuple[str, dict[str, Any] | None]:
        """Return the new text and the log-probabilities of its tokens, `None` where none are wanted."""
        text, self._unsaid = self._unsaid + event.text, ""
        self._length += len(text)
        self.tokens += sum(step.token is not None for step in event.steps)
        self.finish = event.finish or None
        if not self._logprobs:
            return text, None
        if event.prompt is not None:
            own = Speller(self._tokenizer)
            self._waiting += [own.score(*pair) for pair in zip(self._job.row.ids, event.prompt, strict=True)]
        self._waiting += [self._speller.step(step) for step in event.steps]
        # Tokens go with their text; those of a stop string, which is cut, with none.
        end = self._length if not self.finish or self._job.text.stopped else self._length + 1
        ready = [one for one in self._waiting if one.offset < end]
        self._waiting = [] if self.finish else self._waiting[len(ready) :]
        return text, (chat_logprobs if self._kind == "chat" else completion_logprobs)(ready)


class Answer:
    """The envelope of one answer: its id, time and model.

    Args:
        kind: "chat" or "completion".
        model: the name that the client asked for.
        choices: of it.
        prompt_tokens: of all prompts.
        with_usage: whether chunks say `usage`.
    """

    def __init__(
        self, kind: Kind, model: str, choices: Sequence[Choice], prompt_tokens: int, with_usage: bool = False
    ) -> None:
        self.kind, self._model, self._choices = kind, model, choices
        self._prompt_tokens, self._with_usage = prompt_tokens, with_usage
        self.id = ("chatcmpl-" if kind == "chat" else "cmpl-") + secrets.token_hex(12)
        self._created = int(time.time())

    def whole(self, events: Sequence[Sequence[Event]]) -> dict[str, Any]:
        """Return the answer in one piece, of each choice's events."""
        choices = []
        for choice, own in zip(self._choices, events, strict=True):
            taken = [choice.take(event) for event in own]
            text = "".join(piece for piece, _ in taken)
            logprobs = _joined([found for _, found in taken if found is not None])
            body = {"message": {"role": "assistant", "content": text, "refusal": None}}
            choices.append(
                {"index": choice.index, **(body if self.kind == "chat" else {"text": text}),
                 "logprobs": logprobs, "finish_reason": choice.finish}
            )  # fmt: skip
        named = "chat.completion" if self.kind == "chat" else "text_completion"
        return {**self._envelope(named), "choices": choices, "usage": self.usage}

    @property
    def usage(self) -> dict[str, int]:
        """The counts of tokens so far; an end token is none."""
        new = sum(choice.tokens for choice in self._choices)
        return {
            "prompt_tokens": self._prompt_tokens,
            "completion_tokens": new,
            "total_tokens": self._prompt_tokens + new,
        }

    def begin(self) -> list[bytes]:
        """Return what comes first in a stream: of a conversation, whose turn it is."""
        if self.kind == "completion":
            return []
        first = {"role": "assistant", "content": ""}
        return [self._chunk(choice.index, first, None, None) for choice in self._choices]

    def chunks(self, index: int, event: Event) -> list[bytes]:
        """Return the chunks of one event of a choice: its text, then its end."""
        choice = self._choices[index]
        text, logprobs = choice.take(event)
        found = []
        if self.kind == "completion":
            if text or choice.finish or (logprobs and logprobs["tokens"]):
                found.append(self._chunk(index, text, logprobs, choice.finish))
            return found
        if text or (logprobs and logprobs["content"]):
            found.append(self._chunk(index, {"content": text}, logprobs, None))
        if choice.finish:
            found.append(self._chunk(index, {}, None, choice.finish))
        return found

    def end(self) -> list[bytes]:
        """Return what comes last in a stream."""
        last = {**self._envelope(self._named), "choices": [], "usage": self.usage}
        return [*([sse(last)] if self._with_usage else []), DONE]

    @property
    def _named(self) -> str:
        return "chat.completion.chunk" if self.kind == "chat" else "text_completion"

    def _chunk(self, index: int, delta: Any, logprobs: Any, finish: str | None) -> bytes:
        body = {"delta": delta} if self.kind == "chat" else {"text": delta}
        choice = {"index": index, **body, "logprobs": logprobs, "finish_reason": finish}
        usage = {"usage": None} if self._with_usage else {}
        return sse({**self._envelope(self._named), "choices": [choice], **usage})

    def _envelope(self, named: str) -> dict[str, Any]:
        return {"id": self.id, "object": named, "created": self._created, "model": self._model}


def _joined(found: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    """Put the log-probabilities of several events together."""
    if not found:
        return None
    lists = {key: value for key, value in found[0].items() if isinstance(value, list)}
    return found[0] | {key: [entry for one in found for entry in one[key]] for key in lists}
