"""Qwen's tokenizer: `qwen.tiktoken` for v1, a Hugging Face `tokenizer.json` for Qwen2 and Qwen3."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from zoo_core.errors import TokenizerError

if TYPE_CHECKING:
    from zoo_core.tokenizers import AnyTokenizer, Message, Tokenizer

__all__ = ["load"]

_V1_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_V1_RANKS = 151_643
_V1_SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", *(f"<|extra_{i}|>" for i in range(205)))
"""The 208 tokens after the ranks; the rank file does not hold them."""
_V1_SYSTEM = "You are a helpful assistant."


def load(path: Path | None) -> AnyTokenizer:
    """Load the tokenizer of a folder (or of one file in it): `tokenizer.json` first, then `qwen.tiktoken`.

    Raises:
        TokenizerError: nothing there is one of these, or it is corrupt; names the file and the folder.
    """
    # Here, because listing models imports this file and never needs the libraries behind tokenizers.
    from zoo_core.tokenizers import TiktokenTokenizer, load_tokenizer

    if path is None:
        raise TokenizerError(
            "no tokenizer for Qwen",
            "it is a file of the published model, and no folder was given",
            "give the folder of qwen.tiktoken (v1) or tokenizer.json with --tokenizer_name_or_path",
        )
    path = Path(path)
    ranks = path / "qwen.tiktoken" if path.is_dir() else path
    has_other = path.is_dir() and any((path / name).is_file() for name in ("tokenizer.json", "tiktoken_config.json"))
    if has_other or ranks.suffix != ".tiktoken" or not ranks.is_file():
        return load_tokenizer(path, chat_format=_chat)
    return TiktokenTokenizer(
        ranks,
        _V1_PATTERN,
        {text: _V1_RANKS + i for i, text in enumerate(_V1_SPECIAL)},
        eos="<|endoftext|>",
        pad="<|endoftext|>",
        normalization="NFC",
        chat_format=_chat,
    )


def _chat(tokenizer: Tokenizer, messages: Sequence[Message]) -> list[int]:
    """ChatML as v1 writes it: no line break after the last message, and a system message always.

    Qwen2 and later bring a template, which differs between them; it comes first.
    """
    from zoo_core.tokenizers import ChatFormat

    roles = ("system", "user", "assistant")
    return ChatFormat(
        before={role: ("<|im_start|>", role, "\n") for role in roles},
        after={role: ("<|im_end|>",) for role in roles},
        between=("\n",),
        special=frozenset({"<|im_start|>", "<|im_end|>"}),
        system=_V1_SYSTEM,
    )(tokenizer, messages)
