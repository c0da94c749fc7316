"""A scaled-down model takes the vocabulary of what it is trained on. No paddle."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from zoo_core.arguments import Arguments
from zoo_core.config import ModelConfig
from zoo_core.data import open_corpus, parse_input_dir
from zoo_core.errors import DataError, TokenizerError, ZooError
from zoo_core.registry import Found, find
from zoo_core.tokenizers import Tokenizer

__all__ = ["check_ids", "fitted_vocabulary", "run_tokenizer"]

_LOOKED_AT = 1 << 26
"""Tokens of each corpus that are looked at before the run; ids after them are checked when they are read."""

_MULTIPLE = 64
"""A vocabulary read off the ids is rounded up to a multiple of this, which every usual degree divides."""


def run_tokenizer(arguments: Arguments, found: Found, weights: Path | None = None) -> Tokenizer | None:
    """Return the tokenizer of the run: the one named, else the one beside the model; `None` when there is none.

    Pretraining reads ids and needs none: it gives the size of a scaled vocabulary and is copied into checkpoints.

    Raises:
        TokenizerError: the one named is not there, or cannot be read.
    """
    named = arguments.model.tokenizer_name_or_path
    if named is not None and (place := _place(named)) is not None:
        return found.architecture.tokenizer(found.config, place)
    for folder in filter(None, (found.path, weights)):
        try:
            return found.architecture.tokenizer(found.config, folder)
        except TokenizerError:
            continue
    return None


def _place(named: str) -> Path | None:
    """Where the tokenizer `named` is: a path, or a folder in $ZOO_HOME; `None` for a model's name that is not there.

    Raises:
        TokenizerError: it is neither a path nor a model's name.
    """
    home = os.environ.get("ZOO_HOME", "")
    for path in (Path(named), *((Path(home) / named,) if home else ())):
        if path.expanduser().exists():
            return path.expanduser()
    try:
        find(named)
    except ZooError:
        raise TokenizerError(
            f"no tokenizer at {named}", "tokenizer_name_or_path is a folder or a file", "give its path"
        ) from None
    return None


def _highest_id(input_dir: str) -> tuple[int, Path]:
    highest = (-1, Path(input_dir))
    for item in parse_input_dir(input_dir):
        corpus = open_corpus(item.prefix)
        if corpus.dtype.kind not in "iu":
            raise DataError(f"{corpus.prefix} holds {corpus.dtype}", "token ids are integers", "give a corpus of text")
        if corpus.num_tokens:
            highest = max(highest, (int(np.max(corpus.tokens[:_LOOKED_AT])), corpus.prefix))
    return highest


def fitted_vocabulary(
    arguments: Arguments, config: ModelConfig, tokenizer: Tokenizer | None
) -> tuple[ModelConfig, str]:
    """Return the configuration with room for every id, and what was changed in words (empty when nothing was).

    Only a model made small by `--scale` is changed, and not when `vocab_size` is set by the user.

    Raises:
        DataError: the corpus is missing or damaged.
    """
    if not arguments.model.scale or arguments.overrides.get("vocab_size") is not None:
        return config, ""
    size, whose = config.vocab_size, ""
    if tokenizer is not None:
        size, whose = tokenizer.vocab_size, "the tokenizer has so many"
    elif arguments.data.input_dir:
        highest, prefix = _highest_id(arguments.data.input_dir)
        if highest >= config.vocab_size:
            size = -(-(highest + 1) // _MULTIPLE) * _MULTIPLE
            whose = f"{prefix} has ids up to {highest}"
    if size <= config.vocab_size:
        return config, ""
    said = f"vocabulary {size} instead of the scale's {config.vocab_size}: {whose}"
    return config.replace(vocab_size=size), said


def check_ids(input_dir: str, config: ModelConfig) -> None:
    """Look through the corpora before anything is started.

    Raises:
        DataError: a corpus is missing or damaged, or has an id that the model's vocabulary has not.
    """
    highest, prefix = _highest_id(input_dir)
    if highest >= config.vocab_size:
        raise DataError(
            f"{prefix} has the token id {highest}",
            f"the model's vocabulary has {config.vocab_size}",
            "build the corpus with the tokenizer of this model: zoo data build TEXT... --model NAME --tokenizer PATH",
        )
