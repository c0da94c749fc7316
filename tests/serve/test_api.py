"""The HTTP surface over a fake model: what is answered, what is refused and how. Real sockets, no paddle."""

from __future__ import annotations

import json
import socket
import time

import httpx
import pytest
from serve_fakes import Live, Model, Worker, expected


@pytest.fixture(scope="module")
def live():
    server = Live(Worker(4, {"a": 3}), Model())
    yield server
    server.close()


@pytest.fixture(scope="module")
def http(live):
    with httpx.Client(base_url=live.url, timeout=20, trust_env=False) as client:
        yield client


def events(response):
    assert response.headers["content-type"].startswith("text/event-stream")
    blocks = response.text.split("\n\n")
    assert blocks[-1] == "" and blocks[-2] == "data: [DONE]"
    assert all(block.startswith("data: ") and "\n" not in block for block in blocks[:-1])
    return [json.loads(block.removeprefix("data: ")) for block in blocks[:-2]]


def complete(http, **body):
    response = http.post("/v1/completions", json={"model": "base", **body})
    assert response.status_code == 200, response.text
    return response.json()


def test_models(http):
    found = http.get("/v1/models").json()
    assert found["object"] == "list" and [one["id"] for one in found["data"]] == ["base", "poems"]
    assert found["data"][1]["parent"] == "base" and found["data"][0]["max_model_len"] == 64
    assert http.get("/v1/models/poems").json()["id"] == "poems"
    assert http.get("/v1/models/poem").json()["error"]["code"] == "model_not_found"


def test_a_completion(http):
    found = complete(http, prompt="abc", max_tokens=5)
    assert found["object"] == "text_completion" and found["model"] == "base" and found["id"].startswith("cmpl-")
    assert found["choices"] == [
        {"index": 0, "text": expected("abc", 5), "logprobs": None, "finish_reason": "length"}
    ]  # fmt: skip
    assert found["usage"] == {"prompt_tokens": 3, "completion_tokens": 5, "total_tokens": 8}


def test_adapters_by_name(http):
    assert complete(http, model="poems", prompt="abc", max_tokens=5)["choices"][0]["text"] == expected("abc", 5, 3)
    assert complete(http, model="", prompt="abc", max_tokens=2)["choices"][0]["text"] == expected("abc", 2)


@pytest.mark.parametrize(
    ("prompt", "texts"),
    [
        ("ab", ["ab"]),
        (["ab", "xyz"], ["ab", "xyz"]),
        ([97, 98], ["ab"]),
        ([[97, 98], [120]], ["ab", "x"]),
    ],
)
def test_every_form_of_a_prompt(http, prompt, texts):
    found = complete(http, prompt=prompt, max_tokens=3, n=2, echo=True)["choices"]
    assert [one["text"] for one in found] == [text + expected(text, 3) for text in texts for _ in range(2)]
    assert [one["index"] for one in found] == list(range(2 * len(texts)))


def test_stop_strings_and_their_usage(http):
    text = expected("abc", 10)
    found = complete(http, prompt="abc", max_tokens=10, stop=[text[4:6], "nothing"])
    assert found["choices"][0]["text"] == text[:4] and found["choices"][0]["finish_reason"] == "stop"
    assert found["usage"]["completion_tokens"] == 6


def test_logprobs_echo_and_their_offsets(http):
    found = complete(http, prompt="abc", max_tokens=2, logprobs=2, echo=True)["choices"][0]
    logprobs, text = found["logprobs"], "abc" + expected("abc", 2)
    assert "".join(logprobs["tokens"]) == text and logprobs["text_offset"] == [0, 1, 2, 3, 4]
    assert logprobs["token_logprobs"] == [None, -0.0, -1.0, -0.5, -0.5]
    assert logprobs["top_logprobs"][0] is None and [len(top) for top in logprobs["top_logprobs"][1:]] == [2, 2, 2, 2]
    scored = complete(http, prompt="abc", max_tokens=0, logprobs=1, echo=True)["choices"][0]
    assert scored["text"] == "abc" and scored["logprobs"]["token_logprobs"] == [None, -0.0, -1.0]


def test_tokens_of_a_stop_string_have_no_logprobs_in_the_answer(http):
    text = expected("abc", 10)
    found = complete(http, prompt="abc", max_tokens=10, logprobs=1, stop=text[4:6])["choices"][0]
    assert found["text"] == "".join(found["logprobs"]["tokens"]) == text[:4]
    body = {"prompt": "abc", "max_tokens": 10, "logprobs": 1, "stop": text[4:6], "stream": True}
    chunks = events(http.post("/v1/completions", json=body))
    assert "".join(t for c in chunks for t in c["choices"][0]["logprobs"]["tokens"]) == text[:4]


