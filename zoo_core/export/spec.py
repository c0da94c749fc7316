"""What an exported folder holds, as plain data: its programs, their shapes, and how equal they were found. No paddle.

Shape legend: B rows, S tokens of a prompt, W cached columns of a window, M kv heads, D head width.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from zoo_core.errors import CheckpointError

__all__ = ["EXPORT_FILE", "MODEL", "Exported", "Note", "is_exported", "read_exported", "sizes_up_to"]

EXPORT_FILE = "export.json"
MODEL = "model"
"""The files' first name: `model.pdiparams` has the weights, `model.decode_64.json` is a program."""

_FORMAT = 1


@dataclass(frozen=True)
class Note:
    """What a model keeps beside keys and values.

    Args:
        name: as the model calls it.
        layers: the blocks that keep it.
        by_token: whether its second dim is the column.
        shape: the dims after the row, and after the column where there is one.
        dtype: element type.
    """

    name: str
    layers: tuple[int, ...]
    by_token: bool
    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True)
class Exported:
    """The contents of `export.json`.

    Args:
        zoo: version of zoo that wrote it.
        paddle: version of Paddle that traced it.
        dtype: element type of weights, keys and values.
        batch_size: B of the decode programs; a prefill program reads one row.
        max_length: most tokens of a row, prompt and answer.
        prefill: prompt lengths S there are programs for.
        decode: windows W there are programs for.
        entries: of each block, (M, D) of its keys and of its values.
        notes: what else is cached.
        context: tokens of the longest text of the model.
        source: digest of the weights that were exported.
        equality: by way of running, the largest difference of a logit from the dygraph model's, and others.
    """

    zoo: str
    paddle: str
    dtype: str
    batch_size: int
    max_length: int
    prefill: tuple[int, ...]
    decode: tuple[int, ...]
    entries: tuple[tuple[tuple[int, int], tuple[int, int]], ...]
    notes: tuple[Note, ...]
    context: int
    source: str = ""
    equality: Mapping[str, Any] = field(default_factory=dict)

    @property
    def programs(self) -> tuple[str, ...]:
        """The names of all programs."""
        return (*(f"prefill_{size}" for size in self.prefill), *(f"decode_{size}" for size in self.decode))

    def shapes(self, rows: int, columns: int) -> list[tuple[tuple[int, ...], str]]:
        """Shape and element type of all that is cached: each block's keys and values, then the notes."""
        found: list[tuple[tuple[int, ...], str]] = []
        for pair in self.entries:
            found += [((rows, columns, *entry), self.dtype) for entry in pair]
        for note in self.notes:
            front = (rows, columns) if note.by_token else (rows,)
            found.append(((*front, *note.shape), note.dtype))
        return found

    def has_columns(self, number: int) -> bool:
        """Whether the second dim of one of `shapes` is the column."""
        return number < 2 * len(self.entries) or self.notes[number - 2 * len(self.entries)].by_token

    def to_json(self) -> bytes:
        """As `export.json` has it."""
        return (json.dumps({"format": _FORMAT, **asdict(self)}, indent=2, ensure_ascii=False) + "\n").encode()


def sizes_up_to(most: int, least: int) -> tuple[int, ...]:
    """The powers of two from `least` on that lie below `most`, and `most`: a size that fits wastes less than half."""
    found = []
    while least < most:
        found.append(least)
        least *= 2
    return (*found, most)


def is_exported(folder: Path) -> bool:
    """Whether `zoo export` wrote this folder."""
    return (folder / EXPORT_FILE).is_file()


def read_exported(folder: Path) -> Exported:
    """Read `export.json`.

    Raises:
        CheckpointError: there is none, or it is damaged, of another version, or a file of it is missing.
    """
    if not is_exported(folder):
        why = "it has no export.json" if folder.is_dir() else "no such folder"
        raise CheckpointError(f"no exported model at {folder}", why, "write one with zoo export MODEL FOLDER")
    try:
        values = json.loads((folder / EXPORT_FILE).read_text(encoding="utf-8"))
        version = values.pop("format")
        notes = tuple(
            Note(**{**note, "layers": tuple(note["layers"]), "shape": tuple(note["shape"])}) for note in values["notes"]
        )
        entries = tuple(((int(k[0]), int(k[1])), (int(v[0]), int(v[1]))) for k, v in values["entries"])
        found = Exported(
            **{**values, "notes": notes, "entries": entries, "prefill": tuple(values["prefill"]),
               "decode": tuple(values["decode"])}
        )  # fmt: skip
    except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise CheckpointError(f"{folder / EXPORT_FILE} is damaged", str(error), "export the model again") from error
    if version != _FORMAT:
        raise CheckpointError(
            f"{folder} has the format {version}", f"this zoo reads format {_FORMAT}", "export the model again"
        )
    needed = [f"{MODEL}.pdiparams", *(f"{MODEL}.{name}.json" for name in found.programs)]
    missing = [name for name in needed if not (folder / name).is_file()]
    if missing:
        raise CheckpointError(f"{folder} is not whole", f"{missing[0]} is missing", "export the model again")
    return found
