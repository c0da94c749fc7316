"""The bundled text: public-domain English and Chinese, for the demo, for tests and for a first tokenizer."""

from __future__ import annotations

from pathlib import Path

__all__ = ["files"]


def files() -> list[Path]:
    """Return the five UTF-8 text files, sorted by name; ORIGIN.md beside them states where each is from."""
    return sorted(Path(__file__).parent.glob("*.txt"))
