"""What a run says while it trains: the log line, its second line, and the progress bar."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from tqdm import tqdm

__all__ = [
    "Progress",
    "Speed",
    "StepLine",
    "Stopwatch",
    "eval_line",
    "logger",
    "means_line",
    "set_up_logging",
    "span_text",
]

logger = logging.getLogger("zoo")


class _Handler(logging.Handler):
    """Writes lines to standard output, above a progress bar if there is one; warnings go to standard error."""

    def emit(self, record: logging.LogRecord) -> None:
        stream = sys.stderr if record.levelno >= logging.WARNING else sys.stdout
        with tqdm.external_write_mode(file=stream):
            print(self.format(record), file=stream, flush=True)


def set_up_logging(is_first: bool) -> None:
    """Give the `zoo` logger its format; processes other than the first say errors only."""
    handler = _Handler()
    handler.setFormatter(logging.Formatter("[%(asctime)s] [%(levelname)8s] - %(message)s"))
    logger.handlers[:] = [handler]
    logger.setLevel(logging.INFO if is_first else logging.ERROR)
    logger.propagate = False
    # fleet has loggers of its own that tell of groups and schedules at length
    for name, other in [("", logging.getLogger()), *logging.root.manager.loggerDict.items()]:
        if isinstance(other, logging.Logger) and (not name or name.split(".")[0] in ("paddle", "root", "matplotlib")):
            other.setLevel(logging.WARNING)


@dataclass
class Stopwatch:
    """Seconds spent on reading and on whole steps since the last log line; evaluation and saving do not count."""

    reading: float = 0.0
    working: float = 0.0
    steps: int = 0

    @contextmanager
    def read(self) -> Iterator[None]:
        """Time the reading of a step's batches."""
        begin = time.perf_counter()
        yield
        self.reading += time.perf_counter() - begin

    @contextmanager
    def step(self) -> Iterator[None]:
        """Time a step, its reading included."""
        begin = time.perf_counter()
        yield
        self.working += time.perf_counter() - begin
        self.steps += 1

    def take(self, tokens: int, cards: int) -> Speed:
        """Return the averages since the last call, and start anew.

        Args:
            tokens: of a global batch.
            cards: processes of the run.
        """
        steps = max(self.steps, 1)
        found = Speed(self.reading / steps, max(self.working / steps, 1e-9), tokens, cards)
        self.reading, self.working, self.steps = 0.0, 0.0, 0
        return found


@dataclass(frozen=True)
class Speed:
    """Averages over the steps since the last log line.

    Args:
        reader_cost, batch_cost: seconds a step; the second includes the first.
        tokens: of a global batch.
        cards: processes.
    """

    reader_cost: float
    batch_cost: float
    tokens: int
    cards: int

    @property
    def ips_total(self) -> float:
        """Tokens a second of all cards."""
        return self.tokens / self.batch_cost

    @property
    def ips(self) -> float:
        """Tokens a second of one card."""
        return self.ips_total / self.cards


@dataclass(frozen=True)
class StepLine:
    """The documented line of one step; programs of users parse it."""

    step: int
    epoch: int
    batch: int
    loss: float
    speed: Speed
    learning_rate: float

    def __str__(self) -> str:
        speed = self.speed
        return (
            f"global step {self.step}, epoch: {self.epoch}, batch: {self.batch}, loss: {self.loss:.9f}, "
            f"avg_reader_cost: {speed.reader_cost:.5f} sec, avg_batch_cost: {speed.batch_cost:.5f} sec, "
            f"speed: {1 / speed.batch_cost:.2f} step/s, ips_total: {speed.ips_total:.0f} tokens/s, "
            f"ips: {speed.ips:.0f} tokens/s, learning rate: {self.learning_rate:.5e}"
        )


def eval_line(part: str, step: int, metrics: Mapping[str, float], samples: int, seconds: float) -> str:
    """The line of an evaluation."""
    shown = {"loss": ".9f", "ppl": ".5g"}
    values = "".join(f", {name}: {value:{shown.get(name, '.5f')}}" for name, value in metrics.items())
    return f"{part} at step {step}{values}, samples: {samples}, {samples / max(seconds, 1e-9):.1f} samples/s"


def means_line(step: int, means: Mapping[str, float]) -> str:
    """What a step tells beside its loss."""
    return f"step {step}, " + ", ".join(f"{name}: {value:.5f}" for name, value in means.items())


@dataclass
class Progress:
    """A bar on standard error, for people at a terminal."""

    total: int
    done: int = 0
    shown: bool = False
    _bar: Any = field(default=None, repr=False)

    def __enter__(self) -> Progress:
        if self.shown:
            self._bar = tqdm(total=self.total, initial=self.done, unit="step", dynamic_ncols=True, file=sys.stderr)
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def advance(self, loss: float) -> None:
        """Count one step."""
        if self._bar is not None:
            self._bar.set_postfix_str(f"loss {loss:.4f}", refresh=False)
            self._bar.update()


def span_text(seconds: float) -> str:
    """A length of time as people say it: 12.3 s, 4 min 10 s, 3 h 5 min."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(int(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"
