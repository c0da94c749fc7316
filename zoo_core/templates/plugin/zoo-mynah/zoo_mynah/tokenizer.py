"""Mynah's tokenizer: the `tokenizer.json` (or another kind that zoo reads) of the model's folder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from zoo_core.errors import TokenizerError

if TYPE_CHECKING:
    from zoo_core.tokenizers import Tokenizer

__all__ = ["load"]


def load(path: Path | None) -> Tokenizer:
    """Load the tokenizer of a folder, or of one file in it.

    Raises:
        TokenizerError: there is none, or it is corrupt; names the file and the folder.
    """
    # Here, because listing models imports this file and never needs the libraries behind tokenizers.
    from zoo_core.tokenizers import load_tokenizer

    if path is None:
        raise TokenizerError(
            "no tokenizer for Mynah",
            "it is a file of the model's folder, and no folder was given",
            "give the folder of tokenizer.json with --tokenizer_name_or_path",
        )
    return load_tokenizer(path, "left")
