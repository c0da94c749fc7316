"""The files of the plugin guide, which are the template's: `zoo new-plugin mynah` writes what the guide shows."""

from __future__ import annotations

from pathlib import Path

__all__ = ["FILES", "TEMPLATE", "blocks"]

TEMPLATE = Path(__file__).parents[1] / "zoo_core" / "templates" / "plugin" / "zoo-mynah"
FILES = (
    *("pyproject.toml", "README.md"),
    *("zoo_mynah/config.py", "zoo_mynah/modeling.py", "zoo_mynah/layout.py", "zoo_mynah/pipeline.py"),
    *("zoo_mynah/tokenizer.py", "zoo_mynah/__init__.py", "tests/test_conformance.py"),
)
_KINDS = {".py": "python", ".toml": "toml", ".md": "markdown"}


def blocks(language: str) -> dict[str, str]:
    """Return `file PATH` -> its fenced block; the same in every language."""
    found = {}
    for name in FILES:
        text = (TEMPLATE / name).read_text(encoding="utf-8")
        found[f"file {name}"] = f'```{_KINDS[Path(name).suffix]} title="{name}"\n{text}```'
    return found
