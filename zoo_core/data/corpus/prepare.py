"""Remake the bundled corpus from the Debian packages named in ORIGIN.md.

Run once by hand where `bible-kjv` and `fortunes-zh` are installed:
`python -m zoo_core.data.corpus.prepare`. It needs the command `bible` and the folder of fortunes; nothing at run time
uses it.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

__all__ = ["main"]

_BOOKS = {
    "kjv-law-and-history.txt": {"ge": "Genesis", "exo": "Exodus", "ruth": "Ruth", "1sm": "1 Samuel"},
    "kjv-poetry.txt": {"psa": "Psalm", "prv": "Proverbs", "eccl": "Ecclesiastes", "ssol": "Song of Solomon"},
    "kjv-gospels.txt": {"mat": "Matthew", "mark": "Mark", "luke": "Luke", "john": "John", "acts": "Acts"},
}
_POEMS = ("tang300", "song100")
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")


def _book(short: str, title: str) -> str:
    """One blank-line-separated block a chapter: a heading, then a verse a line, without verse numbers."""
    listing = subprocess.run(["bible", "-f", f"{short}1:1-{short}200:200"], check=True, capture_output=True, text=True)
    chapters: dict[int, list[str]] = {}
    for line in listing.stdout.splitlines():
        place, _, verse = line.partition(" ")
        found = re.fullmatch(r"([0-9]?[A-Za-z]+)(\d+):\d+", place)
        if found and found.group(1).lower() == short:
            chapters.setdefault(int(found.group(2)), []).append(verse.strip())
    return "\n\n".join("\n".join([f"{title} {number}", *verses]) for number, verses in chapters.items())


def _poems(path: Path) -> str:
    """One blank-line-separated block a poem; colours and the blank lines inside a poem are dropped."""
    text = _COLOUR.sub("", path.read_text(encoding="utf-8"))
    blocks = re.split(r"^%$", text, flags=re.M)
    poems = ["\n".join(filter(None, (line.strip() for line in block.splitlines()))) for block in blocks]
    return "\n\n".join(filter(None, poems))


def main(fortunes: Path = Path("/usr/share/games/fortunes")) -> None:
    """Write every corpus file beside this module."""
    here = Path(__file__).parent
    for name, books in _BOOKS.items():
        text = "\n\n".join(_book(short, title) for short, title in books.items())
        (here / name).write_text(text + "\n", encoding="utf-8")
    for name in _POEMS:
        (here / f"{name}.txt").write_text(_poems(fortunes / name) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:2]))
