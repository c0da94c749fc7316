"""GLM's tokenizers: GPT-2's BPE files (10b), `cog-pretrain.model` (10b-chinese), or `ice_text.model` (130b)."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

from zoo_core.errors import TokenizerError
from zoo_glm.config import GLMConfig

if TYPE_CHECKING:
    from zoo_core.tokenizers import PaddingSide, Tokenizer

__all__ = ["GLMPieceTokenizer", "load"]

_MASKS = ("[MASK]", "[sMASK]", "[gMASK]")
_BEFORE_MASK = r"\s+(?=\[[sg]?MASK\])"  # GLM-10B's masks take it with them, GLM-130B's do not
_END, _START, _PIECE_END, _CLS = "<|endoftext|>", "<|startofpiece|>", "<|endofpiece|>", "[CLS]"
_ICE_IMAGES = 20_000
_ICE_NAMES = ("[MASK]", "[gMASK]", "[sMASK]", "[eod]", "[sop]", "[eop]", "[ENC]", "[dBLOCK]")
_ICE_SPECIAL = {"[pad]": 0, **{text: 150_000 + i for i, text in enumerate(_ICE_NAMES)}}
"""GLM-130B's, which no file holds."""


def load(path: Path | None, config: GLMConfig) -> Tokenizer:
    """Load the tokenizer of a folder, or of one file in it.

    The published files come first: `ice_text.model`, `cog-pretrain.model` with `added_tokens.json`, or `vocab.json`
    with `merges.txt` and the files beside; then whatever zoo reads without a plugin.

    Raises:
        TokenizerError: nothing there is one of these, it is corrupt, or its start and mask tokens have not the ids that
            the model's configuration has; names the file.
    """
    # Here, because listing models imports this file and never needs the libraries behind tokenizers.
    from zoo_core.tokenizers import load_tokenizer
    from zoo_core.tokenizers.files import read_json, required_file

    if path is None:
        raise TokenizerError(
            "no tokenizer for GLM",
            "it is a file of the published model, and no folder was given",
            "give the folder of vocab.json, cog-pretrain.model or ice_text.model with --tokenizer_name_or_path",
        )
    path = Path(path)
    names = ("ice_text.model", "cog-pretrain.model", "vocab.json")
    files = [path / name for name in names if (path / name).is_file()] if path.is_dir() else [path]
    if not files or files[0].name not in names:
        return load_tokenizer(path)
    file, tokenizer = files[0], _bpe(files[0]) if files[0].name == "vocab.json" else None
    if file.name == "ice_text.model":
        tokenizer = GLMPieceTokenizer(file, _ICE_SPECIAL, offset=_ICE_IMAGES)
    elif tokenizer is None:
        added = required_file(file.with_name("added_tokens.json"), "list of GLM's special tokens and their ids")
        tokenizer = GLMPieceTokenizer(file, read_json(added, "JSON object of added tokens"))
    start = "[sop]" if file.name == "ice_text.model" else _START
    ids = [tokenizer.token_id(name) for name in (start, *_MASKS)]
    wanted = [config.start_token_id, *config.mask_token_ids]
    if None in ids or (config.start_token_id is not None and ids != wanted):
        raise TokenizerError(
            f"{file} is not the tokenizer of this model",
            f"{', '.join((start, *_MASKS))} have the ids {ids}, and the model's are {wanted}",
            "give all files of the published model, added_tokens.json and tokenizer_config.json with them",
        )
    return tokenizer


def _bpe(path: Path) -> Tokenizer:
    from zoo_core.tokenizers import BPEFilesTokenizer

    class GLMBPETokenizer(BPEFilesTokenizer):
        """GLM-10B's: GPT-2's, with added tokens; `add_special_tokens` makes a text a prompt (`_prompt`)."""

        def encode(self, text: str, add_special_tokens: bool = False, *, parse_special: bool = True) -> list[int]:
            ids = super().encode(re.sub(_BEFORE_MASK, "", text) if parse_special else text, parse_special=parse_special)
            return _prompt(ids, self) if add_special_tokens else ids

        @property
        def answer_end_id(self) -> int | None:
            return self.token_id(_PIECE_END)

        def prompt(self, text: str) -> list[int]:
            """Return the ids of a text that goes on: its blank, [gMASK], is at the end."""
            return self.encode(f"{text}[gMASK]", add_special_tokens=True)

    return GLMBPETokenizer(path, pad=_END)


