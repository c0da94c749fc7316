"""sentencepiece models: `tokenizer.model` of Llama 1 and 2, Baichuan, ChatGLM and others."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

from zoo_core.tokenizers.backend import padding_side_of, read_beside
from zoo_core.tokenizers.base import Message, PaddingSide, decode_runs, sound_text
from zoo_core.tokenizers.chat import ChatWriter, no_chat
from zoo_core.tokenizers.files import copy_files, foreign, library, required_file
from zoo_core.tokenizers.template import ChatTemplate, read_template, token_text

__all__ = ["SentencePieceTokenizer"]


class SentencePieceTokenizer:
    """A sentencepiece model; bos, eos and pad ids are the model's own.

    A pad token that only `tokenizer_config.json` names is taken from there, if it is a piece of the model.

    Args:
        path: the model file.
        add_bos: whether `add_special_tokens` puts bos first; None reads `add_bos_token` of a `tokenizer_config.json`
            beside the model, and takes True without one, as Llama does.
        add_eos: likewise for eos at the end; False without a config.
        padding_side: the family's, where the config names none.
        chat_format: how the family writes conversations, where no chat template is beside the model.

    Raises:
        TokenizerError: the file is missing, is no sentencepiece model, or the package sentencepiece is missing.
    """

    def __init__(
        self,
        path: Path,
        add_bos: bool | None = None,
        add_eos: bool | None = None,
        padding_side: PaddingSide = "right",
        chat_format: ChatWriter | None = None,
    ) -> None:
        self._path = required_file(Path(path), "sentencepiece model")
        self._model = library("sentencepiece", self._path).SentencePieceProcessor()
        try:
            self._model.LoadFromSerializedProto(self._path.read_bytes())
        except (RuntimeError, OSError) as error:
            raise foreign(self._path, "sentencepiece model", str(error)) from error
        beside, config = read_beside(self._path)
        self.files: tuple[Path, ...] = (self._path, *beside)
        self.vocab_size: int = self._model.vocab_size()
        self.bos_id = self._given(self._model.bos_id())
        self.eos_id = self._given(self._model.eos_id())
        self.pad_id = self._given(self._model.pad_id())
        pad = token_text(config.get("pad_token"))
        if self.pad_id is None and pad is not None:
            self.pad_id = self.token_id(pad)
        self.add_bos = bool(config.get("add_bos_token", True)) if add_bos is None else add_bos
        self.add_eos = bool(config.get("add_eos_token", False)) if add_eos is None else add_eos
        self.padding_side: PaddingSide = padding_side_of(config, padding_side, self._path)
        self._config = config
        self._template_source = read_template(self._path.parent, config)
        self._template: ChatTemplate | None = None
        self._chat_format = chat_format

    @staticmethod
    def _given(token: int) -> int | None:
        return None if token < 0 else token

    def _is_control(self, token: int) -> bool:
        return bool(self._model.IsControl(token))

    def encode(self, text: str, add_special_tokens: bool = False, *, parse_special: bool = True) -> list[int]:
        """Return the ids of `text`; special tokens spelt out in it stay text, as sentencepiece has it."""
        ids: list[int] = self._model.encode(sound_text(text), out_type=int)
        if add_special_tokens and self.add_bos and self.bos_id is not None:
            ids = [self.bos_id, *ids]
        if add_special_tokens and self.add_eos and self.eos_id is not None:
            ids = [*ids, self.eos_id]
        return ids

    def _decode_known(self, ids: list[int], skip_special_tokens: bool) -> str:
        text = []
        for control, run in groupby(ids, self._is_control):
            if not control:
                text.append(self._model.decode(list(run)))
            elif not skip_special_tokens:
                text.extend(self._model.id_to_piece(list(run)))
        return "".join(text)

    def decode(self, ids: Sequence[int], skip_special_tokens: bool = False) -> str:
        """Return the text of `ids`; bytes that make no character, and ids beyond the vocabulary, give U+FFFD."""
        return decode_runs(
            ids, lambda token: 0 <= token < self.vocab_size, lambda run: self._decode_known(run, skip_special_tokens)
        )

    def pieces(self, ids: Sequence[int]) -> list[str]:
        """Return the piece of each id as the model spells it (`▁` is a space, `<0xE4>` a byte)."""
        return [self._model.id_to_piece(int(token)) if 0 <= token < self.vocab_size else "?" for token in ids]

    def token_id(self, token: str) -> int | None:
        """Return the id of the piece spelt `token`, control pieces included."""
        found = int(self._model.piece_to_id(token))
        return found if self._model.id_to_piece(found) == token else None

    def chat(self, messages: Sequence[Message]) -> list[int]:
        """Return the ids of a conversation, by the files' chat template, else by the family's format.

        In a template's text the control pieces (`<s>`, `</s>`) become ids, and each text between them is encoded alone,
        with sentencepiece's space in front: so do Meta's code, Llama 2's `tokenizer.json` and transformers with
        `legacy`. A control piece that a message spells stays plain text.

        Raises:
            TokenizerError: no format is known, the messages are none, the template refuses them, jinja2 is missing.
        """
        if self._template_source is None:
            if self._chat_format is None:
                raise no_chat(self)
            return self._chat_format(self, messages)
        if self._template is None:
            roles = {"bos_token": self.bos_id, "eos_token": self.eos_id, "pad_token": self.pad_id}
            own = {name: self._model.id_to_piece(token) for name, token in roles.items() if token is not None}
            control = [self._model.id_to_piece(token) for token in range(self.vocab_size) if self._is_control(token)]
            self._template = ChatTemplate(self._template_source, self._path, {**own, **self._config}, control)
            self._control = re.compile("(" + ("|".join(map(re.escape, control)) or "(?!)") + ")")
        text = ""
        ids: list[int] = []
        for piece, spelt in self._template.render(messages):
            # Between two control pieces the text is one, with what a message spelt in its midst.
            parts = [piece] if spelt else self._control.split(piece)
            text += parts[0]
            for control_piece, after in zip(parts[1::2], parts[2::2], strict=True):
                ids += [*self.encode(text), self._model.piece_to_id(control_piece)]
                text = after
        return ids + self.encode(text)

    def save(self, folder: Path) -> list[Path]:
        """Copy the model and its config into `folder`; other names than `*.model` become `tokenizer.model`."""
        name = self._path.name if self._path.suffix == ".model" else "tokenizer.model"
        return copy_files({name: self._path, **{file.name: file for file in self.files[1:]}}, Path(folder))