def test_a_stream_of_completions(http):
    body = {"prompt": ["abc", "x"], "n": 2, "max_tokens": 4, "stream": True, "stream_options": {"include_usage": True}}
    chunks = events(http.post("/v1/completions", json=body))
    texts, finishes = [""] * 4, {}
    for chunk in chunks[:-1]:
        assert chunk["object"] == "text_completion" and chunk["id"] == chunks[0]["id"] and chunk["usage"] is None
        (choice,) = chunk["choices"]
        assert choice["index"] not in finishes
        texts[choice["index"]] += choice["text"]
        if choice["finish_reason"]:
            finishes[choice["index"]] = choice["finish_reason"]
    assert texts == [expected("abc", 4)] * 2 + [expected("x", 4)] * 2 and finishes == dict.fromkeys(range(4), "length")
    assert chunks[-1]["choices"] == [] and chunks[-1]["usage"] == {
        "prompt_tokens": 4, "completion_tokens": 16, "total_tokens": 20
    }  # fmt: skip


def test_a_conversation_and_its_stream(http):
    parts = [{"type": "text", "text": "h"}, {"type": "text", "text": "i"}]
    messages = [{"role": "developer", "content": "s"}, {"role": "user", "content": parts}]
    written = "[system]s[user]hi>"
    body = {"model": "base", "messages": messages, "max_completion_tokens": 4, "logprobs": True, "top_logprobs": 2}
    found = http.post("/v1/chat/completions", json=body).json()
    choice = found["choices"][0]
    assert choice["message"] == {"role": "assistant", "content": expected(written, 4), "refusal": None}
    assert found["object"] == "chat.completion" and found["usage"]["prompt_tokens"] == len(written)
    content = choice["logprobs"]["content"]
    assert "".join(one["token"] for one in content) == expected(written, 4)
    assert all(one["bytes"] == list(one["token"].encode()) and len(one["top_logprobs"]) == 2 for one in content)

    chunks = events(http.post("/v1/chat/completions", json={**body, "stream": True}))
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
    assert deltas[0] == {"role": "assistant", "content": ""} and deltas[-1] == {}
    assert "".join(delta.get("content", "") for delta in deltas) == expected(written, 4)
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks] == [None] * (len(chunks) - 1) + ["length"]
    assert all(chunk["object"] == "chat.completion.chunk" and "usage" not in chunk for chunk in chunks)


def test_an_answer_of_the_api_can_be_sent_back_as_it_came(http):
    first = http.post("/v1/chat/completions", json={"messages": [{"role": "user", "content": "a"}], "max_tokens": 2})
    said = first.json()["choices"][0]["message"] | {"tool_calls": None, "audio": None}
    messages = [{"role": "user", "content": "a"}, said, {"role": "user", "content": "b"}]
    assert http.post("/v1/chat/completions", json={"messages": messages, "max_tokens": 2}).status_code == 200


def test_without_max_tokens_a_conversation_fills_the_context(http):
    found = http.post("/v1/chat/completions", json={"messages": [{"role": "user", "content": "a"}]}).json()
    assert found["usage"]["total_tokens"] == 64


