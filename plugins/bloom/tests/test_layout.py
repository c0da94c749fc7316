"""T0 and T1: the parameter table against the model, splitting, and what transformers declares for the named models."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import zoo_bloom
from zoo_bloom import BloomConfig
from zoo_core.layout import local_shape, objection, remarks, split
from zoo_core.testing import contract, shards, tables

ARCH = contract.architecture(zoo_bloom)
MODELS = {entry.name: entry.config for entry in ARCH.capabilities.models}
TINY = BloomConfig(vocab_size=101, hidden_size=48, intermediate_size=192, num_hidden_layers=2, num_attention_heads=6)
CONFIGS = {
    "six heads": TINY,
    "five heads": TINY.replace(hidden_size=40, intermediate_size=160, num_attention_heads=5),
    "untied": TINY.replace(tie_word_embeddings=False, num_attention_heads=8),
}


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_layout_is_sound(config):
    tables.check_layout(ARCH, config)


@pytest.mark.parametrize("name", MODELS)
def test_names_and_shapes_are_the_published_ones(name):
    tables.check_published(ARCH, name, Path(__file__).parent / "published")


def test_a_shard_has_query_key_and_value_of_its_heads():
    """In the fused projection each head's three parts lie side by side, so a run of columns is a run of heads."""
    rule = ARCH.table(TINY)["bloom.h.1.self_attention.query_key_value.weight"]
    whole = np.random.default_rng(0).standard_normal(rule.shape, np.float32)
    by_heads = whole.reshape(48, 6, 3, 8)
    for rank in range(3):
        shard = split(whole, rule, 3, rank).reshape(48, 2, 3, 8)
        assert np.array_equal(shard, by_heads[:, 2 * rank : 2 * rank + 2])


@pytest.mark.parametrize(("heads", "degree"), [(6, 2), (6, 3), (12, 4), (5, 5)])
def test_ranks_attend_with_the_biases_of_their_own_heads(heads, degree):
    config = TINY.replace(hidden_size=60, intermediate_size=240, num_attention_heads=heads)
    shards.check_parts(ARCH, config, "bloom.h.0.self_attention", degree)


def test_only_degrees_that_divide_the_heads_are_legal():
    table = ARCH.table(TINY)
    for degree in (2, 3, 6):
        assert not any(objection(rule, degree) for rule in table.values())
    for part in ("query_key_value.weight", "query_key_value.bias", "dense.weight"):
        assert "6 units" in objection(table[f"bloom.h.0.self_attention.{part}"], 4)
    # 176B runs on 8 and 16 cards; 112 heads do not divide over 32.
    large = ARCH.table(MODELS["bigscience/bloom"])
    assert not any(objection(rule, 16) for rule in large.values())
    assert "112 units" in objection(large["bloom.h.0.self_attention.dense.weight"], 32)


def test_padded_vocabulary_is_remarked():
    table = ARCH.table(TINY)
    for name in ("bloom.word_embeddings.weight", "lm_head.weight"):
        assert "padded to 102" in remarks(table[name], 2)
        assert local_shape(table[name], 2) == (51, 48)
