"""Which tokens make sample i: Megatron's three index arrays, built with numpy alone.

Shoeybi et al. 2019 (Megatron-LM). Given the same corpus, seed, sequence length and number of samples, the arrays equal
those of Megatron-LM and PaddleNLP element for element: a run moved from there sees the same samples in that order.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from zoo_core.data.corpora import IntArray
from zoo_core.errors import DataError

__all__ = ["SampleIndex", "build_sample_index", "epochs_for"]

_SEPARATE_BELOW = 0.80
"""A last epoch that is used to less than this part is shuffled apart from the others (Megatron's number)."""


@dataclass(frozen=True, eq=False)
class SampleIndex:
    """The samples of one split of a corpus, K in number.

    Attributes:
        order: [epochs * documents] sequence numbers, shuffled; the stream of tokens is their concatenation.
        begins: [K + 1, 2] for each sample in stream order the position in `order` and the token within that sequence at
            which it begins; sample k has `seq_length + 1` tokens, and shares its last one with sample k + 1.
        shuffle: [K] the sample in stream order that is served as sample i.
        tokens_per_epoch: tokens of the split.
    """

    order: IntArray
    begins: IntArray
    shuffle: npt.NDArray[np.integer[Any]]
    tokens_per_epoch: int

    def __len__(self) -> int:
        """Return K."""
        return len(self.shuffle)


def epochs_for(num_samples: int, tokens_per_epoch: int, seq_length: int) -> int:
    """Return the least number of epochs whose tokens make `num_samples` samples."""
    return max(1, -(-(num_samples * seq_length + 1) // tokens_per_epoch))


def _order(first: int, last: int, epochs: int, random: np.random.RandomState) -> IntArray:
    dtype = np.int32 if last <= np.iinfo(np.int32).max else np.int64
    order: IntArray = np.tile(np.arange(first, last, dtype=dtype), epochs)
    random.shuffle(order)
    return order


def build_sample_index(
    lengths: IntArray, first: int, last: int, seq_length: int, num_samples: int | None, seed: int
) -> SampleIndex:
    """Pack the sequences [first, last) into samples of `seq_length + 1` tokens.

    Args:
        lengths: [N] tokens of every sequence of the corpus.
        num_samples: samples wanted; as many epochs are used as they take. None is one epoch.
        seed: of all three shuffles.

    Raises:
        DataError: the sequences have too few tokens for a single sample.
    """
    tokens_per_epoch = int(lengths[first:last].sum(dtype=np.int64))
    epochs = (
        1 if num_samples is None or tokens_per_epoch == 0 else epochs_for(num_samples, tokens_per_epoch, seq_length)
    )
    total = (epochs * tokens_per_epoch - 1) // seq_length
    if total < 1:
        raise DataError(
            f"sequences {first} to {last} have {tokens_per_epoch} tokens",
            f"a sample takes {seq_length + 1}",
            "use a larger corpus, a smaller max_seq_length or another split",
        )
    in_whole_epochs = ((epochs - 1) * tokens_per_epoch - 1) // seq_length
    per_epoch = (tokens_per_epoch - 1) // seq_length
    wanted = total if num_samples is None else num_samples
    separate = epochs > 1 and wanted - in_whole_epochs < int(_SEPARATE_BELOW * per_epoch)

    random = np.random.RandomState(seed)
    counts = (epochs - 1, 1) if separate else (epochs,)
    order: IntArray = np.concatenate([_order(first, last, count, random) for count in counts])

    ends = np.cumsum(lengths[order], dtype=np.int64)
    at = np.arange(total + 1, dtype=np.int64) * seq_length
    documents = np.searchsorted(ends, at, side="right")
    documents[0] = 0
    offsets = at - np.where(documents > 0, ends[documents - 1], 0)
    small = max(len(order), int(lengths.max())) <= np.iinfo(np.int32).max
    begins: IntArray = np.stack([documents, offsets], axis=1).astype(np.int32 if small else np.int64)

    shuffle_dtype = np.uint32 if total < np.iinfo(np.uint32).max - 1 else np.int64
    parts = [np.arange(0, in_whole_epochs if separate else total, dtype=shuffle_dtype)]
    if separate:
        parts.append(np.arange(in_whole_epochs, total, dtype=shuffle_dtype))
    for part in parts:
        random.shuffle(part)
    return SampleIndex(order, begins, np.concatenate(parts), tokens_per_epoch)
