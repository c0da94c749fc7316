"""Text to calibrate with, and other text to measure on: runs of token ids from files or from a corpus.

The two never overlap: what is measured on is the end of the data, unless it is given apart.

Shape legend: N calibration samples, M held-out samples, S tokens of a sample, T tokens.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from zoo_core.data import open_corpus
from zoo_core.data.encode import EncodeSettings, TokenizerSource, encoded
from zoo_core.data.sources import chunks, input_files
from zoo_core.errors import DataError, TokenizerError, ZooError

__all__ = ["Texts", "calibration_texts"]

Ids = npt.NDArray[np.int64]

_READ = 8
"""Of text files, so many times the tokens that are needed are read at most."""


@dataclass(frozen=True)
class Texts:
    """Token ids to calibrate with and to measure on.

    Args:
        calibration: int64 [N, S].
        held: int64 [M, S], from elsewhere in the data.
        source: where they came from, in words.
    """

    calibration: Ids
    held: Ids
    source: str


def _is_corpus(path: Path) -> bool:
    """Whether a path is a corpus's prefix or one of its files, and no text."""
    return path.suffix in (".bin", ".idx", ".npy", ".npz") or not (path.exists() or path.suffix)


def _tokens(path: Path, tokenizer: TokenizerSource, most: int, json_key: str) -> npt.NDArray[Any]:
    """The tokens of a corpus, or the first of text files, [T].

    Raises:
        DataError: nothing is there, or a line of a file is broken.
    """
    if _is_corpus(path):
        return open_corpus(path).tokens
    files = input_files([path])
    loaded = tokenizer.load()
    settings = EncodeSettings(tokenizer, json_key, loaded.eos_id, "int64")
    parts, tokens = [], 0
    for part in encoded(chunks(files), settings, workers=1):
        if part.bad:
            line, why = part.bad[0]
            raise DataError(f"{part.chunk_file} line {line} has no text", why, "--json_key names the key of the text")
        parts.append(np.asarray(part.ids, np.int64))
        tokens += len(part.ids)
        if tokens >= most:
            break
    return np.concatenate([*parts, np.zeros(0, np.int64)])[:most]


def _runs(tokens_T: npt.NDArray[Any], first: int, count: int, length: int) -> Ids:
    """`count` runs that follow each other from token `first` on."""
    run_T = np.asarray(tokens_T[first : first + count * length], np.int64)
    return run_T.reshape(count, length)


def _around(path: Path, tokenizer: TokenizerSource) -> tuple[list[int], list[int]]:
    """What the family puts before and behind a text: bos, say.

    Raises:
        TokenizerError: the tokenizer is missing, and `path` is text.
    """
    try:
        loaded = tokenizer.load()
    except TokenizerError:
        if _is_corpus(path):  # it was tokenised elsewhere
            return [], []
        raise
    plain, whole = (loaded.encode("a", add_special_tokens=special) for special in (False, True))
    for start in range(len(whole) - len(plain) + 1):
        if whole[start : start + len(plain)] == plain:
            return whole[:start], whole[start + len(plain) :]
    return [], []


def _marked(ids_NS: Ids, around: tuple[list[int], list[int]]) -> Ids:
    """The runs with what belongs around a text, in the place of their first and last tokens."""
    before, behind = around
    marked_NS, length = ids_NS.copy(), ids_NS.shape[1]
    marked_NS[:, : len(before)] = before
    marked_NS[:, length - len(behind) :] = behind
    return marked_NS


def calibration_texts(
    data: str | Path,
    tokenizer: TokenizerSource,
    vocab_size: int,
    *,
    samples: int = 128,
    length: int = 512,
    held: int = 32,
    held_data: str | Path | None = None,
    json_key: str = "text",
    seed: int = 0,
) -> Texts:
    """Return runs of real text, at random places of `data`, and others to measure on.

    Each begins and ends with what the family's tokenizer puts around a text.

    Args:
        data: a text file, JSON lines, a folder of them, or the prefix of a corpus.
        tokenizer: of the model; a corpus has its ids already.
        vocab_size: of the model.
        samples: N; `length`: S; `held`: M.
        held_data: text to measure on, as `data`; by default the last M runs of `data`, which are then no part of the
            calibration.
        json_key: key of the text in JSON lines.
        seed: chooses the places.

    Raises:
        DataError: there is no text, or not enough of it; says how much there is.
        TokenizerError: the tokenizer is missing.
    """
    apart = 0 if held_data is not None else held
    needed = (samples + apart) * length
    tokens_T = _tokens(Path(data), tokenizer, _READ * needed, json_key)
    runs = len(tokens_T) // length
    if runs < samples + apart:
        raise DataError(
            f"{data} has {len(tokens_T):,} tokens",
            f"{samples} samples to calibrate with and {apart} to measure on, of {length} tokens, are {needed:,}",
            "give more text, or fewer or shorter samples (--samples, --eval_samples, --length)",
        )
    chosen = np.sort(np.random.default_rng(seed).choice(runs - apart, samples, replace=False))
    calibration = np.concatenate([_runs(tokens_T, int(run) * length, 1, length) for run in chosen])
    if held_data is None:
        held_NS = _runs(tokens_T, (runs - apart) * length, apart, length)
    else:
        other_T = _tokens(Path(held_data), tokenizer, held * length, json_key)
        there = min(held, len(other_T) // length)
        if not there:
            raise DataError(f"{held_data} has {len(other_T):,} tokens", f"a sample has {length}", "give more text")
        held_NS = _runs(other_T, 0, there, length)
    highest = int(max(calibration.max(), held_NS.max(initial=0)))
    if highest >= vocab_size:
        raise _foreign(data, highest, vocab_size)
    source, around = f"{samples} samples of {length} tokens from {data}", _around(Path(data), tokenizer)
    return Texts(_marked(calibration, around), _marked(held_NS, around), source)


def _foreign(data: str | Path, highest: int, vocab_size: int) -> ZooError:
    return DataError(
        f"{data} has the token {highest}",
        f"the model has a vocabulary of {vocab_size}",
        "use text, or a corpus made with the model's tokenizer",
    )
