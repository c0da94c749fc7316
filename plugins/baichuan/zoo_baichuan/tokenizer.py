"""Baichuan's tokenizer: a sentencepiece `tokenizer.model`, and the chat prompt of the chat models."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from zoo_core.errors import TokenizerError

if TYPE_CHECKING:
    from zoo_core.tokenizers import AnyTokenizer, ChatFormat, PaddingSide

__all__ = ["load"]

_PADDING: PaddingSide = "left"
_USER, _ASSISTANT = 195, 196
"""What `generation_config.json` of every published chat model says: `<reserved_102>` and `<reserved_103>`."""


def load(path: Path | None) -> AnyTokenizer:
    """Load the tokenizer of a folder (or of one file in it): `tokenizer.model`, or a `tokenizer.json` where one is.

    Nothing is added to a text unless `tokenizer_config.json` says so, and `<unk>` pads. Conversations are written as
    the published `build_chat_input` does, with the ids of a `generation_config.json` beside the model.

    Raises:
        TokenizerError: nothing there is one of these, or it is corrupt; names the file and the folder.
    """
    if path is None:
        raise TokenizerError(
            "no tokenizer for Baichuan",
            "it is a file of the published model, and no folder was given",
            "give the folder of tokenizer.model with --tokenizer_name_or_path",
        )
    # Here, because listing models imports this file and never needs the libraries behind tokenizers.
    from zoo_core.tokenizers import SentencePieceTokenizer, load_tokenizer
    from zoo_core.tokenizers.files import read_json

    path = Path(path)
    folder = path if path.is_dir() else path.parent
    model = folder / "tokenizer.model" if path.is_dir() else path
    roles = folder / "generation_config.json"
    said = read_json(roles, "JSON object") if roles.is_file() else {}
    chat = _chat_format(said.get("user_token_id", _USER), said.get("assistant_token_id", _ASSISTANT))
    if (path.is_dir() and (path / "tokenizer.json").is_file()) or model.suffix != ".model" or not model.is_file():
        return load_tokenizer(path, _PADDING, chat)
    settings = folder / "tokenizer_config.json"
    adds = read_json(settings, "JSON object") if settings.is_file() else {}
    tokenizer = SentencePieceTokenizer(
        model, add_bos=bool(adds.get("add_bos_token", False)), padding_side=_PADDING, chat_format=chat
    )
    if tokenizer.pad_id is None:
        tokenizer.pad_id = tokenizer.token_id("<unk>")
    if said:
        tokenizer.files = (*tokenizer.files, roles)
    return tokenizer


def _chat_format(user: int, assistant: int) -> ChatFormat:
    """The system's text as it is, then each message after the id of who says it; no end of sentence after an answer.

    So does `build_chat_input` of Baichuan-13B-Chat's and Baichuan2's `generation_utils.py`, less what it cuts off at
    the front of a conversation that is too long. (Baichuan-13B-Chat's first release put `</s>` after each answer.)
    """
    from zoo_core.tokenizers import ChatFormat

    return ChatFormat(before={"system": (), "user": (user,), "assistant": (assistant,)}, after={})
