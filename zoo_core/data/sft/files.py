"""Which files of a fine-tuning data set are trained on and which are evaluated."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from zoo_core.errors import DataError

__all__ = ["SAMPLE", "TuningFiles", "find_tuning_files"]

SAMPLE = "sample"
"""The name of the data that zoo brings along, to try fine-tuning with."""

_ENDINGS = (".json", ".jsonl")
_BUNDLED = Path(__file__).parent / "sample"
_WANTED = "train.json and dev.json (or .jsonl), with one JSON object a line"


@dataclass(frozen=True)
class TuningFiles:
    """The files of each part, sorted by name; a part that there is not has none."""

    train: tuple[Path, ...]
    dev: tuple[Path, ...]
    test: tuple[Path, ...] = ()


def find_tuning_files(dataset: str, task_name: str | None = None) -> TuningFiles:
    """Return the files of the data set `dataset`.

    As in PaddleNLP it is a folder with `train.json` and `dev.json`, or with folders `train` and `dev` of such files;
    `.jsonl` does as well. A file is the training part. "sample" is what zoo brings along, unless there is a folder of
    this name.

    Args:
        task_name: a folder within the folder.

    Raises:
        DataError: there is no such folder or file, or nothing to train on or evaluate in it.
    """
    path = Path(dataset).expanduser()
    if dataset == SAMPLE and not path.exists():
        path = _BUNDLED
    if path.is_file():
        if task_name:
            raise DataError(
                f"task_name {task_name} of the file {path}", "it names a folder in a folder of data", "leave it out"
            )
        return TuningFiles((path,), ())
    if not path.is_dir():
        why = "no such folder or file; zoo downloads nothing"
        raise DataError(f"no data at {dataset}", why, f"give a folder with {_WANTED}, or `{SAMPLE}` to try zoo")
    folder = path / task_name if task_name else path
    if not folder.is_dir():
        there = ", ".join(sorted(child.name for child in path.iterdir() if child.is_dir())) or "none"
        raise DataError(f"no task {task_name} in {path}", f"its folders: {there}", "correct task_name")
    found = TuningFiles(_part(folder, "train"), _part(folder, "dev"), _part(folder, "test"))
    if not found.train and not found.dev:
        names = sorted(child.name for child in folder.iterdir())
        there = f"it has {', '.join(names[:8])}{' ...' if len(names) > 8 else ''}" if names else "it is empty"
        inside = [name for name in names if (folder / name).is_dir() and _part(folder / name, "train")]
        more = f"; or --task_name {inside[0]}" if inside else ""
        raise DataError(f"no data in {folder}", there, f"put {_WANTED} there{more}")
    return found


def _part(folder: Path, name: str) -> tuple[Path, ...]:
    for ending in _ENDINGS:
        if (folder / f"{name}{ending}").is_file():
            return (folder / f"{name}{ending}",)
    if (folder / name).is_dir():
        return tuple(sorted(file for file in (folder / name).iterdir() if file.suffix in _ENDINGS and file.is_file()))
    return ()
