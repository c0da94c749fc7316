"""Hugging Face `tokenizer.json`: Llama 3, Qwen2 and later, DeepSeek, GPT-2, Bloom, and zoo's own."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import tokenizers

from zoo_core.errors import TokenizerError
from zoo_core.tokenizers.base import copy_files, decode_runs, required_file

__all__ = ["HFTokenizer"]

_BESIDE = ("tokenizer_config.json", "special_tokens_map.json")


class HFTokenizer:
    """A `tokenizer.json`; bos, eos and pad come from `tokenizer_config.json`, else from `special_tokens_map.json`.

    Args:
        path: the file, or the folder that has it.

    Raises:
        TokenizerError: a file is missing, is no tokenizer, or names a bos, eos or pad that the vocabulary lacks.
    """

    def __init__(self, path: Path) -> None:
        path = Path(path)
        self._path = required_file(path / "tokenizer.json" if path.is_dir() else path, "Hugging Face tokenizer.json")
        try:
            self._tokenizer = tokenizers.Tokenizer.from_file(str(self._path))
        except Exception as error:  # the binding raises bare Exception
            raise TokenizerError(
                f"{self._path} is no Hugging Face tokenizer", str(error), "a tokenizer.json of `tokenizers` is expected"
            ) from error
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self.vocab_size: int = max(self._tokenizer.get_vocab(with_added_tokens=True).values(), default=-1) + 1
        beside = [self._path.with_name(name) for name in _BESIDE if self._path.with_name(name).is_file()]
        self.files: tuple[Path, ...] = (self._path, *beside)
        self._config: dict[str, Any] = {}
        for file in reversed(beside):
            self._config.update({key: value for key, value in _json(file).items() if value is not None})
        self.bos_id, self.eos_id, self.pad_id = (self._role(name) for name in ("bos_token", "eos_token", "pad_token"))

    def _role(self, name: str) -> int | None:
        text = self._config.get(name)
        if isinstance(text, dict):
            text = text.get("content")
        if text is None:
            return None
        token = self._tokenizer.token_to_id(text)
        if token is None:
            raise TokenizerError(
                f"{self._path} has no {name} {text!r}", "a file beside it names one", "use the files of one model"
            )
        return int(token)

    def encode(self, text: str, add_special_tokens: bool = False, *, parse_special: bool = True) -> list[int]:
        """Return the ids of `text`; `add_special_tokens` runs the file's own post-processor."""
        self._tokenizer.encode_special_tokens = not parse_special
        return list(self._tokenizer.encode(text, add_special_tokens=add_special_tokens).ids)

    def encode_batch(self, texts: Sequence[str], *, parse_special: bool = True) -> list[list[int]]:
        """Return the ids of each text, without added tokens; uses every core unless TOKENIZERS_PARALLELISM=false."""
        self._tokenizer.encode_special_tokens = not parse_special
        return [found.ids for found in self._tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)]

    def _is_known(self, token: int) -> bool:
        return 0 <= token < self.vocab_size and self._tokenizer.id_to_token(token) is not None

    def decode(self, ids: Sequence[int], skip_special_tokens: bool = False) -> str:
        """Return the text of `ids`; bytes that make no character, and ids nobody defined, give U+FFFD."""
        return decode_runs(
            ids,
            self._is_known,
            lambda run: str(self._tokenizer.decode(run, skip_special_tokens=skip_special_tokens)),
        )

    def pieces(self, ids: Sequence[int]) -> list[str]:
        """Return each id's own text, or the vocabulary's spelling where the id is not a whole character."""
        return [self._piece(int(token)) for token in ids]

    def _piece(self, token: int) -> str:
        if not self._is_known(token):
            return "?"
        spelling = self._tokenizer.id_to_token(token)
        text = str(self._tokenizer.decode([token], skip_special_tokens=False))
        return text if text and "\N{REPLACEMENT CHARACTER}" not in text else str(spelling)

    def save(self, folder: Path) -> list[Path]:
        """Copy `tokenizer.json` and the files beside it into `folder`."""
        beside = {file.name: file for file in self.files[1:]}
        return copy_files({"tokenizer.json": self._path, **beside}, Path(folder))


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise TokenizerError(f"{path} is no JSON file", str(error), "repair or remove it") from error
    if not isinstance(content, dict):
        raise TokenizerError(f"{path} is no JSON object", f"it is a {type(content).__name__}", "repair or remove it")
    return content
