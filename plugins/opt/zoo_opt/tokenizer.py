"""OPT's tokenizer: GPT-2's byte-level BPE (`vocab.json` and `merges.txt`) with `</s>` in front of every text."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from zoo_core.errors import TokenizerError

if TYPE_CHECKING:
    from zoo_core.tokenizers import Tokenizer

__all__ = ["load"]

_FILES = ("vocab.json", "merges.txt")


def load(path: Path | None) -> Tokenizer:
    """Load the tokenizer of a folder (or of one file in it): `tokenizer.json` first, then `vocab.json`, `merges.txt`.

    Where no `tokenizer_config.json` says otherwise, `</s>` begins and ends a text, `<pad>` fills up on the right, and
    `add_special_tokens` puts the first `</s>`. OPT has no chat weights, so there is no chat format.

    Raises:
        TokenizerError: nothing there is one of these, or it is corrupt; names the file and the folder.
    """
    # Here, because listing models imports this file and never needs the libraries behind tokenizers.
    from zoo_core.tokenizers import BPEFilesTokenizer, load_tokenizer

    if path is None:
        raise TokenizerError(
            "no tokenizer for OPT",
            "it is files of the published model, and no folder was given",
            "give the folder of vocab.json and merges.txt with --tokenizer_name_or_path",
        )
    path = Path(path)
    folder = path if path.is_dir() else path.parent
    if path.is_dir():
        own = not (folder / "tokenizer.json").is_file() and any((folder / name).is_file() for name in _FILES)
    else:
        own = path.name in _FILES
    if not own:
        return load_tokenizer(path, bos="</s>", eos="</s>", pad="<pad>", add_bos=True)
    return BPEFilesTokenizer(folder, bos="</s>", eos="</s>", unk="</s>", pad="<pad>", add_bos=True)
