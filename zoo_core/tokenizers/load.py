"""Find out which kind of tokenizer a path holds, where no plugin says so."""

from __future__ import annotations

import re
from pathlib import Path

from zoo_core.errors import TokenizerError
from zoo_core.tokenizers.base import Tokenizer
from zoo_core.tokenizers.bpe_ranks import SIDECAR, TiktokenTokenizer
from zoo_core.tokenizers.hf import HFTokenizer
from zoo_core.tokenizers.spm import SentencePieceTokenizer

__all__ = ["is_tiktoken", "load_tokenizer"]

_RANK_LINE = re.compile(rb"[A-Za-z0-9+/]+={0,2} \d+\r?\n")


def is_tiktoken(path: Path) -> bool:
    """Say whether the file begins like a tiktoken rank file; a sentencepiece model, which is binary, does not."""
    with path.open("rb") as stream:
        return _RANK_LINE.match(stream.read(4096)) is not None


def load_tokenizer(path: Path) -> Tokenizer:
    """Load the tokenizer of a folder or a file.

    In a folder `tokenizer.json` comes first, then a saved `tiktoken_config.json`, then `tokenizer.model` or the only
    other `*.model`, then `*.tiktoken`.

    Raises:
        TokenizerError: nothing there is a tokenizer, the file is corrupt, or it is a bare rank file, whose pattern and
            special tokens only the family's plugin knows.
    """
    path = Path(path)
    file = _choose(path) if path.is_dir() else path
    if not file.is_file():
        raise TokenizerError(
            f"no tokenizer at {path}",
            "no such file or folder",
            "give a tokenizer.json, a tokenizer.model or their folder",
        )
    if file.name == SIDECAR:
        return TiktokenTokenizer.from_sidecar(file)
    if file.suffix == ".json":
        return HFTokenizer(file)
    if file.suffix == ".tiktoken" or is_tiktoken(file):
        beside = file.with_name(SIDECAR)
        if beside.is_file():
            return TiktokenTokenizer.from_sidecar(beside)
        raise TokenizerError(
            f"{file} does not say how to use it",
            "a tiktoken rank file has no pattern and no special tokens; the family's plugin knows them",
            "name the model too (--model NAME), or give a folder that zoo saved",
        )
    return SentencePieceTokenizer(file)


def _choose(folder: Path) -> Path:
    for name in ("tokenizer.json", SIDECAR, "tokenizer.model"):
        if (folder / name).is_file():
            return folder / name
    for suffix in ("*.model", "*.tiktoken"):
        found = sorted(folder.glob(suffix))
        if len(found) == 1:
            return found[0]
        if found:
            names = ", ".join(file.name for file in found)
            raise TokenizerError(f"{folder} has more than one tokenizer", names, "name the file")
    raise TokenizerError(
        f"no tokenizer in {folder}",
        "expected tokenizer.json, tokenizer.model or a *.tiktoken file",
        f"put the family's files there, or try `zoo tokenizer train --output {folder}`",
    )
