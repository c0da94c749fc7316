"""The plugin guide taken apart: its files, and its commands in order."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]


def text_of(language: str = "en") -> str:
    return (ROOT / "docs" / language / "plugin-guide.md").read_text(encoding="utf-8")


def blocks(language: str = "en") -> list[tuple[str, str, str]]:
    """(kind, title, content) of each fenced block."""
    return re.findall(r'^```(\w*)(?: title="([^"]+)")?\n(.*?)^```$', text_of(language), re.DOTALL | re.MULTILINE)


def write(folder: Path) -> list[Path]:
    """Write the guide's files as its reader would: the plugin's to `zoo-mynah`, the others where their titles say."""
    written = []
    for _, title, content in blocks():
        if title:
            own = title.startswith(("zoo_mynah/", "tests/")) or title in ("pyproject.toml", "README.md")
            path = folder / ("zoo-mynah" if own else "") / title
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content, encoding="utf-8")
            written.append(path)
    return written


def commands() -> list[str]:
    """The lines of its shell blocks."""
    return [line for kind, _, text in blocks() if kind == "sh" for line in text.splitlines()]
