"""Samples for pretraining: token ids packed across documents, and several such datasets mixed.

Shapes: S tokens of a sample (`seq_length`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

from zoo_core.data.corpora import Corpus
from zoo_core.data.index_cache import Arrays
from zoo_core.data.sample_index import SampleIndex
from zoo_core.errors import DataError

__all__ = ["BlendedDataset", "PretrainDataset", "Sample", "SampleSource"]

Sample = dict[str, npt.NDArray[np.int64]]


class SampleSource(Protocol):
    """Anything that serves numbered samples: `input_ids` and `labels`, int64 [S], labels[t] following input_ids[t]."""

    samples_per_epoch: float

    def __len__(self) -> int: ...

    def __getitem__(self, number: int) -> Sample: ...


class PretrainDataset:
    """One split of one corpus.

    Args:
        corpus: the token ids.
        index: which tokens make which sample.
        seq_length: S.
        vocab_size: ids at or above it are refused when they are met; None does not look.

    Raises:
        DataError: the corpus holds no integers.
    """

    def __init__(self, corpus: Corpus, index: SampleIndex, seq_length: int, vocab_size: int | None = None) -> None:
        if corpus.dtype.kind not in "iu":
            raise DataError(f"{corpus.prefix} holds {corpus.dtype}", "token ids are integers", "give a corpus of text")
        self.corpus, self.index, self.seq_length, self.vocab_size = corpus, index, seq_length, vocab_size
        self.samples_per_epoch = index.tokens_per_epoch / seq_length

    def __len__(self) -> int:
        """Return the number of samples that the index has, at least those asked for."""
        return len(self.index)

    def tokens(self, number: int) -> npt.NDArray[np.int64]:
        """Return the tokens of sample `number`, int64 [S + 1].

        Raises:
            DataError: an id does not fit the vocabulary.
        """
        at = int(self.index.shuffle[number])
        (document, offset), (last, last_offset) = self.index.begins[at : at + 2].tolist()
        parts = []
        for place in range(document, last + 1):
            sequence = int(self.index.order[place])
            begin = int(self.corpus.starts[sequence]) + (offset if place == document else 0)
            end = int(self.corpus.starts[sequence]) + last_offset + 1 if place == last else None
            parts.append(self.corpus.tokens[begin : self.corpus.starts[sequence + 1] if end is None else end])
        tokens = np.concatenate(parts).astype(np.int64)
        if self.vocab_size is not None and not 0 <= int(tokens.min()) <= int(tokens.max()) < self.vocab_size:
            wrong = int(tokens.max()) if int(tokens.max()) >= self.vocab_size else int(tokens.min())
            raise DataError(
                f"{self.corpus.prefix} has the token id {wrong}",
                f"the model's vocabulary has {self.vocab_size} (sample {number})",
                "build the corpus with the tokenizer of this model",
            )
        return tokens

    def __getitem__(self, number: int) -> Sample:
        """Return `input_ids` int64 [S] and `labels` int64 [S], the ids one further on."""
        tokens = self.tokens(number)
        return {"input_ids": tokens[:-1], "labels": tokens[1:]}


class BlendedDataset:
    """Several datasets mixed by weight; `order` says which sample of which (see `blend_order`)."""

    def __init__(self, parts: Sequence[PretrainDataset | None], order: Arrays) -> None:
        self.parts, self.order = parts, order
        self.samples_per_epoch = math.fsum(part.samples_per_epoch for part in parts if part is not None)

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self.order["corpus"])

    def __getitem__(self, number: int) -> Sample:
        """Return `input_ids` int64 [S] and `labels` int64 [S] of sample `number`."""
        part = self.parts[int(self.order["corpus"][number])]
        assert part is not None, "a corpus without samples is never in the order"
        return part[int(self.order["sample"][number])]
