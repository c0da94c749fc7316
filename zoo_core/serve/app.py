"""The HTTP surface: OpenAI's routes, three of vLLM's for tokens, `/health` and `/metrics`."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Annotated, Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse
from starlette.types import ASGIApp

from zoo_core.serve.answers import Answer
from zoo_core.serve.calls import Call, EventStream, unless_gone
from zoo_core.serve.gate import Gate
from zoo_core.serve.metrics import CONTENT_TYPE, Metrics
from zoo_core.serve.refusals import Refusal, of_validation
from zoo_core.serve.requests import ChatRequest, CompletionRequest
from zoo_core.serve.site import Site

__all__ = ["make_app"]

_BODIES: dict[str, type[BaseModel]] = {"/v1/completions": CompletionRequest, "/v1/chat/completions": ChatRequest}


class _Texts(BaseModel):
    model_config = ConfigDict(extra="forbid")
    model: str = ""
    prompt: str
    add_special_tokens: bool = True


class _Tokens(BaseModel):
    model_config = ConfigDict(extra="forbid")
    model: str = ""
    tokens: list[Annotated[int, Field(ge=0, strict=True)]]


def make_app(site: Site, metrics: Metrics, key: str = "") -> ASGIApp:
    """Return the server's application.

    Args:
        site: what it serves.
        metrics: what it counts in.
        key: that clients have to show.
    """
    # The pages of documents that FastAPI brings load scripts from the network; the description itself stays.
    app = FastAPI(title="zoo serve", docs_url=None, redoc_url=None)
    _add_errors(app)
    _add_models(app, site)
    _add_answers(app, site)
    _add_tokens(app, site)

    @app.get("/health")
    async def health() -> Response:
        status = "draining" if site.draining else "ok" if site.scheduler.alive else "the model's thread has ended"
        return JSONResponse({"status": status}, 200 if status == "ok" else 503)

    @app.get("/metrics")
    async def scrape() -> Response:
        return Response(metrics.text(), media_type=CONTENT_TYPE)

    paths = frozenset(path for route in app.routes if (path := getattr(route, "path", None)) and "{" not in path)
    return Gate(app, metrics, paths, key, site.limits.max_body)


def _add_models(app: FastAPI, site: Site) -> None:
    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": [site.card(name) for name in site.names]}

    @app.get("/v1/models/{name:path}")
    async def model(name: str) -> dict[str, Any]:
        return site.card(site.named(name))


def _add_answers(app: FastAPI, site: Site) -> None:
    @app.post("/v1/completions")
    async def completions(body: CompletionRequest, request: Request) -> Response:
        return await _answered(request, bool(body.stream), site.completion(body))

    @app.post("/v1/chat/completions")
    async def chat(body: ChatRequest, request: Request) -> Response:
        return await _answered(request, bool(body.stream), site.chat(body))


async def _answered(request: Request, stream: bool, asked: Coroutine[Any, Any, tuple[Call, Answer]]) -> Response:
    """Answer in one piece or in many; what nobody waits for any more is given up."""
    call, answer = await asked
    streaming = False
    try:
        if not stream:
            events = await unless_gone(request.receive, call.whole())
            return JSONResponse(answer.whole(events)) if events is not None else Response(status_code=499)
        rest = call.events()
        first = await unless_gone(request.receive, _first(rest))
        if first is None:
            return Response(status_code=499)
        streaming = True
        return EventStream(call, answer, first, rest)
    finally:
        if not streaming:
            call.cancel()


async def _first(events: Any) -> Any:
    return await anext(events)


def _add_tokens(app: FastAPI, site: Site) -> None:
    """The routes of vLLM by which lm-evaluation-harness does without the tokenizer's files."""
    tokenizer = site.model.tokenizer

    @app.get("/tokenizer_info")
    async def tokenizer_info() -> dict[str, Any]:
        ids = {"bos_token": tokenizer.bos_id, "eos_token": tokenizer.eos_id, "pad_token": tokenizer.pad_id}
        spelled = {name: None if one is None else tokenizer.pieces([one])[0] for name, one in ids.items()}
        return {"tokenizer_class": type(tokenizer).__name__, **spelled}

    @app.post("/tokenize")
    async def tokenize(body: _Texts) -> dict[str, Any]:
        site.named(body.model)
        ids = await site.tokens(body.prompt, body.add_special_tokens)
        return {"count": len(ids), "max_model_len": site.limits.max_length, "tokens": ids}

    @app.post("/detokenize")
    async def detokenize(body: _Tokens) -> dict[str, Any]:
        site.named(body.model)
        return {"prompt": tokenizer.decode(body.tokens)}


def _add_errors(app: FastAPI) -> None:
    @app.exception_handler(Refusal)
    async def refused(_: Request, error: Refusal) -> Response:
        return error.response()

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != "application/json" and not kind.endswith("+json"):
            why = f"the body is {kind or 'of no type'}: send Content-Type: application/json"
            return Refusal(415, why, code="unsupported_media_type").response()
        keys = _BODIES.get(request.url.path)
        return of_validation(error.errors(), list(keys.model_fields) if keys else []).response()

    @app.exception_handler(HTTPException)
    async def failed(request: Request, error: HTTPException) -> Response:
        known = {
            404: (f"there is no {request.url.path}", "not_found"),
            405: (f"{request.url.path} does not take {request.method}", "method_not_allowed"),
            413: (error.detail, "body_too_large"),
            408: (error.detail, "request_timeout"),
        }
        message, code = known.get(error.status_code, (f"the body cannot be read: {error.detail}", "invalid_json"))
        return Refusal(error.status_code, message, code=code, headers=error.headers).response()

    @app.exception_handler(Exception)
    async def broken(_: Request, error: Exception) -> Response:
        message = f"the server failed: {type(error).__name__}; its log says more"
        return Refusal(500, message, kind="server_error", code="server_error").response()
