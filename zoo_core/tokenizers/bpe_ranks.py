"""tiktoken rank files: `qwen.tiktoken`, and the `tokenizer.model` of Llama 3 that is one under another name."""

from __future__ import annotations

import base64
import binascii
import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from zoo_core.errors import TokenizerError
from zoo_core.tokenizers.base import Message, PaddingSide, decode_runs
from zoo_core.tokenizers.chat import ChatWriter, no_chat
from zoo_core.tokenizers.files import copy_files, foreign, library, read_json, required_file, write_json

__all__ = ["SIDECAR", "TiktokenTokenizer", "read_ranks"]

SIDECAR = "tiktoken_config.json"


def read_ranks(path: Path) -> dict[bytes, int]:
    """Read a rank file: a line for each token, its bytes in base64 and its rank.

    Raises:
        TokenizerError: missing, or a line is not of this form, names a rank twice, or a single byte has no rank; the
            line is named.
    """
    ranks: dict[bytes, int] = {}
    taken: set[int] = set()
    for number, line in enumerate(required_file(path, "tiktoken rank file").read_bytes().splitlines(), start=1):
        if not line:
            continue
        try:
            encoded, rank_text = line.split()
            token, rank = base64.b64decode(encoded, validate=True), int(rank_text)
        except (ValueError, binascii.Error) as error:
            raise foreign(path, "tiktoken rank file", f"line {number} is not 'base64 rank': {line[:40]!r}") from error
        if token in ranks or rank in taken:
            why = f"line {number} repeats a token or the rank {rank}"
            raise TokenizerError(f"{path} is corrupt", why, "fetch it anew")
        ranks[token] = rank
        taken.add(rank)
    if not ranks:
        raise foreign(path, "tiktoken rank file", "it has no ranks")
    missing = [value for value in range(256) if bytes([value]) not in ranks]
    if missing:
        raise TokenizerError(
            f"{path} is truncated or no byte-level rank file",
            f"{len(missing)} of the 256 single bytes have no rank, the first is 0x{missing[0]:02x}",
            "fetch it anew",
        )
    if taken != set(range(len(ranks))):
        raise TokenizerError(
            f"{path} is truncated or corrupt", f"{len(ranks)} tokens, but ranks up to {max(taken)}", "fetch it anew"
        )
    return ranks


