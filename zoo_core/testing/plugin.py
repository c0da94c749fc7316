"""The pytest plugin: `pytest --zoo-record` writes which cells of the capability matrix the tests have proved.

A test says by the fixture `zoo_evidence` which cells it proves. With `--zoo-record`, and only where the test passes,
that becomes a record in `evidence.json` of the plugin's package when the session ends; a test that fails takes the
cell's record away. pytest loads this file in every project of an environment, so it imports nothing of zoo at its top.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from zoo_core.testing.recording import Recording

__all__ = ["ClaimCells"]

ClaimCells = Callable[..., None]
"""`zoo_evidence(family, *cells, tier="T2", model=None)`."""

_RECORDING: pytest.StashKey[Recording] = pytest.StashKey()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add `--zoo-record`."""
    group = parser.getgroup("zoo", "zoo's capability matrix")
    group.addoption("--zoo-record", action="store_true", help="write what passing tests prove to evidence.json")


def pytest_configure(config: pytest.Config) -> None:
    """Name the tiers, which `ArchConformance` marks its tests with."""
    config.addinivalue_line("markers", "t0: needs no paddle")
    config.addinivalue_line("markers", "t1: one process")
    config.addinivalue_line("markers", 't2: starts several processes; -m "not t2" leaves it out')


def _recording(config: pytest.Config) -> Recording:
    if _RECORDING not in config.stash:
        from zoo_core.testing.recording import Recording

        config.stash[_RECORDING] = Recording()
    return config.stash[_RECORDING]


@pytest.fixture
def zoo_evidence(request: pytest.FixtureRequest) -> ClaimCells:
    """Say which cells this test proves, before its first assertion: `zoo_evidence("llama", "tensor_parallel")`.

    `tier` is where the test runs ("T1" one process, "T2" several on CPU, "T3" GPUs), `model` a named model that it ran.

    Raises:
        UnknownModelError: no installed plugin has the family.
        PluginError: no cell has that name, or a test of this tier cannot prove it.
    """

    def claim(family: str, *cells: str, tier: str = "T2", model: str | None = None) -> None:
        _recording(request.config).claim(request.node.nodeid, family, cells, tier, model)

    return claim


def pytest_collection_finish(session: pytest.Session) -> None:
    """Begin to record, before any test runs."""
    if session.config.getoption("--zoo-record"):
        _recording(session.config).begin()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, Any, Any]:
    """Note how the test ended."""
    report = yield
    if _RECORDING in item.config.stash:
        item.config.stash[_RECORDING].ended(item.nodeid, report.when, report.outcome)
    return report


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Write the records."""
    if session.config.getoption("--zoo-record") and _RECORDING in session.config.stash:
        session.config.stash[_RECORDING].write()


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Say what was written, or whose evidence is stale."""
    if _RECORDING in config.stash:
        for line in config.stash[_RECORDING].summary(bool(config.getoption("--zoo-record"))):
            terminalreporter.write_line(line)
