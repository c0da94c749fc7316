"""Byte-level BPE from `vocab.json` and `merges.txt`: GPT-2, OPT, and GLM's 10b.

Byte-pair encoding: Sennrich et al. 2016; byte-level: Radford et al. 2019.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import decoders, models, pre_tokenizers

from zoo_core.errors import TokenizerError
from zoo_core.tokenizers.backend import LibraryTokenizer, read_beside
from zoo_core.tokenizers.base import PaddingSide
from zoo_core.tokenizers.chat import ChatWriter
from zoo_core.tokenizers.files import copy_files, foreign, read_json, required_file, write_json
from zoo_core.tokenizers.template import token_text

__all__ = ["MERGES", "VOCABULARY", "BPEFilesTokenizer"]

VOCABULARY, MERGES = "vocab.json", "merges.txt"
_NAMED = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
_NEVER_IN_UTF8 = {0xC0, 0xC1, *range(0xF5, 0x100)}


class BPEFilesTokenizer(LibraryTokenizer):
    """`vocab.json` and `merges.txt`, read as transformers' `GPT2Tokenizer` reads them.

    Added tokens come from `added_tokens_decoder` of `tokenizer_config.json`, else from `added_tokens.json`, with the
    ids they have there; then come bos, eos, unk, pad and the other named and additional special tokens, at the end of
    the vocabulary where it lacks them. What the files beside do not say, the arguments do.

    Args:
        path: the folder of both files, or the vocabulary.
        merges: the merges; None takes `merges.txt` beside the vocabulary.
        bos, eos, unk, pad: the family's special tokens (GPT-2's by default, whose pad is None).
        add_prefix_space: whether a text is read as if a space came first.
        add_bos: whether `add_special_tokens` puts bos first, as OPT has it.
        add_eos: whether it puts eos last.
        padding_side: the family's.
        chat_format: how the family writes conversations, where no chat template is beside the files.

    Raises:
        TokenizerError: a file is missing or foreign, the merges belong to another vocabulary, the vocabulary lacks a
            byte or bos, eos or unk of the arguments, or an added token has the id of another.
    """

    def __init__(
        self,
        path: Path,
        merges: Path | None = None,
        *,
        bos: str | None = "<|endoftext|>",
        eos: str | None = "<|endoftext|>",
        unk: str | None = "<|endoftext|>",
        pad: str | None = None,
        add_prefix_space: bool = False,
        add_bos: bool = False,
        add_eos: bool = False,
        padding_side: PaddingSide = "right",
        chat_format: ChatWriter | None = None,
    ) -> None:
        path = Path(path)
        path = required_file(path / VOCABULARY if path.is_dir() else path, "byte-level BPE vocabulary")
        merges = required_file(path.with_name(MERGES) if merges is None else Path(merges), "list of BPE merges")
        vocabulary = _vocabulary(path)
        pairs = list(_merges(merges, vocabulary, path))
        beside, said = read_beside(path)
        self._defaults = {
            "tokenizer_class": "GPT2Tokenizer",
            **{
                f"{role}_token": text for role, text in (("bos", bos), ("eos", eos), ("unk", unk), ("pad", pad)) if text
            },
            "add_prefix_space": add_prefix_space,
            "add_bos_token": add_bos,
            "add_eos_token": add_eos,
            "padding_side": padding_side,
        }
        for role in ("bos_token", "eos_token", "unk_token"):
            text = self._defaults.get(role)
            if role not in said and text is not None and text not in vocabulary:
                raise TokenizerError(
                    f"{path} has no {role} {text!r}",
                    "no file beside it names another, and this is the family's",
                    "put the tokenizer_config.json or special_tokens_map.json of this vocabulary beside it",
                )
        config = {**self._defaults, **said}
        added = _added(path, said, vocabulary)
        listed = {token.content: token_id for token_id, token in added}
        tokenizer = tokenizers.Tokenizer(models.BPE(vocab={**vocabulary, **listed}, merges=pairs, fuse_unk=False))
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=bool(config["add_prefix_space"]))
        tokenizer.decoder = decoders.ByteLevel()
        tokenizer.add_tokens([token for _, token in added])
        tokenizer.add_special_tokens(list(_special(config)))
        self._merges_path = merges
        super().__init__(
            tokenizer,
            path,
            config,
            (path, merges, *beside),
            padding_side,
            bool(config["add_bos_token"]),
            bool(config["add_eos_token"]),
            chat_format,
        )

    def save(self, folder: Path) -> list[Path]:
        """Copy the files into `folder`; without a `tokenizer_config.json` beside them, write one that says the rest."""
        folder = Path(folder)
        beside = {file.name: file for file in self.files[2:]}
        saved = copy_files({VOCABULARY: self._path, MERGES: self._merges_path, **beside}, folder)
        if "tokenizer_config.json" in beside:
            return saved
        mapped = {key for key in self._defaults if key in _NAMED and self._config[key] != self._defaults[key]}
        content = {key: value for key, value in self._defaults.items() if key not in mapped}
        return [*saved, write_json(folder / "tokenizer_config.json", content)]


def _byte_symbols() -> dict[int, str]:
    """Return the character that stands for each byte: itself if it is printable, else one from U+0100 on."""
    own = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [value for value in range(256) if value not in own]
    return {**{value: chr(value) for value in own}, **{value: chr(0x100 + i) for i, value in enumerate(others)}}


def _vocabulary(path: Path) -> dict[str, int]:
    expected = "byte-level BPE vocabulary"
    content = read_json(path, expected)
    wrong = next((token for token, number in content.items() if type(number) is not int or number < 0), None)
    if wrong is not None:
        raise foreign(path, expected, f"{wrong!r} has {str(content[wrong])[:40]!r}, not an id")
    if len(set(content.values())) < len(content):
        raise foreign(path, expected, "two tokens have the same id")
    symbols = _byte_symbols()
    missing = [value for value in symbols if symbols[value] not in content and value not in _NEVER_IN_UTF8]
    if missing:
        why = f"{len(missing)} of the bytes of UTF-8 have no token, the first is 0x{min(missing):02x}"
        raise foreign(path, expected, why)
    return content


def _merges(path: Path, vocabulary: Mapping[str, int], of: Path) -> Iterator[tuple[str, str]]:
    expected = "list of BPE merges"
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise foreign(path, expected, str(error)) from error
    seen = False
    for number, line in enumerate(lines, start=1):
        line = line.rstrip("\r")
        if not line or (number == 1 and line.startswith("#version")):
            continue
        parts = line.split(" ")
        if len(parts) != 2 or not all(parts):
            raise foreign(path, expected, f"line {number} is not two tokens with a space between: {line[:40]!r}")
        left, right = parts
        unknown = next((token for token in (left, right, left + right) if token not in vocabulary), None)
        if unknown is not None:
            raise TokenizerError(
                f"{path} does not belong to {of}",
                f"line {number} merges {left!r} and {right!r}, and {unknown!r} is not in the vocabulary",
                "take both files from one model",
            )
        seen = True
        yield left, right
    if not seen and len(vocabulary) > 300:
        raise foreign(path, expected, f"it has no merges, but {of.name} has {len(vocabulary)} tokens")


def _token(entry: Mapping[str, Any], special: bool) -> tokenizers.AddedToken:
    flags = {name: bool(entry[name]) for name in ("lstrip", "rstrip", "single_word", "normalized") if name in entry}
    return tokenizers.AddedToken(str(entry["content"]), special=special, **flags)


def _names(config: Mapping[str, Any]) -> Iterator[Any]:
    yield from (config[name] for name in _NAMED if config.get(name) is not None)
    for key in ("additional_special_tokens", "extra_special_tokens"):
        entries = config.get(key) or []
        yield from entries.values() if isinstance(entries, Mapping) else entries


def _special(config: Mapping[str, Any]) -> Iterator[tokenizers.AddedToken]:
    for entry in _names(config):
        text = token_text(entry)
        if text:
            flags = entry if isinstance(entry, Mapping) else {"normalized": False}
            yield _token({**flags, "content": text}, special=True)


def _added(
    path: Path, config: Mapping[str, Any], vocabulary: Mapping[str, int]
) -> list[tuple[int, tokenizers.AddedToken]]:
    """Return the added tokens in the order of their ids.

    Raises:
        TokenizerError: one has no content, or its id is another token's.
    """
    named = {token_text(entry) for entry in _names(config)}
    listed = config.get("added_tokens_decoder")
    file = path.with_name("tokenizer_config.json")
    try:
        if listed is not None:
            found = [(int(number), _token(entry, bool(entry.get("special")))) for number, entry in listed.items()]
        else:
            file = path.with_name("added_tokens.json")
            entries = read_json(file, "JSON object of added tokens") if file.is_file() else {}
            found = [
                (int(number), _token({"content": text, "normalized": text not in named}, text in named))
                for text, number in entries.items()
            ]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise TokenizerError(
            f"cannot read the added tokens of {file}", f"{type(error).__name__}: {error}", "fetch it again"
        ) from error
    taken = {number: token for token, number in vocabulary.items()}
    for number, token in found:
        other = taken.setdefault(number, token.content)
        if other != token.content or vocabulary.get(token.content, number) != number:
            raise TokenizerError(
                f"{file} does not belong to {path}",
                f"it gives {token.content!r} the id {number}, which is {other!r} in the vocabulary"
                if other != token.content
                else f"it gives {token.content!r} the id {number}, in the vocabulary it is {vocabulary[token.content]}",
                "take both files from one model",
            )
    return sorted(found, key=lambda pair: pair[0])
