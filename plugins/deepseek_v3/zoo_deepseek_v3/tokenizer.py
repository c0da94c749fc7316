"""DeepSeek-V3's tokenizer: a Hugging Face `tokenizer.json`, and how the family writes a conversation."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from zoo_core.errors import TokenizerError

if TYPE_CHECKING:
    from zoo_core.tokenizers import AnyTokenizer, Message, Tokenizer

__all__ = ["load"]

_BOS, _EOS = "<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>"
_USER, _ASSISTANT = "<｜User｜>", "<｜Assistant｜>"


def load(path: Path | None) -> AnyTokenizer:
    """Load the tokenizer of a folder (or its file): `tokenizer.json`, with bos, eos and pad from the file beside it.

    `add_special_tokens` puts bos first, if that file does not say otherwise. Shorter rows are filled up on the left,
    with the end token. A chat template beside the file comes before the format that is known here.

    Raises:
        TokenizerError: nothing there is one, or it is corrupt; names the file and the folder.
    """
    # Here, because listing models imports this file and never needs the libraries behind tokenizers.
    from zoo_core.tokenizers import load_tokenizer

    if path is None:
        raise TokenizerError(
            "no tokenizer for DeepSeek-V3",
            "it is a file of the published model, and no folder was given",
            "give the folder of tokenizer.json with --tokenizer_name_or_path",
        )
    return load_tokenizer(Path(path), "left", _chat, bos=_BOS, eos=_EOS, pad=_EOS, add_bos=True)


def _chat(tokenizer: Tokenizer, messages: Sequence[Message]) -> list[int]:
    """The system's text right after the token of beginning, each turn after its role's token, answers with an end."""
    from zoo_core.tokenizers import ChatFormat

    return ChatFormat(
        start=(_BOS,),
        before={"system": (), "user": (_USER,), "assistant": (_ASSISTANT,)},
        after={"assistant": (_EOS,)},
        special=frozenset({_BOS, _EOS, _USER, _ASSISTANT}),
    )(tokenizer, messages)
