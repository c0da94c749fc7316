"""What an exported folder holds, as plain data: its programs, their shapes, and how equal they were found. No paddle.

Shape legend: B rows, S tokens of a prompt, W cached columns of a window.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from zoo_core.errors import CheckpointError
from zoo_core.replay.cached import Cached, Note

__all__ = ["EXPORT_FILE", "MODEL", "Exported", "is_exported", "read_exported"]

EXPORT_FILE = "export.json"
MODEL = "model"
"""The files' first name: `model.pdiparams` has the weights, `model.decode_64.json` is a program."""

_FORMAT = 1


@dataclass(frozen=True)
class Exported(Cached):
    """The contents of `export.json`: what the model caches, and the following.

    Args:
        zoo: version of zoo that wrote it.
        paddle: version of Paddle that traced it.
        batch_size: B of the decode programs; a prefill program reads one row.
        max_length: most tokens of a row, prompt and answer.
        prefill: prompt lengths S there are programs for.
        decode: windows W there are programs for.
        context: tokens of the longest text of the model.
        source: digest of the weights that were exported.
        equality: by way of running, the largest difference of a logit from the dygraph model's, and others.
    """

    zoo: str
    paddle: str
    batch_size: int
    max_length: int
    prefill: tuple[int, ...]
    decode: tuple[int, ...]
    context: int
    source: str = ""
    equality: Mapping[str, Any] = field(default_factory=dict)

    @property
    def programs(self) -> tuple[str, ...]:
        """The names of all programs."""
        return (*(f"prefill_{size}" for size in self.prefill), *(f"decode_{size}" for size in self.decode))

    def to_json(self) -> bytes:
        """As `export.json` has it."""
        return (json.dumps({"format": _FORMAT, **asdict(self)}, indent=2, ensure_ascii=False) + "\n").encode()


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
