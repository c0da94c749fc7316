"""Bloom's tokenizer: a Hugging Face `tokenizer.json`, byte-level BPE, which adds nothing and pads on the left."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from zoo_core.errors import TokenizerError

if TYPE_CHECKING:
    from zoo_core.tokenizers import Tokenizer

__all__ = ["load"]


def load(path: Path | None) -> Tokenizer:
    """Load the tokenizer of a folder (or of one file in it).

    Neither Bloom nor Bloomz has a chat format: Bloomz follows an instruction written as plain text. So `chat` raises a
    TokenizerError, unless somebody put a chat template beside the file.

    Raises:
        TokenizerError: no tokenizer there, or it is corrupt; names the file and the folder.
    """
    # Here, because listing models imports this file and never needs the libraries behind tokenizers.
    from zoo_core.tokenizers import load_tokenizer

    if path is None:
        raise TokenizerError(
            "no tokenizer for Bloom",
            "it is a file of the published model, and no folder was given",
            "give the folder of tokenizer.json with --tokenizer_name_or_path",
        )
    return load_tokenizer(Path(path), "left", bos="<s>", eos="</s>", pad="<pad>")
