"""Train a byte-level BPE `tokenizer.json`, for trying things without a download."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

from zoo_core._atomic import written_beside
from zoo_core.errors import TokenizerError
from zoo_core.tokenizers.hf import HFTokenizer

__all__ = ["END_OF_TEXT", "train_bpe"]

END_OF_TEXT = "<|endoftext|>"
_SMALLEST = 256 + 1


def train_bpe(inputs: Sequence[Path], vocab_size: int, output: Path, progress: bool = False) -> HFTokenizer:
    """Train on UTF-8 text files and write `tokenizer.json` and `tokenizer_config.json` into the folder `output`.

    Every byte is a token, so any text encodes. `<|endoftext|>` is id 0 and serves as bos, eos and pad. The same files
    in the same order give the same bytes. Byte-pair encoding: Sennrich et al. 2016; byte-level: Radford et al. 2019.

    Args:
        vocab_size: tokens wanted, at least 257 (the bytes and `<|endoftext|>`); a small text may yield fewer.
        progress: show the trainer's own bars.

    Raises:
        TokenizerError: no input, an input is missing or not UTF-8, `vocab_size` too small, or `output` not writable.
    """
    if not inputs:
        raise TokenizerError("nothing to train on", "no text file was given", "name one or more UTF-8 text files")
    if vocab_size < _SMALLEST:
        raise TokenizerError(
            f"a vocabulary of {vocab_size} is too small",
            f"256 bytes and {END_OF_TEXT} need {_SMALLEST}",
            "ask for more",
        )
    texts = [_text(Path(path)) for path in inputs]
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=progress,
    )
    tokenizer.train_from_iterator((line for text in texts for line in text.splitlines(keepends=True)), trainer)
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": END_OF_TEXT,
        "eos_token": END_OF_TEXT,
        "pad_token": END_OF_TEXT,
        "clean_up_tokenization_spaces": False,
    }
    contents = {
        "tokenizer_config.json": json.dumps(config, indent=1) + "\n",
        "tokenizer.json": tokenizer.to_str(pretty=True),
    }
    for name, content in contents.items():
        try:
            with written_beside(Path(output) / name) as stream:
                stream.write(content.encode("utf-8"))
        except OSError as error:
            raise TokenizerError(
                f"cannot write {Path(output) / name}", str(error), "free space or choose another --output"
            ) from error
    return HFTokenizer(Path(output))


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise TokenizerError(f"cannot read {path}", str(error), "name an existing text file") from error
    except UnicodeDecodeError as error:
        raise TokenizerError(
            f"{path} is not UTF-8",
            f"byte {error.start} does not decode ({error.reason})",
            "convert it, e.g. with iconv",
        ) from error
