"""GPT's tokenizer: byte-level BPE, from `tokenizer.json` or from GPT-2's own `vocab.json` and `merges.txt`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from zoo_core.errors import TokenizerError

if TYPE_CHECKING:
    from zoo_core.tokenizers import Tokenizer

__all__ = ["load"]

_END = "<|endoftext|>"
_FILES = ("tokenizer.json", "vocab.json", "merges.txt")


def load(path: Path | None) -> Tokenizer:
    """Load the tokenizer of a folder (or of one file in it): `tokenizer.json` first, then `vocab.json`, `merges.txt`.

    Where no file beside says otherwise, as with the published ones, `<|endoftext|>` begins and ends a text and fills up
    shorter ones on the right; `add_special_tokens` adds nothing. GPT has no chat weights, so there is no chat format.

    Raises:
        TokenizerError: nothing there is one of these, or it is corrupt; names the file and the folder.
    """
    # Here, because listing models imports this file and never needs the libraries behind tokenizers.
    from zoo_core.tokenizers import BPEFilesTokenizer, HFTokenizer, load_tokenizer

    if path is None:
        raise TokenizerError(
            "no tokenizer for GPT",
            "it is a file of the published model, and no folder was given",
            "give the folder of tokenizer.json, or of vocab.json and merges.txt, with --tokenizer_name_or_path",
        )
    path = Path(path)
    file = next((path / name for name in _FILES if (path / name).is_file()), path)
    if file.name in _FILES[1:]:
        return BPEFilesTokenizer(file.parent, bos=_END, eos=_END, unk=_END, pad=_END)
    if file.suffix == ".json":
        return HFTokenizer(file, bos=_END, eos=_END, pad=_END)
    return load_tokenizer(path)
