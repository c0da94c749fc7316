"""The chat page in a real browser: type, read the answer as it comes, stop. The fake model waits on demand."""

from __future__ import annotations

import shutil
import threading
import time

import httpx
import pytest
from serve_fakes import Live, Model, Worker, expected

pytest.importorskip("gradio")
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync"]  # fmt: skip


class Page:
    """The page on a server of its own beside the API."""

    def __init__(self, live, key="", talks=True):
        import uvicorn

        from zoo_core.serve.page import make_page
        from zoo_core.serve.running import bound

        own = bound("127.0.0.1", 0, "--web_port")
        self.url = f"http://127.0.0.1:{own.getsockname()[1]}"
        app = make_page(live.url, key, list(live.site.names), talks)
        self.server = uvicorn.Server(uvicorn.Config(app, log_level="error", lifespan="on", ws="none"))
        self.thread = threading.Thread(target=self.server.run, args=([own],), daemon=True)
        self.thread.start()

    def close(self):
        self.server.should_exit = True
        self.thread.join(20)


@pytest.fixture(scope="module")
def live():
    server = Live(Worker(4, {"a": 3}), Model(context=2000), max_length=2000)
    yield server
    server.close()


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="no playwright: pip install playwright")
    if CHROMIUM is None:
        pytest.skip("no Chromium here: apt-get install chromium")
    with playwright.sync_playwright() as found:
        own = found.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield own
        own.close()


def until(true, seconds=30.0):
    end = time.monotonic() + seconds
    while not true() and time.monotonic() < end:
        time.sleep(0.02)
    return true()


@pytest.mark.browser
def test_type_stream_and_stop(live, browser, monkeypatch):
    left, cancel = [], live.scheduler.cancel
    monkeypatch.setattr(live.scheduler, "cancel", lambda job: (cancel(job), left.append(len(job.row.ids))))
    page = Page(live)
    tab = browser.new_page()
    asked = []
    tab.on("request", lambda request: asked.append(request.url))
    try:
        tab.goto(page.url)
        box = tab.get_by_role("textbox").first
        box.wait_for(timeout=30_000)
        box.fill("hello")
        box.press("Enter")
        wanted = expected("[user]hello>", 256)
        tab.get_by_text(wanted).wait_for(timeout=30_000)  # a whole answer

        live.worker.good, live.worker.pause = 10, True
        box.fill("more")
        box.press("Enter")
        begin = expected(f"[user]hello[assistant]{wanted}[user]more>", 10)
        tab.get_by_text(begin, exact=True).wait_for(
            timeout=30_000
        )  # a part of one, as it comes: ten tokens, and a halt
        assert live.scheduler.running == 1
        tab.get_by_test_id("stop-button").click()
        assert until(lambda: any(length > 200 for length in left))  # the API heard of it, with no pass made
        live.worker.going.set()
        assert until(lambda: live.scheduler.running == 0)
        assert tab.get_by_text(begin, exact=True).is_visible()
        outside = [url for url in asked if not url.startswith((page.url, "data:", "blob:"))]
        assert not outside, outside
    finally:
        live.worker.pause = False
        live.worker.going.set()
        tab.close()
        page.close()


@pytest.mark.browser
def test_an_error_is_shown(live, browser):
    page = Page(live)
    tab = browser.new_page()
    try:
        tab.goto(page.url)
        box = tab.get_by_role("textbox").first
        box.wait_for(timeout=30_000)
        box.fill("x" * 1990)
        box.press("Enter")
        tab.get_by_text("the longest text here").first.wait_for(timeout=30_000)
    finally:
        tab.close()
        page.close()


def test_with_a_key_the_page_asks_for_it(live):
    page = Page(live, key="sesame")
    try:
        with httpx.Client(base_url=page.url, timeout=60, trust_env=False) as http:
            assert http.get("/config").status_code == 401
            assert http.post("/login", data={"username": "me", "password": "open"}).status_code == 400
            assert http.post("/login", data={"username": "me", "password": "sesame"}).status_code == 200
            assert http.get("/config").status_code == 200
    finally:
        page.close()
