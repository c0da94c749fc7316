"""`zoo serve` as a process: what it prints, what it refuses to begin, and how it ends."""

from __future__ import annotations

import json
import signal
import socket
import threading
import time

import httpx
import pytest
from serve_models import Serving

from zoo_core.cli import main


def refused(capsys, *words):
    status = main(["serve", *map(str, words)])
    out, err = capsys.readouterr()
    assert status == 2 and out == "", (status, out)
    return err


def test_refusals_before_anything_is_loaded(small, adapter, tmp_path, capsys, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        said = refused(capsys, small, "--port", port)
        assert f"cannot listen at 127.0.0.1:{port}" in said and "--port" in said
        assert "--web_port" in refused(capsys, small, "--port", 0, "--web", "--web_port", port)
    assert "cannot listen" in refused(capsys, small, "--host", "no.such.host.invalid", "--port", 0)
    assert "no weights of" in refused(capsys, tmp_path / "nothing", "--port", 0)
    assert "NAME=PATH" in refused(capsys, small, "--adapter", adapter, "--port", 0)
    assert "both called" in refused(capsys, small, "--adapter", f"weights={adapter}", "--port", 0)
    twice = ("--adapter", f"a={adapter}", "--adapter", f"a={adapter}")
    assert "two adapters" in refused(capsys, small, *twice, "--port", 0)
    assert "context is 256" in refused(capsys, small, "--max_length", 257, "--port", 0)
    assert "one process" in refused(capsys, small, "--tensor_parallel_degree", 2, "--nproc", 2)
    assert "max_batch" in refused(capsys, small, "--max_batch", 0)


@pytest.mark.parametrize(("package", "extra"), [("fastapi", "serve"), ("gradio", "webui")])
def test_missing_packages_are_named_with_their_extra(small, capsys, monkeypatch, package, extra):
    from zoo_core.serve import extras

    monkeypatch.setattr(extras, "find_spec", lambda name: None if name == package else True)
    said = refused(capsys, small, "--web")
    assert package in said and f"pip install 'zoo-core[{extra}]'" in said


def ask(url, new, **more):
    body = {"prompt": "God", "max_tokens": new, "temperature": 0, "ignore_eos": True, **more}
    return httpx.post(url + "/v1/completions", json=body, timeout=120, trust_env=False)


def test_sigterm_lets_answers_end_and_takes_no_more(small):
    server = Serving(small, "--max_batch", "2")
    try:
        said = "".join(server.said)
        assert "serving weights at http://127.0.0.1:" in said
        wanted = ask(server.url, 150).json()["choices"][0]["text"]
        answers, refusals = [], []
        threads = [threading.Thread(target=lambda: answers.append(ask(server.url, 150))) for _ in range(3)]
        for thread in threads:
            thread.start()
        while "zoo_running 2.0" not in httpx.get(server.url + "/metrics", trust_env=False).text:
            time.sleep(0.01)
        server.signal(signal.SIGTERM)
        while not refusals:
            response = ask(server.url, 1)
            if response.status_code != 200:
                refusals.append(response)
        for thread in threads:
            thread.join()
        assert refusals[0].status_code == 503 and refusals[0].json()["error"]["code"] == "shutting_down"
        assert [answer.json()["choices"][0]["text"] for answer in answers] == [wanted] * 3
        assert server.wait() == 0
        assert any("answers are complete" in line for line in server.errors)
    finally:
        server.close()


@pytest.mark.parametrize("second", [False, True])
def test_an_answer_that_takes_too_long_is_cut_off_and_a_second_signal_waits_for_none(small, second):
    server = Serving(small, "--drain_timeout", "60" if second else "0.2")
    try:
        lines = []

        def read():
            body = {"prompt": "God", "max_tokens": 250, "n": 16, "stream": True, "ignore_eos": True}
            with httpx.stream("POST", server.url + "/v1/completions", json=body, timeout=60, trust_env=False) as found:
                try:
                    lines.extend(found.iter_lines())
                except httpx.HTTPError as error:
                    lines.append(repr(error))

        reader = threading.Thread(target=read)
        reader.start()
        while "zoo_running 16.0" not in httpx.get(server.url + "/metrics", trust_env=False).text:
            time.sleep(0.01)
        server.signal(signal.SIGTERM)
        if second:
            time.sleep(0.3)
            began = time.monotonic()
            server.signal(signal.SIGINT)
            assert server.wait() == 128 + signal.SIGINT and time.monotonic() - began < 5
            reader.join()
            assert "[DONE]" not in lines[-1]
        else:
            assert server.wait() == 0
            reader.join()
            said = [line for line in lines if line]
            assert said[-1] == "data: [DONE]"
            assert json.loads(said[-2].removeprefix("data: "))["error"]["code"] == "shutting_down"
    finally:
        server.close()
