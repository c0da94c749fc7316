"""What every tokenizer offers, and the few things all kinds share."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from zoo_core._atomic import written_beside
from zoo_core.errors import TokenizerError

__all__ = ["REPLACEMENT", "BatchTokenizer", "Tokenizer", "copy_files", "decode_runs", "library", "required_file"]

REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


@runtime_checkable
class Tokenizer(Protocol):
    """Text to token ids and back.

    `vocab_size` is the highest id plus one, added tokens included; a model's vocabulary may be padded beyond it.
    `bos_id`, `eos_id` and `pad_id` are None where the family has no such token. `files` are what `save` copies.
    """

    vocab_size: int
    bos_id: int | None
    eos_id: int | None
    pad_id: int | None
    files: tuple[Path, ...]

    def encode(self, text: str, add_special_tokens: bool = False, *, parse_special: bool = True) -> list[int]:
        """Return the ids of `text`.

        Args:
            add_special_tokens: add what the family adds by itself (bos for Llama, nothing for Qwen).
            parse_special: a special token spelt out in `text` becomes its id; False reads it as plain text, which is
                what a corpus wants. sentencepiece never parses, so there it has no effect.
        """
        ...

    def decode(self, ids: Sequence[int], skip_special_tokens: bool = False) -> str:
        """Return the text of `ids`; ids that end within a character, or are unknown, give U+FFFD, never an error."""
        ...

    def pieces(self, ids: Sequence[int]) -> list[str]:
        """Return one printable string for each id."""
        ...

    def save(self, folder: Path) -> list[Path]:
        """Copy the tokenizer's files into `folder`, so that `load_tokenizer(folder)` gives this tokenizer again."""
        ...


@runtime_checkable
class BatchTokenizer(Protocol):
    """A tokenizer that is faster on many texts at once."""

    def encode_batch(self, texts: Sequence[str], *, parse_special: bool = True) -> list[list[int]]:
        """Return the ids of each text, as `encode` without added tokens gives them."""
        ...


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


def decode_runs(ids: Iterable[int], is_known: Callable[[int], bool], decode: Callable[[list[int]], str]) -> str:
    """Decode the known stretches of `ids`; each unknown id (a model's padded vocabulary has such) becomes U+FFFD."""
    text = []
    for known, run in groupby((int(token) for token in ids), is_known):
        stretch = list(run)
        text.append(decode(stretch) if known else REPLACEMENT * len(stretch))
    return "".join(text)


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
