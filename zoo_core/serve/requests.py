"""The bodies of requests: OpenAI's keys, those of vLLM that zoo also knows, and which ones are refused.

A key that would change the answer and that zoo does not have is refused by name, unless it has the value that changes
nothing. Keys about bookkeeping (`user`, `metadata`, `store` ...) are taken and have no effect. Any other key is
refused, with the nearest known one: a misspelt `temprature` is not to be found out by looking at answers.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator
from pydantic_core import PydanticCustomError

__all__ = ["MOST_CHOICES", "MOST_LOGPROBS", "ChatRequest", "CompletionRequest", "Message", "StreamOptions"]

MOST_CHOICES = 128
MOST_LOGPROBS = 20
_IDS = Annotated[list[Annotated[int, Field(ge=0, strict=True)]], Field(min_length=1)]
_Count = Annotated[int, Field(strict=True)]
_Number = Annotated[float, Field(allow_inf_nan=False)]
_Stop = Annotated[str, Field(min_length=1)]


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, hide_input_in_errors=True)


class StreamOptions(_Body):
    """What a stream has beside the text."""

    include_usage: bool = False
    include_obfuscation: bool = False


class _Request(_Body):
    """What both kinds of requests have. Ranges are OpenAI's, and vLLM's where OpenAI has no such key."""

    model: str = ""
    n: Annotated[_Count, Field(ge=1, le=MOST_CHOICES)] | None = 1
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    stop: _Stop | Annotated[list[_Stop], Field(max_length=16)] | None = None
    temperature: Annotated[_Number, Field(ge=0, le=2)] | None = 1.0
    top_p: Annotated[_Number, Field(gt=0, le=1)] | None = 1.0
    presence_penalty: Annotated[_Number, Field(ge=-2, le=2)] | None = 0.0
    frequency_penalty: Annotated[_Number, Field(ge=-2, le=2)] | None = 0.0
    seed: Annotated[_Count, Field(ge=-(2**63), lt=2**64)] | None = None
    # vLLM's
    top_k: Annotated[_Count, Field(ge=-1)] | None = 0
    min_p: Annotated[_Number, Field(ge=0, le=1)] | None = 0.0
    repetition_penalty: Annotated[_Number, Field(gt=0)] | None = 1.0
    min_tokens: Annotated[_Count, Field(ge=0)] | None = 0
    ignore_eos: bool | None = False
    # without effect
    user: Any = None
    metadata: Any = None
    store: Any = None
    service_tier: Any = None
    safety_identifier: Any = None
    prompt_cache_key: Any = None
    prompt_cache_retention: Any = None
    # refused
    logit_bias: Any = None

    @field_validator("logit_bias", mode="after")
    @classmethod
    def _no_bias(cls, value: Any) -> Any:
        return _refuse_unless(value, (None, {}), "zoo serve has no logit_bias")

    @model_validator(mode="after")
    def _stream_options_of_streams(self) -> Any:
        if self.stream_options is not None and not self.stream:
            raise _wrong("stream_options", "stream_options needs stream: true")
        return self

    @property
    def stops(self) -> tuple[str, ...]:
        """The stop strings."""
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())

    @property
    def choices(self) -> int:
        """How many answers each prompt gets."""
        return self.n or 1

    @property
    def with_usage(self) -> bool:
        """Whether a stream ends with the counts of tokens."""
        return self.stream_options is not None and self.stream_options.include_usage


class CompletionRequest(_Request):
    """`POST /v1/completions`."""

    prompt: str | _IDS | Annotated[list[str], Field(min_length=1)] | Annotated[list[_IDS], Field(min_length=1)]
    max_tokens: Annotated[_Count, Field(ge=0)] | None = 16
    logprobs: Annotated[_Count, Field(ge=0, le=MOST_LOGPROBS)] | None = None
    echo: bool | None = False
    # refused
    best_of: Any = None
    suffix: Any = None

    @field_validator("suffix", mode="after")
    @classmethod
    def _no_suffix(cls, value: Any) -> Any:
        return _refuse_unless(value, (None, ""), "zoo serve does not insert text: it has no suffix")

    @model_validator(mode="after")
    def _whole(self) -> Any:
        if self.best_of is not None and self.best_of != self.choices:
            raise _wrong("best_of", "zoo serve has no best_of other than n: ask for n answers and choose")
        if self.max_tokens == 0 and not self.echo:
            raise _wrong("max_tokens", "max_tokens is 0: only with echo does that give an answer")
        return self


class _TextPart(_Body):
    type: Literal["text"]
    text: str


class Message(_Body):
    """One message of a conversation."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | Annotated[list[_TextPart], Field(min_length=1)]
    # what an answer of the API has beside its text, so that it can be sent back as it came
    name: None = None
    refusal: None = None
    audio: None = None
    annotations: None | Annotated[list[Any], Field(max_length=0)] = None
    function_call: None = None
    tool_calls: None | Annotated[list[Any], Field(max_length=0)] = None
    reasoning_content: Any = None

    @property
    def text(self) -> str:
        """The text of the content, parts put together."""
        return self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)

    @property
    def written(self) -> dict[str, str]:
        """As the chat formats take it; OpenAI's `developer` is what others call `system`."""
        return {"role": "system" if self.role == "developer" else self.role, "content": self.text}


