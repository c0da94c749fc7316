"""From what the user writes as `input_dir` to the corpora meant: a folder, a prefix, or weights and prefixes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from zoo_core.data.corpora import Corpus
from zoo_core.data.indexed import bin_path, idx_path, open_indexed
from zoo_core.data.npy_pair import ids_npy_path, idx_npz_path, open_npy_pair
from zoo_core.errors import DataError, nearest

__all__ = ["WeightedPrefix", "find_corpora", "open_corpus", "parse_input_dir"]


@dataclass(frozen=True)
class WeightedPrefix:
    """A corpus and its share of the samples; the weights of a list add up to 1."""

    prefix: Path
    weight: float


def _exists(prefix: Path) -> bool:
    return idx_path(prefix).is_file() or idx_npz_path(prefix).is_file()


def find_corpora(folder: Path) -> list[Path]:
    """Return the prefixes of all corpora in `folder`, sorted; sub-folders are not searched.

    Raises:
        DataError: there is no such folder, or no corpus in it.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise DataError(
            f"no folder {folder}", "input_dir is a folder with PREFIX.bin and PREFIX.idx, or a prefix", _TODO
        )
    prefixes = {Path(str(path)[: -len(".idx")]) for path in folder.glob("*.idx")}
    prefixes |= {Path(str(path)[: -len("_idx.npz")]) for path in folder.glob("*_idx.npz")}
    if not prefixes:
        names = sorted(path.name for path in folder.iterdir())[:5]
        raise DataError(
            f"no corpus in {folder}",
            f"no *.idx and no *_idx.npz there; it has {', '.join(names) or 'nothing'}",
            _TODO,
        )
    return sorted(prefixes)


_TODO = "make one: zoo data build TEXT... --tokenizer PATH --output PREFIX"


def parse_input_dir(text: str) -> list[WeightedPrefix]:
    """Read `input_dir`: a folder, a prefix, several prefixes, or `weight prefix weight prefix ...`.

    Several corpora without weights count alike, as in PaddleNLP. Commas may stand for spaces.

    Raises:
        DataError: a corpus does not exist, or a weight is no positive number.
    """
    whole = Path(text.strip())
    if text.strip() and whole.is_dir() or _exists(whole):
        prefixes = [whole] if _exists(whole) else find_corpora(whole)
        return [WeightedPrefix(prefix, 1 / len(prefixes)) for prefix in prefixes]
    words = text.replace(",", " ").split()
    if not words:
        raise DataError("input_dir is empty", "it names the corpus to train on", _TODO)
    if len(words) == 1:
        return [WeightedPrefix(prefix, 1 / len(found)) for found in [_corpora_of(words[0])] for prefix in found]
    if _number(words[0]) is None:
        return [WeightedPrefix(_prefix(word), 1 / len(words)) for word in words]
    if len(words) % 2:
        raise DataError(
            f"input_dir has {len(words)} words: {text!r}",
            "weights and prefixes alternate, so they are even",
            "add or drop one",
        )
    weights = [_weight(word, text) for word in words[::2]]
    total = math.fsum(weights)
    return [WeightedPrefix(_prefix(word), weight / total) for word, weight in zip(words[1::2], weights, strict=True)]


def _corpora_of(word: str) -> Sequence[Path]:
    return find_corpora(Path(word)) if Path(word).is_dir() else [_prefix(word)]


def _number(word: str) -> float | None:
    try:
        return float(word)
    except ValueError:
        return None


def _weight(word: str, text: str) -> float:
    weight = _number(word)
    if weight is None or not math.isfinite(weight) or weight <= 0:
        raise DataError(f"{word!r} is no weight", f"in {text!r} every first of two words must be above 0", "correct it")
    return weight


def _prefix(word: str) -> Path:
    for ending in (".idx", ".bin", "_idx.npz", "_ids.npy"):
        if word.endswith(ending) and Path(word).is_file():
            return Path(word[: -len(ending)])
    if _exists(Path(word)):
        return Path(word)
    folder = Path(word).parent
    known = [path.name for path in find_corpora(folder)] if folder.is_dir() and _has_corpora(folder) else []
    near = nearest(Path(word).name, known)
    raise DataError(
        f"no corpus {word}",
        f"neither {word}.idx nor {word}_idx.npz exists",
        f"did you mean {folder / near}?" if near else _TODO,
    )


def _has_corpora(folder: Path) -> bool:
    return any(folder.glob("*.idx")) or any(folder.glob("*_idx.npz"))


def open_corpus(prefix: Path) -> Corpus:
    """Open the corpus of a prefix: Megatron's pair if there is one, else PaddleNLP's older pair.

    Raises:
        DataError: neither exists, or the pair is truncated, corrupt or foreign.
    """
    prefix = Path(prefix)
    if idx_path(prefix).is_file() or bin_path(prefix).is_file():
        return open_indexed(prefix)
    if idx_npz_path(prefix).is_file() or ids_npy_path(prefix).is_file():
        return open_npy_pair(prefix)
    return open_corpus(_prefix(str(prefix)))
