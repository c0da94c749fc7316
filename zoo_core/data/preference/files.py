"""Which files of preference pairs a path means."""

from __future__ import annotations

from pathlib import Path

from zoo_core.errors import DataError

__all__ = ["find_pair_files"]

_ENDINGS = (".json", ".jsonl")


def find_pair_files(named: str, argument: str) -> tuple[Path, ...]:
    """Return the file, or the JSON files in the folder sorted by name.

    Args:
        named: the path.
        argument: where it comes from, for messages.

    Raises:
        DataError: there is no such file, or nothing in the folder.
    """
    path = Path(named).expanduser()
    if path.is_file():
        return (path,)
    if not path.is_dir():
        raise DataError(f"no data at {named}", "no such file or folder; zoo downloads nothing", f"correct {argument}")
    found = tuple(sorted(file for file in path.iterdir() if file.suffix in _ENDINGS and file.is_file()))
    if not found:
        raise DataError(f"no data in {named}", "it has no .json or .jsonl file", f"correct {argument}")
    return found
