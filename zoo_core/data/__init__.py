"""Corpora and samples: indexed files, building them from text, packing, blending, batch order. No paddle."""

from __future__ import annotations

from zoo_core.data.corpora import Corpus
from zoo_core.data.find import WeightedPrefix, find_corpora, open_corpus, parse_input_dir
from zoo_core.data.prefetch import prefetched
from zoo_core.data.pretrain import BlendedDataset, PretrainDataset, SampleSource
from zoo_core.data.sampler import (
    IGNORED_LABEL,
    BatchPlan,
    EvalPlan,
    MicroBatch,
    collate,
    eval_batches,
    train_batches,
)
from zoo_core.data.splits import IndexStore, PretrainSplits, build_pretrain_datasets, builds_index

__all__ = [
    "IGNORED_LABEL",
    "BatchPlan",
    "BlendedDataset",
    "Corpus",
    "EvalPlan",
    "IndexStore",
    "MicroBatch",
    "PretrainDataset",
    "PretrainSplits",
    "SampleSource",
    "WeightedPrefix",
    "build_pretrain_datasets",
    "builds_index",
    "collate",
    "eval_batches",
    "find_corpora",
    "open_corpus",
    "parse_input_dir",
    "prefetched",
    "train_batches",
]
