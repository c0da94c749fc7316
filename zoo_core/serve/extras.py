"""The packages that serving needs and zoo does not bring by itself."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec

from zoo_core.errors import MachineError

__all__ = ["PAGE_PACKAGES", "SERVE_PACKAGES", "require_packages"]

SERVE_PACKAGES = ("fastapi", "uvicorn", "prometheus_client")
PAGE_PACKAGES = ("gradio", "httpx")


def require_packages(names: Sequence[str], extra: str, what: str) -> None:
    """Check that packages are installed, without importing them.

    Raises:
        MachineError: one is missing; says how to install it.
    """
    missing = [name for name in names if find_spec(name) is None]
    if missing:
        raise MachineError(
            f"{what} needs {' and '.join(missing).replace('_', '-')}", "not installed here",
            f"pip install 'zoo-core[{extra}]'",
        )  # fmt: skip
