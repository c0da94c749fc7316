"""Import Paddle without the notices that it prints on every start and that no user of zoo can act on."""

from __future__ import annotations

import contextlib
import io
import sys
from collections.abc import Iterator, MutableMapping

from zoo_ops.cpu.memory import keep_freed_memory

__all__ = ["import_paddle", "quiet_environment", "without_notices"]

_NOTICES = (
    "OMP_NUM_THREADS", "No ccache found", "warnings.warn(warning_message)", "Modified FLAGS detected", "FLAGS(name=",
    "=" * 60,
)  # fmt: skip

_IGNORED = ("ignore:No ccache found", "ignore:No shared comm", "ignore:Current global rank")
"""Python's filters for warnings of Paddle: of a compiler cache, of a pipeline without tied weights, of groups."""


def quiet_environment(environ: MutableMapping[str, str], traced: bool = False) -> None:
    """Silence Paddle's start in the processes that will have this environment; what the user set stays.

    Args:
        traced: graphs will be traced, and Paddle warns of operations that its own tracing puts in.
    """
    environ.setdefault("GLOG_minloglevel", "2" if traced else "1")  # 1: connection messages of every process group
    if "ignore:No ccache" not in (known := environ.get("PYTHONWARNINGS", "")):
        environ["PYTHONWARNINGS"] = ",".join(filter(None, (*_IGNORED, known)))


@contextlib.contextmanager
def without_notices() -> Iterator[None]:
    """Hold back what is printed on standard error, and print it afterwards but for the notices.

    The notices: that more than one thread is used (zoo chose the number for this machine), that a compiler cache is
    missing (nothing here compiles), and which of Paddle's flags its own packages changed.
    """
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            yield
    finally:
        for line in said.getvalue().splitlines():
            if not any(notice in line for notice in _NOTICES):
                print(line, file=sys.stderr)


def import_paddle(device: str) -> None:
    """Import paddle without its notices; on CPU its freed memory stays with the process, which is much quicker."""
    if device == "cpu":
        keep_freed_memory()
    with without_notices():
        import paddle  # noqa: F401