_CHAT_REFUSED: dict[str, tuple[tuple[Any, ...], str]] = {
    "tools": ((None, []), "zoo serve has no tools"),
    "tool_choice": ((None, "none", "auto"), "zoo serve has no tools"),
    "parallel_tool_calls": ((None, True, False), "zoo serve has no tools"),
    "functions": ((None, []), "zoo serve has no functions"),
    "function_call": ((None, "none", "auto"), "zoo serve has no functions"),
    "response_format": ((None, {"type": "text"}), "zoo serve does not force a format on answers: only type text"),
    "modalities": ((None, ["text"]), "zoo serve answers with text only"),
    "audio": ((None,), "zoo serve answers with text only"),
    "prediction": ((None,), "zoo serve takes no predicted outputs"),
    "reasoning_effort": ((None,), "zoo serve has no reasoning_effort"),
    "verbosity": ((None,), "zoo serve has no verbosity"),
    "web_search_options": ((None,), "zoo serve does not search"),
}


class ChatRequest(_Request):
    """`POST /v1/chat/completions`."""

    messages: Annotated[list[Message], Field(min_length=1)]
    max_tokens: Annotated[_Count, Field(ge=1)] | None = None
    max_completion_tokens: Annotated[_Count, Field(ge=1)] | None = None
    logprobs: bool | None = False
    top_logprobs: Annotated[_Count, Field(ge=0, le=MOST_LOGPROBS)] | None = None
    # refused
    tools: Any = None
    tool_choice: Any = None
    parallel_tool_calls: Any = None
    functions: Any = None
    function_call: Any = None
    response_format: Any = None
    modalities: Any = None
    audio: Any = None
    prediction: Any = None
    reasoning_effort: Any = None
    verbosity: Any = None
    web_search_options: Any = None

    @field_validator(*_CHAT_REFUSED, mode="after")
    @classmethod
    def _refused(cls, value: Any, info: Any) -> Any:
        return _refuse_unless(value, *_CHAT_REFUSED[info.field_name])

    @model_validator(mode="after")
    def _whole(self) -> Any:
        if self.top_logprobs and not self.logprobs:
            raise _wrong("top_logprobs", "top_logprobs needs logprobs: true")
        return self

    @property
    def most_tokens(self) -> int | None:
        """The most new tokens; `None` for as many as the context has room for."""
        return self.max_completion_tokens if self.max_completion_tokens is not None else self.max_tokens


def _refuse_unless(value: Any, neutral: tuple[Any, ...], why: str) -> Any:
    if value not in neutral:
        raise ValueError(why)
    return value


def _wrong(param: str, why: str) -> PydanticCustomError:
    """What is wrong with two keys together; pydantic gives such an error no place of its own."""
    return PydanticCustomError("together", "{why}", {"why": why, "param": param})
