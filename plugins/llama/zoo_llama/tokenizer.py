"""Llama's tokenizer: sentencepiece for Llama 1 and 2, tiktoken for 3, or a Hugging Face `tokenizer.json`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from zoo_core.errors import TokenizerError

if TYPE_CHECKING:
    from zoo_core.tokenizers import Tokenizer

__all__ = ["load"]

_LLAMA3_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_LLAMA3_RANKS = 128_000
_LLAMA3_SPECIAL = (
    "<|begin_of_text|>",
    "<|end_of_text|>",
    "<|reserved_special_token_0|>",
    "<|reserved_special_token_1|>",
    "<|finetune_right_pad_id|>",
    "<|reserved_special_token_2|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eom_id|>",
    "<|eot_id|>",
    "<|python_tag|>",
    *(f"<|reserved_special_token_{i}|>" for i in range(3, 248)),
)
"""The 256 tokens after the ranks, as Llama 3.1 names them; the rank file does not hold them."""


def load(path: Path | None) -> Tokenizer:
    """Load the tokenizer of a folder (or of one file in it).

    `tokenizer.json` comes first, then `tokenizer.model`, which is a sentencepiece model in Llama 1 and 2 and a tiktoken
    rank file in Llama 3.

    Raises:
        TokenizerError: nothing there is one of these, or it is corrupt; names the file and the folder.
    """
    # Here, because listing models imports this file and never needs the libraries behind tokenizers.
    from zoo_core.tokenizers import TiktokenTokenizer, load_tokenizer
    from zoo_core.tokenizers.load import is_tiktoken

    if path is None:
        raise TokenizerError(
            "no tokenizer for Llama",
            "it is a file of the published model, and no folder was given",
            "give the folder of tokenizer.model or tokenizer.json with --tokenizer_name_or_path",
        )
    path = Path(path)
    ranks = path / "tokenizer.model" if path.is_dir() else path
    has_other = path.is_dir() and any((path / name).is_file() for name in ("tokenizer.json", "tiktoken_config.json"))
    if has_other or ranks.suffix != ".model" or not ranks.is_file() or not is_tiktoken(ranks):
        return load_tokenizer(path)
    return TiktokenTokenizer(
        ranks,
        _LLAMA3_PATTERN,
        {text: _LLAMA3_RANKS + i for i, text in enumerate(_LLAMA3_SPECIAL)},
        bos="<|begin_of_text|>",
        eos="<|end_of_text|>",
        pad="<|finetune_right_pad_id|>",
        add_bos=True,
    )
