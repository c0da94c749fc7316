"""ChatGLM's tokenizers: `ice_text.model` for v1, `tokenizer.model` and five tokens after it for ChatGLM2."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

from zoo_chatglm.config import ChatGLMConfig
from zoo_core.errors import TokenizerError

if TYPE_CHECKING:
    from zoo_core.tokenizers import Message, PaddingSide, Tokenizer

__all__ = ["ChatGLMTokenizer", "load"]

_V1_IDS = {"eos": "<eop>", "pad": "<pad>", "bos": "<sop>", "mask": "[MASK]", "gmask": "[gMASK]"}
_V2_IDS = {"eos": "</s>", "pad": "<unk>"}
"""What a configuration calls each special token, and its text."""
_V1_SPECIAL = tuple(_V1_IDS.values())
_V1_SPACE = {"\n": "<n>", "\t": "<|tab|>", **{" " * n: f"<|blank_{n}|>" for n in range(80, 1, -1)}}
"""White space as v1's vocabulary spells it, the longest blanks first."""
_V1_SPELT = re.compile("|".join(rf"(?<={re.escape(text[0])})(?={re.escape(text[1:])})" for text in _V1_SPECIAL))
_V2_SPECIAL = ("[MASK]", "[gMASK]", "[sMASK]", "sop", "eop")
"""The ids after those of the file, which does not hold them."""


def load(path: Path | None, config: ChatGLMConfig | None = None) -> Tokenizer:
    """Load the tokenizer of a folder (or of one file in it).

    `tokenizer.json` comes first, then `ice_text.model`, which is v1's, then `tokenizer.model`, which is ChatGLM2's.

    Raises:
        TokenizerError: nothing there is one of these, it is corrupt, or its special tokens have not the ids that
            `config` has; names the file and the folder.
    """
    # Here, because listing models imports this file and never needs the libraries behind tokenizers.
    from zoo_core.tokenizers import load_tokenizer

    if path is None:
        raise TokenizerError(
            "no tokenizer for ChatGLM",
            "it is a file of the published model, and no folder was given",
            "give the folder of ice_text.model (v1) or tokenizer.model (ChatGLM2) with --tokenizer_name_or_path",
        )
    files = ("tokenizer.json", "ice_text.model", "tokenizer.model") if Path(path).is_dir() else ()
    path = next((file for name in files if (file := Path(path) / name).is_file()), Path(path))
    if path.suffix != ".model":
        return load_tokenizer(path, padding_side="left")
    tokenizer = ChatGLMTokenizer(path, is_v1=path.name == "ice_text.model")
    if config is not None:
        names, other = (_V1_IDS if config.is_v1 else _V2_IDS), tokenizer.is_v1 != config.is_v1
        ids = {text: getattr(config, f"{name}_token_id") for name, text in names.items()}
        wrong = [text for text, own in ids.items() if own is not None and (other or tokenizer.token_id(text) != own)]
        if wrong:
            why = f"{', '.join(wrong)} are not there with the ids of the model's config.json"
            raise TokenizerError(f"{path} is not the tokenizer of this model", why, "give the published model's own")
    return tokenizer


