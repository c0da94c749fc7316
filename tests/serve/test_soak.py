"""Two minutes of 32 clients who come, go and break off: no wrong answer, no mixed ones, no leak, a quiet end."""

from __future__ import annotations

import asyncio
import collections
import json
import os
import signal
import statistics
import time

import httpx
import numpy as np
import pytest
from serve_models import Serving

SECONDS = float(os.environ.get("ZOO_SOAK_SECONDS", "120"))
CLIENTS = 32
WORDS = ["In the beginning", "God", "created", "the heaven", "and the earth.", "床前明月光", "疑是地上霜", "\n", " "]


def questions(count=24):
    random = np.random.default_rng(3)
    return [
        (
            " ".join(random.choice(WORDS, random.integers(1, 20))),
            int(random.integers(1, 60)),
            ("small", "poems")[at % 2],
        )
        for at in range(count)
    ]


@pytest.mark.soak
def test_many_clients_who_come_and_go(small, adapter, offline):
    asked, wanted = questions(), []
    for prompt, new, name in asked:
        offline.use("" if name == "small" else name)
        wanted.append("".join(offline.sample(prompt, new)))
    server = Serving(
        small, "--model_name", "small", "--adapter", f"poems={adapter}", "--max_batch", 12, "--max_queue", 16,
        "--prefill_chunk", 64,
    )  # fmt: skip
    counts, memory = collections.Counter(), []
    try:
        asyncio.run(_crowd(server, asked, wanted, counts, memory))
        with httpx.Client(base_url=server.url, trust_env=False, timeout=30) as http:
            end = time.monotonic() + 60
            while "zoo_running 0.0" not in (text := http.get("/metrics").text) and time.monotonic() < end:
                time.sleep(0.1)
            assert "zoo_running 0.0" in text and "zoo_queue_length 0.0" in text
        server.signal(signal.SIGTERM)
        assert server.wait() == 0
        assert not any("Traceback" in line for line in server.errors), server.errors
    finally:
        server.close()
    size = len(memory) // 4
    parts = [statistics.median(memory[at * size : (at + 1) * size]) / 2**20 for at in range(4)]
    print(f"\n{SECONDS:.0f} s, {CLIENTS} clients: {dict(counts)}")
    print(f"resident memory by quarters, MiB: {', '.join(f'{part:.1f}' for part in parts)}")
    assert counts["right"] > 100 and counts["left"] > 50
    assert parts[-1] < parts[1] * 1.05


async def _crowd(server, asked, wanted, counts, memory):
    limits = httpx.Limits(max_connections=CLIENTS + 2, max_keepalive_connections=8)
    async with httpx.AsyncClient(base_url=server.url, trust_env=False, timeout=120, limits=limits) as http:
        end = time.monotonic() + SECONDS
        clients = [_client(http, number, end, asked, wanted, counts) for number in range(CLIENTS)]
        watching = asyncio.ensure_future(_watch(server, memory))
        await asyncio.gather(*clients)
        watching.cancel()


async def _watch(server, memory):
    while True:
        memory.append(server.resident)
        await asyncio.sleep(1)


async def _client(http, number, end, asked, wanted, counts):
    random = np.random.default_rng(number)
    while time.monotonic() < end:
        at = int(random.integers(len(asked)))
        prompt, new, name = asked[at]
        stream, leaves = random.random() < 0.5, random.random() < 0.4
        # Neighbours that draw, so that greedy rows share passes with others.
        draws = random.random() < 0.2
        body = {
            "model": name,
            "prompt": prompt,
            "max_tokens": new,
            "temperature": 1.0 if draws else 0,
            "stream": stream,
        }
        patience = float(random.exponential(0.7)) if leaves else None
        try:
            text = await asyncio.wait_for(_ask(http, body), patience)
        except asyncio.TimeoutError:
            counts["left"] += 1
            continue
        if text is None:
            counts["busy"] += 1
            await asyncio.sleep(float(random.random()))
        elif draws:
            counts["drawn"] += 1
        else:
            assert text == wanted[at], (name, prompt, text, wanted[at])
            counts["right"] += 1


async def _ask(http, body):
    """Return the answer's text; `None` where the server is busy."""
    async with http.stream("POST", "/v1/completions", json=body) as response:
        if response.status_code == 429:
            assert int(response.headers["retry-after"]) >= 1
            return None
        assert response.status_code == 200, await response.aread()
        if not body["stream"]:
            return json.loads(await response.aread())["choices"][0]["text"]
        lines = [line.removeprefix("data: ") async for line in response.aiter_lines() if line]
        assert lines[-1] == "[DONE]"
        return "".join(json.loads(line)["choices"][0]["text"] for line in lines[:-1])