class TiktokenTokenizer:
    """A tiktoken rank file with the pattern and the special tokens that its family defines in code.

    Args:
        path: the rank file.
        pattern: the family's pre-tokenization regex.
        special_tokens: text -> id of every special token.
        bos, eos, pad: the text of those special tokens, None where the family has none.
        add_bos: whether `add_special_tokens` puts bos first (Llama 3 does, Qwen has none).
        normalization: the Unicode form that text is brought to first ("NFC" for Qwen v1), None for none.
        padding_side: the family's.
        chat_format: how the family writes conversations.

    Raises:
        TokenizerError: the file is missing or corrupt, a special token takes the id of a rank, or the package tiktoken
            is missing.
    """

    def __init__(
        self,
        path: Path,
        pattern: str,
        special_tokens: Mapping[str, int],
        bos: str | None = None,
        eos: str | None = None,
        pad: str | None = None,
        add_bos: bool = False,
        normalization: Literal["NFC", "NFD", "NFKC", "NFKD"] | None = None,
        padding_side: PaddingSide = "right",
        chat_format: ChatWriter | None = None,
    ) -> None:
        self._path = Path(path)
        ranks = read_ranks(self._path)
        for text, token in special_tokens.items():
            if token < len(ranks):
                raise TokenizerError(
                    f"{self._path} does not fit the family's special tokens",
                    f"{text!r} has the id {token}, but the file has {len(ranks)} ranks",
                    "give the rank file of this family",
                )
        self._special = dict(special_tokens)
        self._special_ids = {token: text for text, token in self._special.items()}
        self._roles = {"bos": bos, "eos": eos, "pad": pad}
        self._pattern = pattern
        self._encoding = library("tiktoken", self._path).Encoding(
            name=self._path.name, pat_str=pattern, mergeable_ranks=ranks, special_tokens=self._special
        )
        self._ranks = len(ranks)
        self.vocab_size: int = max(len(ranks) - 1, *self._special_ids) + 1 if self._special else len(ranks)
        self.bos_id, self.eos_id, self.pad_id = (self._role(name) for name in ("bos", "eos", "pad"))
        self.add_bos = add_bos
        self._normalization = normalization
        self.padding_side: PaddingSide = padding_side
        self._chat_format = chat_format
        self.files: tuple[Path, ...] = (self._path,)

    def _role(self, name: str) -> int | None:
        text = self._roles[name]
        if text is None:
            return None
        if text not in self._special:
            raise TokenizerError(f"the {name} token {text!r} is none of the special tokens", "", "add it with its id")
        return self._special[text]

    def encode(self, text: str, add_special_tokens: bool = False, *, parse_special: bool = True) -> list[int]:
        """Return the ids of `text`; `parse_special` turns special tokens spelt out in it into their ids.

        Raises:
            TokenizerError: the text has about a million spaces or letters in a row, which is too much for tiktoken.
        """
        if self._normalization is not None:
            text = unicodedata.normalize(self._normalization, text)
        # Not encode_ordinary, which panics where this raises.
        allowed = set(self._special) if parse_special else set()
        try:
            ids: list[int] = self._encoding.encode(text, allowed_special=allowed, disallowed_special=())
        except ValueError as error:
            raise TokenizerError(
                f"tiktoken cannot read a text of {len(text)} characters", str(error), "divide it"
            ) from error
        return [self.bos_id, *ids] if add_special_tokens and self.add_bos and self.bos_id is not None else ids

    def _is_known(self, token: int) -> bool:
        return 0 <= token < self._ranks or token in self._special_ids

    def decode(self, ids: Sequence[int], skip_special_tokens: bool = False) -> str:
        """Return the text of `ids`; bytes that make no character, and ids nobody defined, give U+FFFD."""
        kept = (token for token in ids if not (skip_special_tokens and int(token) in self._special_ids))
        return decode_runs(kept, self._is_known, lambda run: str(self._encoding.decode(run, errors="replace")))

    def pieces(self, ids: Sequence[int]) -> list[str]:
        """Return each id's own text, and bytes that are no whole character as `\\xe4`."""
        return [
            self._encoding.decode_single_token_bytes(int(token)).decode("utf-8", "backslashreplace")
            if self._is_known(int(token))
            else "?"
            for token in ids
        ]

    def token_id(self, token: str) -> int | None:
        """Return the id of the special token `token`, else of the rank with its bytes."""
        if token in self._special:
            return self._special[token]
        try:
            return int(self._encoding.encode_single_token(token))
        except KeyError:
            return None

    def chat(self, messages: Sequence[Message]) -> list[int]:
        """Return the ids of a conversation, by the family's format.

        Raises:
            TokenizerError: the family gave none, or it does not know such a conversation.
        """
        if self._chat_format is None:
            raise no_chat(self)
        return self._chat_format(self, messages)

    def save(self, folder: Path) -> list[Path]:
        """Copy the rank file, and write `tiktoken_config.json` beside it: what the rank file itself does not say.

        How conversations are written is the family's code, so it is in no file.
        """
        copied = copy_files({self._path.name: self._path}, Path(folder))
        content = {
            "rank_file": self._path.name,
            "pattern": self._pattern,
            "special_tokens": self._special,
            "add_bos": self.add_bos,
            "normalization": self._normalization,
            "padding_side": self.padding_side,
            **self._roles,
        }
        return [*copied, write_json(Path(folder) / SIDECAR, content)]

    @classmethod
    def from_sidecar(
        cls, path: Path, padding_side: PaddingSide | None = None, chat_format: ChatWriter | None = None
    ) -> TiktokenTokenizer:
        """Load what `save` wrote, without the plugin.

        Args:
            padding_side: the side for sidecars of before it was written into them.

        Raises:
            TokenizerError: the sidecar is missing, is not of this form, or its rank file is missing or corrupt.
        """
        content = read_json(required_file(path, "tiktoken sidecar"), "tiktoken sidecar")
        try:
            return cls(
                path.with_name(content["rank_file"]),
                content["pattern"],
                content["special_tokens"],
                bos=content["bos"],
                eos=content["eos"],
                pad=content["pad"],
                add_bos=content["add_bos"],
                normalization=content["normalization"],
                padding_side=content.get("padding_side", padding_side or "right"),
                chat_format=chat_format,
            )
        except (ValueError, KeyError, TypeError) as error:
            raise foreign(path, "tiktoken sidecar", f"it is corrupt ({type(error).__name__}: {error})") from error
