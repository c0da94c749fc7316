"""What `zoo plugins check` prints: one line a check as it ends, and the message of each that fails. A pytest plugin."""

from __future__ import annotations

import pytest

__all__: list[str] = []

_STATES = {"passed": "ok", "failed": "FAILED", "skipped": "skipped"}


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Print a test's outcome: that of its call, or of its set-up where it got no further."""
    if report.when != "call" and report.outcome == "passed" or report.when == "teardown" and report.outcome != "failed":
        return
    why = report.longrepr[2].removeprefix("Skipped: ") if isinstance(report.longrepr, tuple) else ""
    print(f"{_STATES[report.outcome]:<8}{_title(report)}" + (f": {why}" if why else ""), flush=True)
    if report.outcome == "failed":
        print(_indented(report.longreprtext), flush=True)


def pytest_collectreport(report: pytest.CollectReport) -> None:
    """Print why there is nothing to run."""
    if report.outcome == "failed":
        print(report.longreprtext, flush=True)


def _title(report: pytest.TestReport) -> str:
    """`T1  cached decoding is the uncached pass  (mynah/mynah-160m-full)`."""
    name, _, case = report.nodeid.rpartition("::")[2].partition("[")
    tier = next((word.upper() for word in ("t0", "t1", "t2") if word in report.keywords), "  ")
    case = case.removesuffix("]").strip("-")
    given = f"  ({case})" if case else ""
    return f"{tier}  {name.removeprefix('test_').replace('_', ' ')}{given}"


def _indented(text: str) -> str:
    return "\n".join(f"            {line}" for line in text.strip().splitlines())
