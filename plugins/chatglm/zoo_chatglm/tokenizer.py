"""ChatGLM's tokenizers: `ice_text.model` for v1, `tokenizer.model` and five tokens after it for ChatGLM2."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from zoo_core.errors import TokenizerError

if TYPE_CHECKING:
    from zoo_core.tokenizers import Tokenizer

__all__ = ["load"]


def load(path: Path | None) -> Tokenizer:
    """Load the tokenizer of a folder (or of one file in it).

    Raises:
        TokenizerError: nothing there is one of these, or it is corrupt; names the file and the folder.
    """
    # Here, because listing models imports this file and never needs the libraries behind tokenizers.
    from zoo_core.tokenizers import load_tokenizer

    if path is None:
        raise TokenizerError(
            "no tokenizer for ChatGLM",
            "it is a file of the published model, and no folder was given",
            "give the folder of ice_text.model (v1) or tokenizer.model (ChatGLM2) with --tokenizer_name_or_path",
        )
    return load_tokenizer(Path(path))