def _prompt(ids: list[int], tokenizer: Tokenizer) -> list[int]:
    """[CLS], text and end of text, as the 10b tokenizers add them; and if it has a blank, what begins its text."""
    has_blank = any(tokenizer.token_id(mask) in ids for mask in _MASKS)
    found = [tokenizer.token_id(_CLS), *ids, tokenizer.eos_id, tokenizer.token_id(_START) if has_blank else None]
    return [token for token in found if token is not None]


class GLMPieceTokenizer:
    """GLM-10B-Chinese's and GLM-130B's: a sentencepiece model, and special tokens with ids beyond its pieces.

    Args:
        path: the model.
        special: text -> id of the special tokens.
        offset: added to the model's ids; GLM-130B's first 20,000 ids are images.

    Raises:
        TokenizerError: the model is missing or foreign, or a special token's id is no number or a piece's.
    """

    def __init__(self, path: Path, special: Mapping[str, int], offset: int = 0) -> None:
        from zoo_core.tokenizers import SentencePieceTokenizer

        self._pieces, self._offset = SentencePieceTokenizer(path, add_bos=False, add_eos=False), offset
        self._special, self._names = dict(special), {token: text for text, token in special.items()}
        words = range(offset, offset + self._pieces.vocab_size)
        wrong = {text: token for text, token in special.items() if type(token) is not int or token in words}
        if wrong:
            why = f"its pieces have the ids {words.start} to {words.stop - 1}, and the special tokens {wrong}"
            raise TokenizerError(f"the special tokens do not fit {path}", why, "take the files of one model")
        self.vocab_size = max(words.stop - 1, *self._names, 0) + 1
        self.bos_id: int | None = None
        self.eos_id: int | None = self.token_id(_END) or self.token_id("</s>")
        self.answer_end_id: int | None = self._special.get(_PIECE_END, self._special.get("[eop]"))
        self.pad_id: int | None = self._special.get("[pad]", self._special.get(_END))
        self.padding_side: PaddingSide = "right"
        self.files: tuple[Path, ...] = self._pieces.files
        blanks = "" if "[sop]" in special else f"(?:{_BEFORE_MASK})?"
        self._split = re.compile(blanks + "(" + "|".join(map(re.escape, sorted(special, key=len, reverse=True))) + ")")

    def encode(self, text: str, add_special_tokens: bool = False, *, parse_special: bool = True) -> list[int]:
        """Return the ids of `text`; `add_special_tokens` makes it a prompt.

        GLM-10B-Chinese's is that of `_prompt`. GLM-130B's gets a [gMASK] where it has no blank, an end of text where it
        does not end with one, and sop.
        """
        text, ids = text.replace("\n", "<n>") if "[sop]" in self._special else text, list[int]()
        for part in self._split.split(text) if parse_special else [text]:
            special = self._special.get(part) if parse_special else None
            ids += [token + self._offset for token in self._pieces.encode(part)] if special is None else [special]
        if not add_special_tokens or "[sop]" not in self._special:
            return _prompt(ids, self) if add_special_tokens else ids
        masks = {self._special[mask] for mask in _MASKS}
        ids += [] if masks & set(ids) else [self._special["[gMASK]"]]
        end = [] if ids[-1] in masks or self.eos_id is None else [self.eos_id]
        return [*ids, *end, self._special["[sop]"]]

    def prompt(self, text: str) -> list[int]:
        """Return the ids of a text that goes on: its blank, [gMASK], is at the end."""
        return self.encode(f"{text}[gMASK]", add_special_tokens=True)

    def decode(self, ids: Sequence[int], skip_special_tokens: bool = False) -> str:
        """Return the text of `ids`; bytes that make no character, and ids that are no text, give U+FFFD."""
        text = ""
        for special, run in groupby(map(int, ids), self._names.__contains__):
            if not special:
                own = self._pieces.decode([token - self._offset for token in run], skip_special_tokens)
                text += own.replace("<n>", "\n")
            elif not skip_special_tokens:
                text += "".join(self._names[token] for token in run)
        return text

    def pieces(self, ids: Sequence[int]) -> list[str]:
        """Return each id's piece, or the special token's text."""
        return [self._names.get(int(t)) or self._pieces.pieces([int(t) - self._offset])[0] for t in ids]

    def token_id(self, token: str) -> int | None:
        """Return the id of the special token or the piece spelt `token`."""
        own = self._pieces.token_id(token)
        return self._special.get(token, None if own is None else own + self._offset)

    def save(self, folder: Path) -> list[Path]:
        """Copy the model and the files beside it into `folder`."""
        return self._pieces.save(folder)
