"""Hugging Face `tokenizer.json`: Llama 3, Qwen2 and later, DeepSeek, Bloom, and zoo's own."""

from __future__ import annotations

from pathlib import Path

import tokenizers

from zoo_core.tokenizers.backend import LibraryTokenizer, read_beside
from zoo_core.tokenizers.base import PaddingSide
from zoo_core.tokenizers.chat import ChatWriter
from zoo_core.tokenizers.files import copy_files, foreign, required_file

__all__ = ["HFTokenizer"]


class HFTokenizer(LibraryTokenizer):
    """A `tokenizer.json`; bos, eos and pad come from `tokenizer_config.json`, else from `special_tokens_map.json`.

    `add_bos_token` and `add_eos_token` of the config decide what `add_special_tokens` adds; where they are missing, the
    file's own post-processor does.

    Args:
        path: the file, or the folder that has it.
        padding_side: the family's, where the config names none.
        chat_format: how the family writes conversations, where no chat template is beside the file.
        bos, eos, pad: the family's tokens, where no file beside names any and the vocabulary has them.
        add_bos: whether `add_special_tokens` puts bos first, where the config does not say; None leaves that to the
            file's post-processor.

    Raises:
        TokenizerError: a file is missing, is no tokenizer, or a bos, eos or pad is not in the vocabulary.
    """

    def __init__(
        self,
        path: Path,
        padding_side: PaddingSide = "right",
        chat_format: ChatWriter | None = None,
        *,
        bos: str | None = None,
        eos: str | None = None,
        pad: str | None = None,
        add_bos: bool | None = None,
    ) -> None:
        path = Path(path)
        path = required_file(path / "tokenizer.json" if path.is_dir() else path, "Hugging Face tokenizer.json")
        try:
            tokenizer = tokenizers.Tokenizer.from_file(str(path))
        except Exception as error:  # the binding raises bare Exception
            raise foreign(path, "Hugging Face tokenizer", str(error)) from error
        beside, config = read_beside(path)
        given = {"bos_token": bos, "eos_token": eos, "pad_token": pad}
        known = {key: text for key, text in given.items() if text and tokenizer.token_to_id(text) is not None}
        config = {**known, **config}
        super().__init__(
            tokenizer,
            path,
            config,
            (path, *beside),
            padding_side,
            config.get("add_bos_token", add_bos),
            config.get("add_eos_token"),
            chat_format,
        )

    def save(self, folder: Path) -> list[Path]:
        """Copy `tokenizer.json` and the files beside it into `folder`."""
        beside = {file.name: file for file in self.files[1:]}
        return copy_files({"tokenizer.json": self._path, **beside}, Path(folder))
