"""Find out which kind of tokenizer a path holds, where no plugin says so."""

from __future__ import annotations

import re
from pathlib import Path

from zoo_core.errors import TokenizerError
from zoo_core.tokenizers.base import PaddingSide
from zoo_core.tokenizers.bpe_files import MERGES, VOCABULARY, BPEFilesTokenizer
from zoo_core.tokenizers.bpe_ranks import SIDECAR, TiktokenTokenizer
from zoo_core.tokenizers.chat import ChatWriter
from zoo_core.tokenizers.files import foreign
from zoo_core.tokenizers.hf import HFTokenizer
from zoo_core.tokenizers.spm import SentencePieceTokenizer

__all__ = ["AnyTokenizer", "is_tiktoken", "load_tokenizer"]

AnyTokenizer = HFTokenizer | BPEFilesTokenizer | SentencePieceTokenizer | TiktokenTokenizer

_RANK_LINE = re.compile(rb"[A-Za-z0-9+/]+={0,2} \d+\r?\n")


def is_tiktoken(path: Path) -> bool:
    """Say whether the file begins like a tiktoken rank file; a sentencepiece model, which is binary, does not."""
    with path.open("rb") as stream:
        return _RANK_LINE.match(stream.read(4096)) is not None


def load_tokenizer(
    path: Path,
    padding_side: PaddingSide | None = None,
    chat_format: ChatWriter | None = None,
    *,
    bos: str | None = None,
    eos: str | None = None,
    pad: str | None = None,
    add_bos: bool | None = None,
) -> AnyTokenizer:
    """Load the tokenizer of a folder or a file.

    In a folder `tokenizer.json` comes first, then a saved `tiktoken_config.json`, then `tokenizer.model`, then
    `vocab.json` with `merges.txt`, then the only other `*.model`, then `*.tiktoken`.

    Args:
        padding_side: the family's, where the files name none; None is "right", as transformers has it.
        chat_format: how the family writes conversations, where the files bring no template.
        bos, eos, pad, add_bos: the family's, for a `tokenizer.json` that no file beside tells of them.

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
    side = padding_side or "right"
    if file.name == SIDECAR:
        return TiktokenTokenizer.from_sidecar(file, padding_side, chat_format)
    if file.name in (VOCABULARY, MERGES):
        return BPEFilesTokenizer(file.with_name(VOCABULARY), padding_side=side, chat_format=chat_format)
    if file.suffix == ".json":
        return HFTokenizer(file, side, chat_format, bos=bos, eos=eos, pad=pad, add_bos=add_bos)
    if file.suffix == ".tiktoken" or is_tiktoken(file):
        beside = file.with_name(SIDECAR)
        if beside.is_file():
            return TiktokenTokenizer.from_sidecar(beside, padding_side, chat_format)
        if not is_tiktoken(file):
            raise foreign(file, "tiktoken rank file", "its first line is not 'base64 rank'")
        raise TokenizerError(
            f"{file} does not say how to use it",
            "a tiktoken rank file has no pattern and no special tokens; the family's plugin knows them",
            "name the model too (--model NAME), or give a folder that zoo saved",
        )
    return SentencePieceTokenizer(file, padding_side=side, chat_format=chat_format)


def _choose(folder: Path) -> Path:
    for name in ("tokenizer.json", SIDECAR, "tokenizer.model", VOCABULARY, MERGES):
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
        "expected tokenizer.json, tokenizer.model, vocab.json with merges.txt, or a *.tiktoken file",
        f"put the family's files there, or try `zoo tokenizer train --output {folder}`",
    )
