"""The arguments reference, from the argument dataclasses; `python docs/generate_arguments.py` writes it."""

from __future__ import annotations

from pathlib import Path

from words import words

from zoo_core.arguments import describe

__all__ = ["pages"]


def pages(language: str) -> dict[str, str]:
    """Return the page of a language by its name."""
    return {"arguments.md": describe(words(language))}


if __name__ == "__main__":
    for language in ("en", "zh"):
        for name, text in pages(language).items():
            Path(__file__).parent.joinpath(language, name).write_text(text, encoding="utf-8")
