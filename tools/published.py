"""What every `make_published.py` shares: the tensors that a reference implementation declares, written small.

Not part of any distribution. Models are built under `torch.device("meta")`, so nothing is allocated. The file is a JSON
list; an entry has `models`, names that users type, and `tensors`, shape by published name, where `{0-31}` stands for
each of the numbers 0 to 31. `zoo_core.testing.tables.check_published` reads it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

__all__ = ["declared", "write"]

Shapes = Mapping[str, Sequence[int]]


def declared(model: Any) -> dict[str, tuple[int, ...]]:
    """Shape by name of the parameters of a torch model; a tied one has the first of its names."""
    return {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}


def write(file: Path, models: Mapping[str, Shapes]) -> None:
    """Write what each model has, the same bytes every time; models that have the same share an entry.

    Raises:
        SystemExit: the numbers in some tensors' names have gaps.
    """
    entries: dict[str, list[str]] = {}
    for name, shapes in models.items():
        rows = [f"   {json.dumps(tensor)}: {json.dumps(shape)}" for tensor, shape in _patterns(shapes)]
        entries.setdefault(",\n".join(rows), []).append(name)
    written = [f' {{"models": {json.dumps(names)},\n  "tensors": {{\n{rows}}}}}' for rows, names in entries.items()]
    file.write_text("[\n" + ",\n".join(written) + "\n]\n")


def _patterns(shapes: Shapes) -> list[tuple[str, tuple[int, ...]]]:
    """(name with ranges for its numbers, shape) of all tensors, each name's place that of its first number."""
    found: dict[tuple[str, tuple[int, ...]], list[list[int]]] = {}
    for name, shape in shapes.items():
        pattern = re.sub(r"(?<=\.)\d+(?=\.)", "{}", name)
        found.setdefault((pattern, tuple(shape)), []).append([int(n) for n in re.findall(r"(?<=\.)(\d+)(?=\.)", name)])
    rows = []
    for (pattern, shape), numbers in found.items():
        ranges = [(min(place), max(place)) for place in zip(*numbers, strict=True)]
        size = 1
        for first, last in ranges:
            size *= last - first + 1
        if len(numbers) != size:
            raise SystemExit(f"{pattern} {list(shape)}: {len(numbers)} tensors, and {size} in the ranges {ranges}")
        rows.append((pattern.format(*(f"{{{first}-{last}}}" for first, last in ranges)), shape))
    return rows
