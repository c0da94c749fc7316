"""What `/metrics` says, in Prometheus' format. Each server has a registry of its own."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from zoo_core.serve.jobs import Job

__all__ = ["CONTENT_TYPE", "Metrics"]

CONTENT_TYPE = CONTENT_TYPE_LATEST
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)


class Metrics:
    """Counters and times of a server; a `Watch` of its scheduler."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        own = self._registry
        disable_created_metrics()  # a time of creation beside every number, which nobody asks for
        ProcessCollector(registry=self._registry)
        self._requests = Counter("zoo_requests", "HTTP requests, by path and status.", ["path", "status"], registry=own)
        self._seconds = Histogram(
            "zoo_request_seconds", "From request to the end of its answer.", ["path"], buckets=_SECONDS, registry=own
        )
        self._prompt = Counter("zoo_prompt_tokens", "Tokens of prompts whose answers ended.", ["model"], registry=own)
        self._made = Counter("zoo_generated_tokens", "Tokens of answers that ended.", ["model"], registry=own)
        self._answers = Counter(
            "zoo_answers",
            "Answers that ended: stop, length, cancelled, timeout, model, stopped.",
            ["model", "how"],
            registry=own,
        )
        self._first = Histogram(
            "zoo_time_to_first_token_seconds", "From request to the first token.", buckets=_SECONDS, registry=own
        )
        self._between = Histogram(
            "zoo_inter_token_seconds", "Between tokens of one answer.", buckets=_SECONDS, registry=own
        )
        self._queue = Gauge("zoo_queue_length", "Answers that wait for the model.", registry=own)
        self._running = Gauge("zoo_running", "Answers that the model is writing.", registry=own)
        self._names: dict[str, str] = {}

    def attach(self, waiting: Callable[[], float], running: Callable[[], float], names: dict[str, str]) -> None:
        """Say where the lengths come from, and what the adapters are called."""
        self._queue.set_function(waiting)
        self._running.set_function(running)
        self._names = names

    def request(self, path: str, status: int, seconds: float) -> None:
        """Count a request that was answered."""
        self._requests.labels(path, str(status)).inc()
        self._seconds.labels(path).observe(seconds)

    def first(self, seconds: float) -> None:
        """An answer got its first token."""
        self._first.observe(seconds)

    def following(self, seconds: float) -> None:
        """An answer got another token."""
        self._between.observe(seconds)

    def ended(self, job: Job, tokens: int, how: str) -> None:
        """An answer ended."""
        model = self._names.get(job.adapter, job.adapter)
        self._answers.labels(model, how).inc()
        self._prompt.labels(model).inc(len(job.row.ids))
        self._made.labels(model).inc(tokens)

    def text(self) -> bytes:
        """What a scrape reads."""
        return generate_latest(self._registry)
