"""Reading and copying a tokenizer's files, and saying what a file is that is not one."""

from __future__ import annotations

import importlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from zoo_core._atomic import written_beside
from zoo_core.errors import TokenizerError

__all__ = ["copy_files", "foreign", "library", "read_json", "required_file", "write_json"]

_HEAD = 4096
_CONFIG_KEYS = frozenset({"architectures", "model_type", "hidden_size", "num_hidden_layers", "tokenizer_class"})


def required_file(path: Path, kind: str) -> Path:
    """Return `path` if it is a file.

    Raises:
        TokenizerError: it is not; `kind` says what was expected there.
    """
    if not path.is_file():
        raise TokenizerError(
            f"no {kind} at {path}",
            "there is a folder of this name" if path.is_dir() else "no such file",
            f"put the family's {path.name} there, or give another path; "
            "`zoo tokenizer train` makes one for trying things out",
        )
    return path


def library(module: str, path: Path) -> Any:
    """Import the package that reads `path`.

    Raises:
        TokenizerError: it is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise TokenizerError(
            f"cannot read {path}", f"the package {module} is not installed ({error})", f"pip install {module}"
        ) from error


def foreign(path: Path, expected: str, found: str) -> TokenizerError:
    """Return the error for a file that is not what its name says.

    A failed download leaves recognisable things under a tokenizer's name: a git-lfs pointer, a web page, nothing. They
    are named; for anything else `found`, the reader's own complaint, is the reason.

    Args:
        expected: what the file should be, with its article: "sentencepiece model".
    """
    with path.open("rb") as stream:
        head = stream.read(_HEAD)
    start = head.lstrip().lower()
    again = f"fetch {path.name} again; a {expected} is expected"
    if head.startswith(b"version https://git-lfs"):
        why = "it is a git-lfs pointer, a few lines that stand for the file itself"
        todo = f"run `git lfs pull` in its folder, or fetch {path.name} itself"
    elif not start:
        why, todo = f"it is empty ({path.stat().st_size} bytes)", again
    elif start.startswith((b"<!doctype", b"<html", b"<?xml")):
        why, todo = "it is a web page, as a refused download or a viewer's link leaves", again
    elif head.startswith((b"PK\x03\x04", b"\x1f\x8b")):
        why, todo = "it is a compressed archive", f"unpack it; a {expected} is expected"
    elif start.startswith(b"{") and (keys := _CONFIG_KEYS & _keys(path)):
        why = f"it is a configuration (it has {', '.join(sorted(keys))})"
        todo = f"a {expected} is expected; put the model's own {path.name} there"
    else:
        why, todo = found, f"a {expected} is expected: the family's own {path.name}"
    return TokenizerError(f"{path} is no {expected}", why, todo)


def _keys(path: Path) -> set[str]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        return set()
    return set(content) if isinstance(content, dict) else set()


def read_json(path: Path, expected: str) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        TokenizerError: not readable, no JSON, or another value than an object; says what the file is instead.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise TokenizerError(f"cannot read {path}", str(error), "make it readable") from error
    except ValueError as error:
        raise foreign(path, expected, f"it is no JSON: {error}") from error
    if not isinstance(content, dict):
        raise foreign(path, expected, f"it is no JSON object but a {type(content).__name__}")
    return content


def write_json(path: Path, content: Mapping[str, Any]) -> Path:
    """Write a JSON object, whole or not at all.

    Raises:
        TokenizerError: it cannot be written.
    """
    try:
        with written_beside(path) as stream:
            stream.write((json.dumps(content, ensure_ascii=False, indent=1) + "\n").encode("utf-8"))
    except OSError as error:
        raise TokenizerError(f"cannot write {path}", str(error), "free space or choose a folder") from error
    return path


def copy_files(files: Mapping[str, Path], folder: Path) -> list[Path]:
    """Copy files into `folder` under the given names, each whole or not at all; one already in place is left alone.

    Raises:
        TokenizerError: a file cannot be read or written.
    """
    copied = []
    for name, file in files.items():
        target = folder / name
        try:
            if not (target.exists() and target.samefile(file)):
                content = file.read_bytes()
                with written_beside(target) as stream:
                    stream.write(content)
        except OSError as error:
            raise TokenizerError(
                f"cannot copy {file} to {target}", str(error), "free space or choose a folder"
            ) from error
        copied.append(target)
    return copied
