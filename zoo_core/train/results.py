"""The metrics at the end of a run: files named as PaddleNLP's Trainer names them, and a table."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path

from zoo_core.train.record import recorded

__all__ = ["metrics_table", "write_results"]


def write_results(root: Path, parts: Mapping[str, Mapping[str, float]]) -> list[Path]:
    """Write `PART_results.json` for each part ("train", "eval"), and all of them into `all_results.json`.

    What an earlier run left in `all_results.json` stays, unless it is measured anew. Values that are no numbers are
    left out. Returns the files.

    Raises:
        ZooError: the disk is full or cannot be written.
    """
    whole, path = dict[str, float](), root / "all_results.json"
    try:
        before = json.loads(path.read_text(encoding="utf-8"))
        whole = before if isinstance(before, dict) else {}
    except (OSError, ValueError):
        whole = {}
    files = []
    for part, metrics in parts.items():
        known = {name: value for name, value in metrics.items() if math.isfinite(value)}
        whole |= known
        files.append(root / f"{part}_results.json")
        _write(files[-1], known)
    _write(path, whole)
    return [*files, path]


def _write(path: Path, metrics: Mapping[str, float]) -> None:
    with recorded(path) as stream:
        stream.write(json.dumps(metrics, indent=4, sort_keys=True).encode() + b"\n")


def metrics_table(parts: Mapping[str, Mapping[str, float]]) -> str:
    """Return the metrics of all parts as lines under each other."""
    rows = [(name, value) for metrics in parts.values() for name, value in metrics.items() if name != "epoch"]
    width = max((len(name) for name, _ in rows), default=0)
    return "\n".join(f"  {name:<{width}}  {_shown(value)}" for name, value in rows)


def _shown(value: float) -> str:
    return f"{value:,.0f}" if isinstance(value, int) or abs(value) >= 1e5 else f"{value:.4f}"
