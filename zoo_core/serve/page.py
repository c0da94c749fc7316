"""The chat page: type, read the answer as it comes, stop it. It talks to the API of its own process and to no one else.

Gradio's fonts, counts of use and other pages on the network are off: what a browser loads comes from this server.
"""

from __future__ import annotations

import hmac
import importlib
import json
import os
from collections.abc import AsyncIterator, Sequence
from typing import Any

import httpx
from fastapi import FastAPI

__all__ = ["make_page"]

_QUIET = {
    "GRADIO_ANALYTICS_ENABLED": "False",
    "GRADIO_RUN_HISTORY": "False",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_OFFLINE": "1",
}
_FONTS = ("system-ui", "sans-serif")
_MONO = ("ui-monospace", "monospace")


def make_page(url: str, key: str, names: Sequence[str], talks: bool, max_length: int = 2048) -> FastAPI:
    """Return the page's application.

    Args:
        url: of the API, without `/v1`.
        key: of the API; the page asks for it as a password.
        names: of the models that can be chosen.
        talks: whether the model knows conversations; otherwise the page continues what is typed.
        max_length: tokens of a prompt with its answer.
    """
    gradio = _gradio()

    async def answer(
        message: str, history: list[dict[str, Any]], model: str, temperature: float, most: float
    ) -> AsyncIterator[str]:
        wanted = {"model": model, "temperature": temperature, "max_tokens": int(most), "stream": True}
        if talks:
            turns = [{"role": turn["role"], "content": _text(turn["content"])} for turn in history]
            path, body = "/v1/chat/completions", {**wanted, "messages": [*turns, {"role": "user", "content": message}]}
        else:
            path, body = "/v1/completions", {**wanted, "prompt": message}
        text = ""
        try:
            async for piece in _pieces(url + path, key, body):
                text += piece
                yield text
        except (_Refused, httpx.HTTPError) as error:
            raise gradio.Error(str(error) or type(error).__name__, duration=None) from error

    own = gradio.themes.Font  # as the browser has it; the theme's own come from Google
    theme = gradio.themes.Default(font=[own(name) for name in _FONTS], font_mono=[own(name) for name in _MONO])
    does = "answers" if talks else "continues what you type: it knows no conversations"
    page = gradio.ChatInterface(
        answer,
        # As plain text: a picture in an answer's markdown would have the browser fetch it from anywhere.
        chatbot=gradio.Chatbot(buttons=["copy", "copy_all"], render_markdown=False, label=names[0]),
        title=f"zoo: {names[0]}",
        description=f"{names[0]} {does}.",
        additional_inputs=[
            gradio.Dropdown(list(names), value=names[0], label="model"),
            gradio.Slider(0.0, 2.0, 0.8, label="temperature"),
            gradio.Slider(1, max_length - 1, min(256, max_length // 2), step=1, label="most new tokens"),
        ],
        analytics_enabled=False,
        flagging_mode="never",
        save_history=False,
        concurrency_limit=32,
    )
    page.queue(api_open=False)
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    same = (lambda _, given: hmac.compare_digest(given.encode(), key.encode())) if key else None
    return gradio.mount_gradio_app(
        app, page, path="/", auth=same, auth_message="any name, and the API key as password", theme=theme,
        footer_links=[], run_history=False, ssr_mode=False, enable_monitoring=False, pwa=False, mcp_server=False,
        max_file_size=0,
    )  # fmt: skip


class _Refused(Exception):
    """The API's error, for whoever reads the page."""


async def _pieces(url: str, key: str, body: dict[str, Any]) -> AsyncIterator[str]:
    """Yield the text of a stream of the API; leaving it early tells the API that nobody reads on."""
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    async with (
        httpx.AsyncClient(timeout=None, trust_env=False) as client,
        client.stream("POST", url, json=body, headers=headers) as response,
    ):
        if response.status_code != 200:
            raise _Refused(json.loads(await response.aread())["error"]["message"])
        async for line in response.aiter_lines():
            if not line.startswith("data: ") or line == "data: [DONE]":
                continue
            event = json.loads(line.removeprefix("data: "))
            if "error" in event:
                raise _Refused(event["error"]["message"])
            for choice in event["choices"]:
                yield choice["delta"].get("content") or "" if "delta" in choice else choice["text"]


def _text(content: Any) -> str:
    """The text of a turn; Gradio gives it whole or in parts."""
    if isinstance(content, str):
        return content
    return "".join(part.get("text", "") if isinstance(part, dict) else str(part) for part in content)


def _gradio() -> Any:
    os.environ.update({name: value for name, value in _QUIET.items() if name not in os.environ})
    return importlib.import_module("gradio")
