"""What every request passes before the routes: the key, the size of its body, an id, and its count."""

from __future__ import annotations

import asyncio
import hmac
import secrets
import time

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from zoo_core.serve.metrics import Metrics
from zoo_core.serve.refusals import Refusal

__all__ = ["Gate"]

OPEN = frozenset({"/health"})
"""Paths that need no key: whoever watches whether a server lives has none."""

_BODY_SECONDS = 60.0
_DISCARDED = 64 << 20


class Gate:
    """ASGI middleware.

    Args:
        app: what is behind it.
        metrics: count the requests.
        paths: that are counted by name; any other path counts as "other", so that nobody can make up labels.
        key: that requests have to show, or nothing.
        max_body: bytes of the largest body.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics, paths: frozenset[str], key: str, max_body: int) -> None:
        self._app, self._metrics, self._paths = app, metrics, paths
        self._key, self._max_body = key.encode(), max_body

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request through, or refuse it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began, status = time.perf_counter(), 499
        headers = Headers(scope=scope)
        number = headers.get("x-request-id", "")[:128] or secrets.token_hex(8)

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)["x-request-id"] = number
            await send(message)

        try:
            refusal = self._refusal(scope, headers)
            if refusal is None and self._length(headers) > self._max_body:
                # What a client is still sending it has to be rid of before it reads an answer; curl asks first.
                if headers.get("expect", "").lower() != "100-continue":
                    await _discard(receive)
                refusal = self._too_large()
            if refusal is not None:
                await refusal.response()(scope, receive, answer)
            else:
                await self._app(scope, self._limited(receive), answer)
        finally:
            path = scope["path"] if scope["path"] in self._paths else "other"
            self._metrics.request(path, status, time.perf_counter() - began)

    def _refusal(self, scope: Scope, headers: Headers) -> Refusal | None:
        if not self._key or scope["path"] in OPEN:
            return None
        kind, _, given = headers.get("authorization", "").partition(" ")
        if kind.lower() == "bearer" and hmac.compare_digest(given.strip().encode("latin-1", "replace"), self._key):
            return None
        wrong = "the API key is wrong" if given else "no API key: send Authorization: Bearer KEY"
        return Refusal(401, wrong, code="invalid_api_key", headers={"WWW-Authenticate": "Bearer"})

    def _too_large(self) -> Refusal:
        return Refusal(413, f"the body is larger than {self._max_body:,} bytes (--max_body)", code="body_too_large")

    @staticmethod
    def _length(headers: Headers) -> int:
        text = headers.get("content-length", "")
        return int(text) if text.isdigit() else 0

    def _limited(self, receive: Receive) -> Receive:
        """Count the bytes of a body whose length nobody said, and refuse it as soon as they are too many."""
        read, more = 0, True

        async def limited() -> Message:
            nonlocal read, more
            try:
                message = await (asyncio.wait_for(receive(), _BODY_SECONDS) if more else receive())
            except asyncio.TimeoutError as error:
                raise HTTPException(408, "the body did not come in time") from error
            if message["type"] == "http.request":
                more = message.get("more_body", False)
                read += len(message.get("body", b""))
                if read > self._max_body:
                    if more:
                        await _discard(receive)
                    raise HTTPException(413, self._too_large().message)
            return message

        return limited


async def _discard(receive: Receive) -> None:
    """Read the rest of a body and forget it, up to a limit: beyond, the connection just closes."""
    read, until = 0, time.monotonic() + 10.0
    while read < _DISCARDED and time.monotonic() < until:
        try:
            message = await asyncio.wait_for(receive(), 5.0)
        except asyncio.TimeoutError:
            return
        read += len(message.get("body", b""))
        if message["type"] != "http.request" or not message.get("more_body", False):
            return