USER = [{"role": "user", "content": "a"}]
C, H = "/v1/completions", "/v1/chat/completions"
REFUSED = [
    (C, {"prompt": "a", "max_tokens": -1}, "max_tokens", "invalid_value"),
    (C, {"prompt": "a", "max_tokens": 0}, "max_tokens", "invalid_value"),
    (C, {"prompt": "a", "max_tokens": 1.5}, "max_tokens", "invalid_value"),
    (C, {"prompt": "a", "max_tokens": "9"}, "max_tokens", "invalid_value"),
    (C, {"prompt": "a", "n": 0}, "n", "invalid_value"),
    (C, {"prompt": "a", "n": 13}, "n", None),
    (C, {"prompt": "a", "temperature": -0.1}, "temperature", "invalid_value"),
    (C, {"prompt": "a", "temperature": 3}, "temperature", "invalid_value"),
    (C, {"prompt": "a", "top_p": 0}, "top_p", "invalid_value"),
    (C, {"prompt": "a", "top_p": 1.1}, "top_p", "invalid_value"),
    (C, {"prompt": "a", "min_p": 2}, "min_p", "invalid_value"),
    (C, {"prompt": "a", "top_k": -2}, "top_k", "invalid_value"),
    (C, {"prompt": "a", "repetition_penalty": 0}, "repetition_penalty", "invalid_value"),
    (C, {"prompt": "a", "presence_penalty": 2.5}, "presence_penalty", "invalid_value"),
    (C, {"prompt": "a", "logprobs": 21}, "logprobs", "invalid_value"),
    (C, {"prompt": "a", "logprobs": True}, "logprobs", "invalid_value"),
    (C, {"prompt": "a", "stop": ""}, "stop", "invalid_value"),
    (C, {"prompt": "a", "stop": ["a", 3]}, "stop", "invalid_value"),
    (C, {"prompt": "a", "seed": "x"}, "seed", "invalid_value"),
    (C, {"prompt": "a", "best_of": 3}, "best_of", "invalid_value"),
    (C, {"prompt": "a", "suffix": "b"}, "suffix", "invalid_value"),
    (C, {"prompt": "a", "logit_bias": {"5": 1}}, "logit_bias", "invalid_value"),
    (C, {"prompt": "a", "temprature": 1}, "temprature", "unknown_parameter"),
    (C, {"prompt": "a", "stream_options": {"include_usage": True}}, "stream_options", "invalid_value"),
    (C, {"prompt": []}, "prompt", "invalid_value"),
    (C, {"prompt": [[]]}, "prompt", "invalid_value"),
    (C, {"prompt": [-1]}, "prompt", "invalid_value"),
    (C, {"prompt": [1 << 40]}, "prompt", None),
    (C, {"prompt": 5}, "prompt", "invalid_value"),
    (C, {"prompt": None}, "prompt", "invalid_value"),
    (C, {}, "prompt", "missing_required_parameter"),
    (C, {"prompt": "a" * 64}, "prompt", "context_length_exceeded"),
    (C, {"prompt": [97] * 65, "max_tokens": 0, "echo": True}, "prompt", "context_length_exceeded"),
    (C, {"prompt": "a" * 60}, "prompt", "context_length_exceeded"),
    (C, {"prompt": "a", "max_tokens": 64}, "prompt", "context_length_exceeded"),
    (H, {}, "messages", "missing_required_parameter"),
    (H, {"messages": []}, "messages", "invalid_value"),
    (H, {"messages": [{"role": "user"}]}, "messages[0].content", "missing_required_parameter"),
    (H, {"messages": [{"role": "judge", "content": "a"}]}, "messages[0].role", "invalid_value"),
    (H, {"messages": [{"role": "tool", "content": "a"}]}, "messages[0].role", "invalid_value"),
    (H, {"messages": [{"role": "user", "content": 5}]}, "messages[0].content", "invalid_value"),
    (H, {"messages": [{"role": "user", "content": "a", "name": "bob"}]}, "messages[0].name", "invalid_value"),
    (H, {"messages": [*USER, {"role": "assistant", "content": "a"}]}, "messages", None),
    (H, {"messages": USER, "tools": [{"type": "function"}]}, "tools", "invalid_value"),
    (H, {"messages": USER, "functions": [{}]}, "functions", "invalid_value"),
    (H, {"messages": USER, "response_format": {"type": "json_object"}}, "response_format", "invalid_value"),
    (H, {"messages": USER, "modalities": ["audio"]}, "modalities", "invalid_value"),
    (H, {"messages": USER, "top_logprobs": 2}, "top_logprobs", "invalid_value"),
    (H, {"messages": USER, "logprobs": True, "top_logprobs": 21}, "top_logprobs", "invalid_value"),
    (H, {"messages": USER, "max_tokens": 0}, "max_tokens", "invalid_value"),
    (H, {"messages": [{"role": "user", "content": "a" * 70}]}, "messages", "context_length_exceeded"),
    (H, {"messages": USER, "max_completion_tokens": 100}, "messages", "context_length_exceeded"),
]


@pytest.mark.parametrize(("path", "body", "param", "code"), REFUSED)
def test_wrong_requests_are_refused_by_name(http, path, body, param, code):
    response = http.post(path, json=body)
    assert response.status_code == 400, response.text
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"} and error["type"] == "invalid_request_error"
    assert (error["param"], error["code"]) == (param, code), error
    assert error["message"] and "\n" not in error["message"]


def test_an_image_is_refused_by_its_place(http):
    content = [{"type": "image_url", "image_url": {"url": "x"}}]
    error = http.post(H, json={"messages": [{"role": "user", "content": content}]}).json()["error"]
    assert error["param"].startswith("messages[0].content")


