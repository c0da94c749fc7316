"""The Chinese of what the generated pages take from the code, sentence by sentence: `zh.yaml`."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import yaml

__all__ = ["Words", "words"]


class Words:
    """Translates the sentences of one language; English stays as it is.

    `used` and `missing` are the sentences asked for so far, so that a test can say which of `zh.yaml` are needed no
    more and which it lacks. A missing one stays English.
    """

    def __init__(self, known: dict[str, str] | None) -> None:
        self.known = known
        self.used: set[str] = set()
        self.missing: list[str] = []

    def __call__(self, text: str) -> str:
        """Return `text` in this language."""
        if self.known is None:
            return text
        self.used.add(text)
        if text not in self.known and text not in self.missing:
            self.missing.append(text)
        return self.known.get(text, text)


@cache
def words(language: str) -> Words:
    """Return the words of "en" or "zh"."""
    if language == "en":
        return Words(None)
    return Words(yaml.safe_load(Path(__file__).with_name(f"{language}.yaml").read_text(encoding="utf-8")))
