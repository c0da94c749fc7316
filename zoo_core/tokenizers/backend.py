"""What the kinds on top of the `tokenizers` library share: `tokenizer.json`, and `vocab.json` with `merges.txt`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import tokenizers

from zoo_core.errors import TokenizerError
from zoo_core.tokenizers.base import REPLACEMENT, Message, PaddingSide, decode_runs, sound_text
from zoo_core.tokenizers.chat import ChatWriter, no_chat
from zoo_core.tokenizers.files import read_json
from zoo_core.tokenizers.template import TEMPLATE_FILE, ChatTemplate, read_template, token_text

__all__ = ["BESIDE", "LibraryTokenizer", "padding_side_of", "read_beside"]

BESIDE = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", TEMPLATE_FILE)
"""The small files beside a tokenizer that are saved with it."""

_ROLES = ("bos_token", "eos_token", "pad_token")


def read_beside(path: Path) -> tuple[tuple[Path, ...], dict[str, Any]]:
    """Return the files of `BESIDE` next to `path`, and what `tokenizer_config.json`, else the special map, says.

    Raises:
        TokenizerError: one of them is no JSON object.
    """
    files = tuple(path.with_name(name) for name in BESIDE if path.with_name(name).is_file())
    config: dict[str, Any] = {}
    for name in ("special_tokens_map.json", "tokenizer_config.json"):
        if path.with_name(name) in files:
            content = read_json(path.with_name(name), "JSON object")
            config.update({key: value for key, value in content.items() if value is not None})
    return files, config


def padding_side_of(config: Mapping[str, Any], default: PaddingSide, path: Path) -> PaddingSide:
    """Return the `padding_side` of a tokenizer's config, else the family's.

    Raises:
        TokenizerError: the config has another value than "left" or "right".
    """
    side = config.get("padding_side", default)
    if side == "left" or side == "right":
        return "left" if side == "left" else "right"
    raise TokenizerError(
        f"{path.with_name('tokenizer_config.json')} has a wrong padding_side",
        f"it is {side!r}",
        "make it 'left' or 'right'",
    )


class LibraryTokenizer(ABC):
    """A `tokenizers.Tokenizer` with its roles; subclasses say where it comes from and how it is saved.

    Args:
        tokenizer: the library's own, with its added tokens.
        path: its main file.
        config: the merged contents of the files beside it.
        files: its files, `path` first.
        padding_side: the family's, where the config names none.
        add_bos: whether `add_special_tokens` puts bos first; None leaves that side to the file's post-processor.
        add_eos: likewise for eos at the end.
        chat_format: how the family writes conversations, where the files bring no template.

    Raises:
        TokenizerError: the config names a bos, eos or pad that the vocabulary lacks.
    """

    def __init__(
        self,
        tokenizer: tokenizers.Tokenizer,
        path: Path,
        config: Mapping[str, Any],
        files: tuple[Path, ...],
        padding_side: PaddingSide,
        add_bos: bool | None,
        add_eos: bool | None,
        chat_format: ChatWriter | None,
    ) -> None:
        self._tokenizer, self._path, self._config = tokenizer, path, dict(config)
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self.files: tuple[Path, ...] = files
        self.vocab_size: int = max(tokenizer.get_vocab(with_added_tokens=True).values(), default=-1) + 1
        self.bos_id, self.eos_id, self.pad_id = (self._role(name) for name in _ROLES)
        self.padding_side: PaddingSide = padding_side_of(config, padding_side, path)
        self._template_source = read_template(path.parent, config)
        self._template: ChatTemplate | None = None
        self._chat_format = chat_format
        added = tokenizer.get_added_tokens_decoder().values()
        self._special = tuple(token.content for token in added if token.special)
        self._set_ends(add_bos, add_eos)

    def _role(self, name: str) -> int | None:
        text = token_text(self._config.get(name))
        if text is None:
            return None
        token = self._tokenizer.token_to_id(text)
        if token is None:
            raise TokenizerError(
                f"{self._path} has no {name} {text!r}",
                "a file beside it names one",
                "use the files of one model",
            )
        return int(token)

    def _set_ends(self, add_bos: bool | None, add_eos: bool | None) -> None:
        """Make a post-processor where it was decided what it adds; `tokenizer.json` often has one that adds nothing."""
        self._ends: tuple[list[int], list[int]] | None = None
        if add_bos is None and add_eos is None:
            return
        own = list(self._tokenizer.encode("", add_special_tokens=True).ids)
        first = own[:1] == [self.bos_id] if add_bos is None else add_bos
        last = own[-1:] == [self.eos_id] and len(own) > first if add_eos is None else add_eos
        self._ends = (
            [self.bos_id] if first and self.bos_id is not None else [],
            [self.eos_id] if last and self.eos_id is not None else [],
        )

    def encode(self, text: str, add_special_tokens: bool = False, *, parse_special: bool = True) -> list[int]:
        """Return the ids of `text`; `add_special_tokens` adds what config and post-processor say."""
        self._tokenizer.encode_special_tokens = not parse_special
        whole = add_special_tokens and self._ends is None
        ids = list(self._tokenizer.encode(sound_text(text), add_special_tokens=whole).ids)
        if add_special_tokens and self._ends is not None:
            ids = [*self._ends[0], *ids, *self._ends[1]]
        return ids

    def encode_batch(self, texts: Sequence[str], *, parse_special: bool = True) -> list[list[int]]:
        """Return the ids of each text, without added tokens; uses every core unless TOKENIZERS_PARALLELISM=false."""
        self._tokenizer.encode_special_tokens = not parse_special
        sound = [sound_text(text) for text in texts]
        return [found.ids for found in self._tokenizer.encode_batch_fast(sound, add_special_tokens=False)]

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
        return text if text and REPLACEMENT not in text else str(spelling)

    def token_id(self, token: str) -> int | None:
        """Return the id of `token` as the vocabulary spells it, added tokens included."""
        found = self._tokenizer.token_to_id(token)
        return None if found is None else int(found)

    def chat(self, messages: Sequence[Message]) -> list[int]:
        """Return the ids of a conversation, by the files' chat template, else by the family's format.

        The ids are those of transformers' `apply_chat_template` with `sanitize_control_tokens`, which is not its
        default: the special tokens that the template spells become ids, one that a message spells stays plain text. An
        added token that is not special (Qwen3's `<think>`) becomes its id wherever it stands.

        Raises:
            TokenizerError: no format is known, the messages are none, the template refuses them, jinja2 is missing.
        """
        if self._template_source is None:
            if self._chat_format is None:
                raise no_chat(self)
            return self._chat_format(self, messages)
        if self._template is None:
            self._template = ChatTemplate(self._template_source, self._path, self._config, self._special)
        (first, spelt), *rest = self._template.render(messages) or [("", False)]
        ids = self.encode(first, parse_special=not spelt)
        for piece, spelt in rest:
            ids += self._within(piece, parse_special=not spelt)
        return ids

    def use_template(self, source: str, path: Path) -> None:
        """Write conversations by another template from now on; `save` does not keep it.

        Args:
            source: Jinja.
            path: where it is from, for messages.

        Raises:
            TokenizerError: jinja2 is missing, or the template has an error.
        """
        self._template = ChatTemplate(source, path, self._config, self._special)
        self._template_source = source

    def _within(self, piece: str, parse_special: bool) -> list[int]:
        """Encode a piece that is not the beginning of a text: behind a line break, which keeps a space from it."""
        before = self.encode("\n")
        ids = self.encode("\n" + piece, parse_special=parse_special)
        separate = ids[: len(before)] == before
        return ids[len(before) :] if separate else self.encode(piece, parse_special=parse_special)

    @abstractmethod
    def save(self, folder: Path) -> list[Path]:
        """Copy the tokenizer's files into `folder`."""