def test_keys_without_effect_and_neutral_values_are_taken(http):
    more = {"user": "me", "metadata": {"a": "b"}, "store": False, "logit_bias": None, "n": None, "stop": None}
    assert http.post(C, json={"prompt": "a", "best_of": 1, "suffix": None, **more}).status_code == 200
    chat = {"tools": [], "tool_choice": "none", "response_format": {"type": "text"}, "parallel_tool_calls": True}
    assert http.post(H, json={"messages": USER, "max_tokens": 2, **more, **chat}).status_code == 200


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b'{"prompt": "a",}', b"nonsense", b"[1, 2]", b'"text"', b"\xff\xfe{", b"[" * 100_000,
     b'{"prompt": NaN}', b'{"prompt": "a", "temperature": NaN}', b'{"prompt": "a", "temperature": 1e999}',
     b'{"prompt": "a", "seed": 1e400}'],
)  # fmt: skip
def test_what_is_no_json(http, body):
    response = http.post(C, content=body, headers={"Content-Type": "application/json"})
    assert response.status_code == 400 and set(response.json()["error"]) == {"message", "type", "param", "code"}


def test_half_a_character_is_no_error_of_the_server(http):
    response = http.post(C, content=b'{"prompt": "\\ud83d"}', headers={"Content-Type": "application/json"})
    assert response.status_code in (200, 400) and response.json()


def test_other_types_of_bodies(http):
    for kind in ("text/plain", "application/x-www-form-urlencoded"):
        response = http.post(C, content=b'{"prompt": "a"}', headers={"Content-Type": kind})
        assert response.status_code == 415 and response.json()["error"]["code"] == "unsupported_media_type"


def test_other_paths_and_methods(http):
    response = http.get("/v1/nothing")
    assert response.status_code == 404 and response.json()["error"]["code"] == "not_found"
    response = http.get(C)
    assert response.status_code == 405 and response.json()["error"]["code"] == "method_not_allowed"
    assert "POST" in response.headers["allow"]
    assert http.post(C, json={"model": "bass", "prompt": "a"}).status_code == 404
    assert "did you mean base?" in http.post(C, json={"model": "bass", "prompt": "a"}).json()["error"]["message"]


def test_large_bodies_are_refused_whether_or_not_their_size_is_said(http):
    body = json.dumps({"prompt": "a" * 10_000_000}).encode()
    said = http.post(C, content=body, headers={"Content-Type": "application/json"})
    pieces = (body[at : at + 50_000] for at in range(0, len(body), 50_000))
    unsaid = http.post(C, content=pieces, headers={"Content-Type": "application/json"})
    for response in (said, unsaid):
        assert response.status_code == 413 and response.json()["error"]["code"] == "body_too_large", response.text


def test_health_metrics_and_request_ids(http):
    assert http.get("/health").json() == {"status": "ok"}
    assert http.get("/health", headers={"X-Request-Id": "mine"}).headers["x-request-id"] == "mine"
    assert len(http.get("/health").headers["x-request-id"]) == 16
    http.get("/any/path")
    text = http.get("/metrics").text
    for line in ('zoo_requests_total{path="/v1/completions",status="200"}', "zoo_queue_length 0.0", "zoo_running 0.0",
                 "zoo_time_to_first_token_seconds_count", "zoo_inter_token_seconds_count", 'path="other",status="404"',
                 'zoo_generated_tokens_total{model="poems"}', 'zoo_answers_total{how="stop",model="base"}',
                 "process_resident_memory_bytes"):  # fmt: skip
        assert line in text, line
    assert "/any/path" not in text


def test_tokens_by_the_routes_of_vllm(http):
    assert http.post("/tokenize", json={"prompt": "ab"}).json()["tokens"] == [97, 98]
    assert http.post("/detokenize", json={"tokens": [97, 98]}).json() == {"prompt": "ab"}
    assert http.get("/tokenizer_info").json()["eos_token"] == "\0"
    assert http.post("/detokenize", json={"tokens": [-1]}).status_code == 400


