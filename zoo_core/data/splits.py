"""From `input_dir` and `split` to the three datasets of a pretraining run.

Shapes: S tokens of a sample (`seq_length`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from zoo_core.data.blend import blend_counts, blend_order
from zoo_core.data.corpora import Corpus
from zoo_core.data.find import WeightedPrefix, open_corpus, parse_input_dir
from zoo_core.data.index_cache import Arrays, build_or_load, cache_folder
from zoo_core.data.pretrain import BlendedDataset, PretrainDataset, SampleSource
from zoo_core.data.sample_index import SampleIndex, build_sample_index
from zoo_core.errors import DataError

__all__ = ["IndexStore", "PretrainSplits", "build_pretrain_datasets", "builds_index", "split_bounds"]


@dataclass(frozen=True)
class IndexStore:
    """Where indexes are kept, and what this process may do there.

    Attributes:
        data_cache: a folder for indexes, used only while there is no `index-cache/` beside the corpus.
        is_builder: whether this process builds what is missing, see `builds_index`.
        wait_seconds: how long a process that does not build polls for an index before it gives up.
    """

    data_cache: Path | None = None
    is_builder: bool = True
    wait_seconds: float = 0.0


def builds_index(share_folder: bool, rank: int, local_rank: int) -> bool:
    """Say whether a process builds: global rank 0 if all nodes share the folder, else each node's local rank 0."""
    return rank == 0 if share_folder else local_rank == 0


def split_bounds(split: str, size: int) -> tuple[int, int, int, int]:
    """Cut `size` sequences by weights such as "949,50,1" ("/" works too, missing parts are 0), as Megatron does.

    Returns:
        begin of train, of valid, of test, and `size`.

    Raises:
        DataError: a part is no number, is negative, there are more than three, or all are 0.
    """
    try:
        parts = [float(part) for part in split.strip("[] ").replace("/", ",").split(",")]
    except ValueError as error:
        raise DataError(
            f"split {split!r} is not of the form 949,50,1", str(error), "give up to three numbers"
        ) from error
    if len(parts) > 3 or min(parts) < 0 or not math.isfinite(sum(parts)) or sum(parts) <= 0:
        raise DataError(
            f"split {split!r} is not of the form 949,50,1",
            "up to three numbers, none negative, not all 0",
            "correct it",
        )
    parts += [0.0] * (3 - len(parts))
    bounds = [0]
    for part in parts:
        bounds.append(bounds[-1] + round(part / sum(parts) * size))
    excess = bounds[-1] - size
    train, valid = (max(0, bound - excess) for bound in bounds[1:3])
    return 0, train, valid, size


@dataclass(frozen=True)
class PretrainSplits:
    """The three splits; None where none was asked for or the split has no sequence."""

    train: SampleSource | None
    valid: SampleSource | None
    test: SampleSource | None


def _dataset(
    corpus: Corpus,
    bounds: tuple[int, int],
    seq_length: int,
    num_samples: int | None,
    seed: int,
    vocab_size: int | None,
    store: IndexStore,
) -> PretrainDataset:
    first, last = bounds
    parameters = {
        "kind": "samples",
        "corpus": corpus.digest,
        "sequences": bounds,
        "seq_length": seq_length,
        "num_samples": num_samples,
        "seed": seed,
    }

    def build() -> Arrays:
        index = build_sample_index(corpus.lengths, first, last, seq_length, num_samples, seed)
        return {"order": index.order, "begins": index.begins, "shuffle": index.shuffle}

    folder = cache_folder(corpus.prefix, store.data_cache)
    arrays = build_or_load(folder, parameters, build, store.is_builder, store.wait_seconds)
    tokens_per_epoch = int(corpus.lengths[first:last].sum(dtype=np.int64))
    index = SampleIndex(arrays["order"], arrays["begins"], arrays["shuffle"], tokens_per_epoch)
    return PretrainDataset(corpus, index, seq_length, vocab_size)


def _blended(
    corpora: Sequence[tuple[Corpus, float, tuple[int, int]]],
    seq_length: int,
    num_samples: int | None,
    seed: int,
    vocab_size: int | None,
    store: IndexStore,
) -> SampleSource:
    make = partial(_dataset, seq_length=seq_length, seed=seed, vocab_size=vocab_size, store=store)
    if len(corpora) == 1:
        corpus, _, bounds = corpora[0]
        return make(corpus, bounds, num_samples=num_samples)
    if num_samples is None:  # one epoch of each, evenly interleaved
        whole = [make(corpus, bounds, num_samples=None) for corpus, _, bounds in corpora]
        return BlendedDataset(whole, blend_order([float(len(part)) for part in whole], sum(map(len, whole))))
    weights = [weight for _, weight, _ in corpora]
    parameters = {"kind": "blend", "weights": weights, "num_samples": num_samples}
    folder = cache_folder(corpora[0][0].prefix, store.data_cache)
    build = partial(blend_order, weights, num_samples)
    order = build_or_load(folder, parameters, build, store.is_builder, store.wait_seconds)
    counts = blend_counts(order, len(corpora))
    parts = [
        make(corpus, bounds, num_samples=count) if count else None
        for (corpus, _, bounds), count in zip(corpora, counts, strict=True)
    ]
    return BlendedDataset(parts, order)


def build_pretrain_datasets(
    input_dir: str | Sequence[WeightedPrefix],
    *,
    split: str,
    seq_length: int,
    num_samples: Sequence[int | None],
    seed: int,
    vocab_size: int | None = None,
    store: IndexStore | None = None,
) -> PretrainSplits:
    """Open the corpora of `input_dir` and make the datasets of the three splits.

    The samples depend on nothing but the corpora and the arguments, so they are the same under every parallel layout.

    Args:
        input_dir: a folder, a prefix, or `weight prefix weight prefix ...` (see `parse_input_dir`).
        split: parts of the sequences for train, valid and test, as "949,50,1".
        seq_length: S, tokens of a sample.
        num_samples: for train, valid, test: samples wanted, repeating epochs as needed; None is one epoch, 0 none.
        seed: of the shuffles.
        vocab_size: see `PretrainDataset`.
        store: where indexes are kept; by default beside the corpus, and this process builds.

    Raises:
        DataError: a corpus is missing, corrupt or too small, or an index cannot be built, written or found.
    """
    prefixes = parse_input_dir(input_dir) if isinstance(input_dir, str) else input_dir
    opened = [(open_corpus(item.prefix), item.weight) for item in prefixes]
    made: list[SampleSource | None] = []
    for number, wanted in enumerate(num_samples):
        parts = []
        for corpus, weight in opened:
            bounds = split_bounds(split, len(corpus))[number : number + 2]
            if bounds[1] > bounds[0]:
                parts.append((corpus, weight, (bounds[0], bounds[1])))
        use = store or IndexStore()
        made.append(_blended(parts, seq_length, wanted, seed, vocab_size, use) if parts and wanted != 0 else None)
    return PretrainSplits(*made, *[None] * (3 - len(made)))
