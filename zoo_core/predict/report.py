"""What a prediction says at its end. No paddle."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from zoo_core._counting import many
from zoo_core.errors import ConfigError
from zoo_core.train.scores import check_scorers, scores

__all__ = ["scored", "summary"]

_NAMES = {"bleu4": "BLEU-4", "rouge1": "Rouge-1", "rouge2": "Rouge-2", "rougel": "Rouge-L"}


def scored(lines: Sequence[Mapping[str, Any]]) -> str:
    """Return how near the answers come to those of the file, as evaluation by generating has it; empty without any.

    Args:
        lines: of the file of answers.
    """
    known = [line for line in lines if line["tgt"]]
    if not known:
        return ""
    try:
        check_scorers()
    except ConfigError:
        return 'not measured: BLEU-4 and Rouge need pip install "zoo-core[metrics]"'
    found = scores([line["output"] for line in known], [line["tgt"] for line in known])
    values = ", ".join(f"{_NAMES.get(name, name)} {value:.4f}" for name, value in found.items())
    return f"{values} (answers that have a tgt: {len(known):,})"


def summary(output: Path, total: int, now: int, seconds: float, found: str) -> str:
    """Return the last lines of a prediction.

    Args:
        total: questions, of which `now` were answered in `seconds`.
        found: what `scored` returned.
    """
    before = f", {total - now} of them before" if now < total else ""
    lines = [f"answered   {many(total, 'question')}{before}, {now / max(seconds, 1e-9):.3g} a second"]
    lines += [f"scores     {found}"] if found else []
    return "\n".join([*lines, f"wrote      {output}"])