class ChatGLMTokenizer:
    """A sentencepiece model with ChatGLM's special tokens: v1's are pieces of it, ChatGLM2's come after them.

    What `add_special_tokens` adds is `[gMASK] <sop>` after a text in v1, and `[gMASK] sop` before it in ChatGLM2.

    Raises:
        TokenizerError: the file is missing, corrupt or another family's.
    """

    padding_side: PaddingSide = "left"

    def __init__(self, path: Path, is_v1: bool) -> None:
        from zoo_core.tokenizers import SentencePieceTokenizer, required_id
        from zoo_core.tokenizers.files import read_json

        self._pieces = SentencePieceTokenizer(path, add_bos=False, add_eos=False)
        self.files, self.is_v1, size = self._pieces.files, is_v1, self._pieces.vocab_size
        if is_v1:
            config = path.with_name("tokenizer_config.json")
            if config.is_file() and read_json(config, "JSON object").get("num_image_tokens"):
                why = f"{config.name} has num_image_tokens, by which every id of that release is shifted"
                raise TokenizerError(f"{path} is of the first ChatGLM-6B", why, "take the files of the present release")
        own = _V1_SPECIAL if is_v1 else ("</s>", "<unk>")
        self._special = {text: required_id(self._pieces, text) for text in own}
        if not is_v1:
            self._special |= {text: size + number for number, text in enumerate(_V2_SPECIAL)}
        self.vocab_size = max(size, *(token + 1 for token in self._special.values()))
        self._end, start = self._special[own[0]], self._special["<sop>" if is_v1 else "sop"]
        self.bos_id: int | None = start if is_v1 else self._pieces.bos_id
        self.eos_id: int | None = self._end
        self.pad_id: int | None = self._special[own[1]]
        self._texts = {token: text for text, token in self._special.items()}
        self._added = [self._special["[gMASK]"], start]

    def encode(self, text: str, add_special_tokens: bool = False, *, parse_special: bool = True) -> list[int]:
        """Return the ids of `text`; `parse_special` False cuts in two what v1's file would take for a special token."""
        for space, piece in _V1_SPACE.items() if self.is_v1 else ():
            text = text.replace(space, piece)
        first, *rest = [text] if parse_special or not self.is_v1 else _V1_SPELT.split(text)
        # Behind a line break, whose two ids are left out again, a part does not begin with a space.
        ids = sum((self._pieces.encode("<n>" + part)[2:] for part in rest), self._pieces.encode(first))
        before, after = ([], self._added) if self.is_v1 else (self._added, [])
        return [*before, *ids, *after] if add_special_tokens else ids

    def decode(self, ids: Sequence[int], skip_special_tokens: bool = False) -> str:
        """Return the text of `ids`; bytes that make no character, and ids beyond the vocabulary, give U+FFFD."""
        skip = skip_special_tokens
        kept = (int(token) for token in ids if not (skip and int(token) in self._texts))
        runs = ((special, list(run)) for special, run in groupby(kept, self._texts.get))
        whole = "".join(special * len(run) if special else self._pieces.decode(run, skip) for special, run in runs)
        for space, piece in _V1_SPACE.items() if self.is_v1 else ():
            whole = whole.replace(piece, space)
        return whole

    def pieces(self, ids: Sequence[int]) -> list[str]:
        """Return the piece of each id as the model spells it."""
        return [self._texts.get(int(token)) or self._pieces.pieces([token])[0] for token in ids]

    def token_id(self, token: str) -> int | None:
        """Return the id of the special token, or the piece, spelt exactly `token`; None if there is none."""
        return self._special.get(token, self._pieces.token_id(token))

    def save(self, folder: Path) -> list[Path]:
        """Copy the files into `folder` under their names, by which `load` knows them."""
        return self._pieces.save(folder)

    def chat(self, messages: Sequence[Message]) -> list[int]:
        """Return the ids of a conversation: all before the last answer as one text, that answer and its end behind it.

        v1 numbers its rounds from 0, and a first question is only itself; ChatGLM2 numbers from 1. As an earlier answer
        is a part of the prompt, `chat(messages[:i])` is a prefix of `chat(messages)` for the last question only.

        Raises:
            TokenizerError: it is no conversation, or has a system message.
        """
        from zoo_core.tokenizers import rounds

        system, (*history, (question, answer)) = rounds(messages)
        if system is not None:
            raise TokenizerError("ChatGLM has no system messages", "", "put its text in front of the first question")
        gap, first = ("\n", 0) if self.is_v1 else ("\n\n", 1)
        prompt = "".join(f"[Round {n}]{gap}问：{q}{gap}答：{a}{gap}" for n, (q, a) in enumerate(history, first))
        prompt += f"[Round {first + len(history)}]{gap}问：{question}{gap}答："
        ids = self.encode(question if self.is_v1 and not history else prompt, True, parse_special=False)
        return ids if answer is None else [*ids, *self.encode(answer, parse_special=False), self._end]