def until(true, seconds=10.0):
    end = time.monotonic() + seconds
    while not true() and time.monotonic() < end:
        time.sleep(0.005)
    return true()


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("waits", [False, True])
def test_who_goes_away_frees_the_place(live, stream, waits, monkeypatch):
    live.worker.going.clear()
    left, cancel = [], live.scheduler.cancel
    monkeypatch.setattr(live.scheduler, "cancel", lambda job: (cancel(job), left.append(job)))
    count = 6 if waits else 1
    body = json.dumps({"prompt": "a", "max_tokens": 60, "stream": stream}).encode()
    head = f"POST {C} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    sockets = []
    for _ in range(count):
        sockets.append(socket.create_connection(("127.0.0.1", live.socket.getsockname()[1])))
        sockets[-1].sendall(head.encode() + body)
    assert until(lambda: live.scheduler.running + live.scheduler.waiting == count)
    for one in sockets:
        one.close()
    assert until(lambda: len(left) == count)
    assert live.scheduler.waiting == 0  # who waits is gone though no pass is made
    steps = len(live.worker.steps)
    live.worker.going.set()
    assert until(lambda: live.scheduler.running == 0)
    assert len(live.worker.steps) - steps <= 1  # the pass that was being made, not one for each of 60 tokens


def test_a_full_queue_says_when_to_come_back(live, http):
    live.worker.going.clear()
    try:
        with httpx.Client(base_url=live.url, timeout=20, trust_env=False) as other:
            request = other.build_request("POST", C, json={"prompt": ["a"] * 12, "max_tokens": 3, "stream": True})
            from concurrent.futures import ThreadPoolExecutor

            with ThreadPoolExecutor(1) as pool:
                filling = pool.submit(other.send, request)
                assert until(lambda: live.scheduler.running + live.scheduler.waiting == 12)
                response = http.post(C, json={"prompt": "a"})
                assert response.status_code == 429 and int(response.headers["retry-after"]) >= 1
                assert response.json()["error"]["code"] == "queue_full"
                live.worker.going.set()
                assert filling.result().status_code == 200
    finally:
        live.worker.going.set()
    assert http.post(C, json={"prompt": "a"}).status_code == 200


def test_a_failing_model_answers_500_and_goes_on(live, http):
    live.worker.error = RuntimeError("in a kernel")
    response = http.post(C, json={"prompt": "a"})
    assert response.status_code == 500 and response.json()["error"]["type"] == "server_error"
    assert "kernel" not in response.text  # details are for the log
    live.worker.error = RuntimeError("in a kernel")
    response = http.post(C, json={"prompt": "a", "stream": True})
    assert response.status_code == 500  # nothing had been sent, so the status can still say it
    assert complete(http, prompt="abc", max_tokens=5)["choices"][0]["text"] == expected("abc", 5)


def test_a_failure_in_the_middle_of_a_stream_is_an_event(live, http):
    live.worker.error, live.worker.good = RuntimeError("in a kernel"), 5
    response = http.post(C, json={"prompt": "a", "max_tokens": 60, "stream": True})
    assert response.status_code == 200
    found = events(response)
    assert "".join(one["choices"][0]["text"] for one in found[:-1]) == expected("a", 5)
    assert found[-1]["error"]["code"] == "model_error"


def test_keys():
    server = Live(Worker(), Model(), key="s3cret-ключ")
    try:
        with httpx.Client(base_url=server.url, timeout=20, trust_env=False) as client:
            for wrong in ({}, {"Authorization": "Bearer no"}, {"Authorization": "Basic s3cret"}):
                for path in ("/v1/models", "/metrics", "/openapi.json"):
                    response = client.get(path, headers=wrong)
                    assert response.status_code == 401 and response.headers["www-authenticate"] == "Bearer"
                    assert response.json()["error"]["code"] == "invalid_api_key"
                assert client.post(C, json={"prompt": "a"}, headers=wrong).status_code == 401
            right = {"Authorization": "Bearer s3cret-ключ".encode()}
            assert client.get("/v1/models", headers=right).status_code == 200
            assert client.get("/health").status_code == 200
    finally:
        server.close()


def test_late_answers_and_draining():
    server = Live(Worker(), Model(), request_timeout=0.2)
    try:
        with httpx.Client(base_url=server.url, timeout=20, trust_env=False) as client:
            server.worker.going.clear()
            import threading

            threading.Timer(0.6, server.worker.going.set).start()
            response = client.post(C, json={"prompt": "a"})
            assert response.status_code == 504 and response.json()["error"]["code"] == "request_timeout"
            server.site.draining = True
            server.scheduler.drain()
            response = client.post(C, json={"prompt": "a"})
            assert response.status_code == 503 and response.json()["error"]["code"] == "shutting_down"
            assert client.get("/health").status_code == 503
    finally:
        server.close()


def test_a_model_without_conversations_says_so():
    server = Live(Worker(), Model(chat=False))
    try:
        error = httpx.post(server.url + H, json={"messages": USER}, trust_env=False).json()["error"]
        assert error == {
            "message": "no conversations", "type": "invalid_request_error", "param": "messages", "code": None
        }  # fmt: skip
    finally:
        server.close()
