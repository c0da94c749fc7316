"""What the routes know: the models by name, the limits, and how a request becomes jobs. No paddle."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from zoo_core.errors import ConfigError, TokenizerError, ZooError, nearest
from zoo_core.generate.choice import Sampling
from zoo_core.generate.rules import Row
from zoo_core.generate.texts import AnswerText
from zoo_core.serve.answers import Answer, Choice
from zoo_core.serve.calls import Call
from zoo_core.serve.jobs import Job
from zoo_core.serve.refusals import Refusal
from zoo_core.serve.requests import ChatRequest, CompletionRequest
from zoo_core.serve.scheduler import Draining, Full, Scheduler
from zoo_core.tokenizers import Message, Tokenizer

if TYPE_CHECKING:
    from zoo_core.generate.rules import Rules

__all__ = ["Limits", "Served", "Site"]


class Served(Protocol):
    """What the routes ask of a model; `zoo_core.generate.TextModel` is one. None of it runs the model."""

    @property
    def tokenizer(self) -> Tokenizer:
        """Its tokenizer."""
        ...

    def encode(self, prompt: str) -> list[int]:
        """Return the ids of a prompt."""
        ...

    def chat_ids(self, messages: Sequence[Message]) -> list[int]:
        """Return the ids of a conversation."""
        ...

    def rules(self, sampling: Sampling, *, chat: bool = False, **more: Any) -> Rules:
        """Return what holds for a row."""
        ...


@dataclass(frozen=True)
class Limits:
    """What a server takes.

    Args:
        max_batch: rows that run at a time.
        max_queue: answers that wait beside them.
        max_length: tokens of a prompt with its answer.
        max_body: bytes of a request.
        request_timeout: seconds from a request to the end of its answer.
    """

    max_batch: int = 16
    max_queue: int = 128
    max_length: int = 2048
    max_body: int = 8 << 20
    request_timeout: float = 600.0


@dataclass
class Site:
    """A server's model, its names and its limits.

    Args:
        model: that is served.
        vocab_size: of the model; ids of prompts are below it.
        names: the names that clients use, the base model's or the main adapter's first, and their adapters.
        scheduler: that runs jobs.
        limits: of requests.
    """

    model: Served
    vocab_size: int
    names: Mapping[str, str]
    scheduler: Scheduler
    limits: Limits
    began: int = field(default_factory=lambda: int(time.time()))
    draining: bool = False
    # Tokenizers are not made for two threads at once, and a long prompt is not to hold up the server's loop.
    _encoder: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1, "zoo-encode"))

    @property
    def name(self) -> str:
        """The name that is meant where a request has none."""
        return next(iter(self.names))

    def named(self, name: str) -> str:
        """Return the name of the model that a request asks for.

        Raises:
            Refusal: there is none.
        """
        if not name:
            return self.name
        if name not in self.names:
            near = nearest(name, self.names)
            hint = f"did you mean {near}?" if near else f"there is {', '.join(self.names)}"
            raise Refusal(404, f"there is no model {name}; {hint}", param="model", code="model_not_found")
        return name

    def card(self, name: str) -> dict[str, Any]:
        """Return what `/v1/models` says of a model."""
        return {
            "id": name, "object": "model", "created": self.began, "owned_by": "zoo", "root": self.name,
            "parent": None if name == self.name else self.name, "max_model_len": self.limits.max_length,
        }  # fmt: skip

    async def completion(self, body: CompletionRequest) -> tuple[Call, Answer]:
        """Let the answers to a request wait for the model.

        Raises:
            Refusal: it asks for what there is not, or there is no place.
        """
        given = body.prompt if isinstance(body.prompt, list) else [body.prompt]
        prompts: list[Any] = [given] if isinstance(given[0], int) else given
        most = 16 if body.max_tokens is None else body.max_tokens
        rows = [await self._prompt(one, most) for one in prompts]
        echoes = [""] * len(rows)
        if body.echo:
            echoes = [
                one if isinstance(one, str) else self.model.tokenizer.decode(ids, skip_special_tokens=True)
                for one, ids in zip(prompts, rows, strict=True)
            ]
        score = body.logprobs if body.echo else None
        return self._called(body, rows, echoes, [most] * len(rows), "completion", body.logprobs, score)

    async def chat(self, body: ChatRequest) -> tuple[Call, Answer]:
        """Let the answers to a conversation wait for the model.

        Raises:
            Refusal: it asks for what there is not, or there is no place.
        """
        if body.messages[-1].role != "user":
            raise Refusal(400, "the last message has to be the user's: it is what is answered", param="messages")
        written = [message.written for message in body.messages]
        try:
            ids = await self._in_encoder(self.model.chat_ids, written)
        except TokenizerError as error:
            # Where the server's files are is no business of a client's.
            refusal = Refusal.of(error, "messages")
            for file in self.model.tokenizer.files:
                refusal.message = refusal.message.replace(str(file), file.name)
            raise refusal from error
        self._check_ids(ids, "messages")
        most = body.most_tokens if body.most_tokens is not None else self.limits.max_length - len(ids)
        self._check_room(len(ids), max(1, most), "messages")
        top = (body.top_logprobs or 0) if body.logprobs else None
        return self._called(body, [ids], [""], [most], "chat", top, None)

    async def tokens(self, text: str, add_special_tokens: bool) -> list[int]:
        """Return the ids of a text."""
        found: list[int] = await self._in_encoder(self.model.tokenizer.encode, text, add_special_tokens)
        return found

    def _called(
        self, body: CompletionRequest | ChatRequest, prompts: Sequence[Sequence[int]], echoes: Sequence[str],
        most: Sequence[int], kind: Any, logprobs: int | None, score: int | None,
    ) -> tuple[Call, Answer]:  # fmt: skip
        name = self.named(body.model)
        rows = len(prompts) * body.choices
        if rows > self.limits.max_batch + self.limits.max_queue:
            most_rows = self.limits.max_batch + self.limits.max_queue
            raise Refusal(400, f"{rows} answers are wanted; a request may want {most_rows}", param="n")
        rules = self._rules(body, kind == "chat", logprobs)
        call, jobs, choices = Call(self.scheduler), list[Job](), list[Choice]()
        seed = secrets.randbits(63) if body.seed is None else body.seed % 2**64
        deadline = self.scheduler.clock() + self.limits.request_timeout
        for ids, echo, new in zip(prompts, echoes, most, strict=True):
            for number in range(body.choices):
                index = len(jobs)
                row = Row(ids, new, (seed, number) if number else seed)
                text = AnswerText(self.model.tokenizer, ids, body.stops)
                jobs.append(
                    Job(row, rules, text, call.deliver(index), self.names[name], bool(body.stream), score, deadline)
                )
                choices.append(Choice(index, jobs[-1], kind, self.model.tokenizer, echo, logprobs is not None))
        try:
            call.submit(jobs)
        except Full as error:
            after = {"Retry-After": str(error.retry_after)}
            raise Refusal(
                429, "the server is busy: its queue is full", kind="rate_limit_error", code="queue_full", headers=after
            ) from error
        except Draining as error:
            raise Refusal(503, "the server is shutting down", kind="server_error", code="shutting_down") from error
        return call, Answer(kind, name, choices, sum(map(len, prompts)), body.with_usage)

    def _rules(self, body: CompletionRequest | ChatRequest, chat: bool, logprobs: int | None) -> Rules:
        """How the tokens of an answer are chosen; a key that is null has OpenAI's default."""
        given: dict[str, Any] = {
            "temperature": body.temperature, "top_k": None if body.top_k is None else max(0, body.top_k),
            "top_p": body.top_p, "min_p": body.min_p, "repetition_penalty": body.repetition_penalty,
            "presence_penalty": body.presence_penalty, "frequency_penalty": body.frequency_penalty,
        }  # fmt: skip
        try:
            sampling = Sampling(**{key: value for key, value in given.items() if value is not None})
        except ConfigError as error:
            raise Refusal.of(error, error.what.split()[0]) from error
        more: dict[str, Collection[int]] = {"ends": ()} if body.ignore_eos else {}
        return self.model.rules(sampling, chat=chat, min_new_tokens=body.min_tokens or 0, logprobs=logprobs, **more)

    async def _prompt(self, prompt: str | list[int], new: int) -> list[int]:
        """Return the ids of a prompt that has room for so many new tokens."""
        try:
            ids = prompt if isinstance(prompt, list) else await self._in_encoder(self.model.encode, prompt)
        except ZooError as error:
            refusal = Refusal.of(error, "prompt")
            refusal.code = "context_length_exceeded" if "context" in error.why else None
            raise refusal from error
        self._check_ids(ids, "prompt")
        self._check_room(len(ids), new, "prompt")
        return ids

    def _check_ids(self, ids: Sequence[int], param: str) -> None:
        if max(ids) >= self.vocab_size:
            raise Refusal(400, f"the id {max(ids)} is not in the vocabulary of {self.vocab_size}", param=param)

    def _check_room(self, prompt: int, new: int, param: str) -> None:
        most = self.limits.max_length
        if prompt + new > most:
            message = f"{prompt} tokens of the prompt and {new} new ones are more than {most}, the longest text here"
            raise Refusal(400, message, param=param, code="context_length_exceeded")

    async def _in_encoder(self, work: Any, *given: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._encoder, work, *given)
