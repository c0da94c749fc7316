"""`zoo serve` as a process: what it prints, what it refuses to begin, and how it ends."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx
import pytest
from serve_fakes import expected
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


def fake(drain_timeout):
    script = Path(__file__).with_name("serve_fake_process.py")
    return Serving(command=[sys.executable, str(script), str(drain_timeout)])


def ask(url, new):
    body = {"prompt": "God", "max_tokens": new, "temperature": 0}
    return httpx.post(url + "/v1/completions", json=body, timeout=60, trust_env=False)


def until(true, seconds=20.0):
    end = time.monotonic() + seconds
    while not true() and time.monotonic() < end:
        time.sleep(0.02)
    return true()


def until_running(url):
    while "zoo_running 2.0" not in httpx.get(url + "/metrics", trust_env=False).text:
        time.sleep(0.01)


def test_sigterm_lets_answers_end_and_takes_no_more():
    server = fake(30)
    try:
        answers = []
        threads = [threading.Thread(target=lambda: answers.append(ask(server.url, 200))) for _ in range(3)]
        for thread in threads:
            thread.start()
        until_running(server.url)
        assert until(lambda: "zoo_queue_length 1.0" in httpx.get(server.url + "/metrics", trust_env=False).text)
        server.signal(signal.SIGTERM)
        while (response := ask(server.url, 1)).status_code == 200:
            pass
        assert response.status_code == 503 and response.json()["error"]["code"] == "shutting_down"
        assert httpx.get(server.url + "/health", trust_env=False).json() == {"status": "draining"}
        for thread in threads:
            thread.join()
        assert [answer.json()["choices"][0]["text"] for answer in answers] == [expected("God", 200)] * 3
        assert server.wait() == 0
        assert any("answers are complete" in line for line in server.errors)
    finally:
        server.close()


@pytest.mark.parametrize("second", [False, True])
def test_what_takes_too_long_is_cut_off_and_a_second_signal_waits_for_nothing(second):
    server = fake(60 if second else 0.2)
    try:
        lines = []

        def read():
            body = {"prompt": "God", "max_tokens": 1900, "n": 2, "stream": True}
            with httpx.stream("POST", server.url + "/v1/completions", json=body, timeout=60, trust_env=False) as found:
                try:
                    lines.extend(found.iter_lines())
                except httpx.HTTPError as error:
                    lines.append(repr(error))

        reader = threading.Thread(target=read)
        reader.start()
        until_running(server.url)
        server.signal(signal.SIGTERM)
        if second:
            while httpx.get(server.url + "/health", trust_env=False).status_code == 200:
                time.sleep(0.01)
            server.signal(signal.SIGINT)
            assert server.wait(20) == 128 + signal.SIGINT
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


def test_the_command_says_where_it_is_and_ends_quietly(served):
    until(lambda: len(served.said) == 2)
    said = "".join(served.said)
    assert f"serving small at {served.url}/v1: 4 answers at a time, 256 tokens each" in said
    assert f"curl {served.url}/v1/completions" in said and "$ZOO_API_KEY" in said and "sesame" not in said


def test_help_needs_no_packages():
    code = "import sys; from zoo_core.cli import main; main(['serve', '--help'])"
    more = "; print({'paddle', 'numpy', 'fastapi', 'uvicorn'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code + more], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.endswith("set()\n") and "--drain_timeout" in done.stdout
