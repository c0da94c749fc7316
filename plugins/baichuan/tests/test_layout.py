"""T0 and T1: the parameter table against the model, splitting, and the published names."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import zoo_baichuan
from zoo_baichuan import BaichuanConfig
from zoo_core.checkpoint.hf import hf_places
from zoo_core.checkpoint.places import stored_shape
from zoo_core.layout import objection, pieces, remarks
from zoo_core.testing import contract, tables

ARCH = contract.architecture(zoo_baichuan)
MODELS = {entry.name: entry.config for entry in ARCH.capabilities.models}
PUBLISHED = json.loads((Path(__file__).parent / "published" / "shapes.json").read_text())
TINY = BaichuanConfig(
    vocab_size=101,
    hidden_size=48,
    intermediate_size=24,
    num_hidden_layers=2,
    num_attention_heads=8,
)
CONFIGS = {
    "rope": TINY,
    "alibi": TINY.replace(position_embedding="alibi"),
    "normalised head": TINY.replace(normalize_head=True),
    "tied": TINY.replace(tie_word_embeddings=True, normalize_head=True),
    "fused": TINY.replace(fuse_attention_ffn=True),
}


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_table_is_sound(config):
    tables.check_table(ARCH, config)


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_model_has_the_parameters_of_the_table(config):
    tables.check_model_matches(ARCH, config)


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_joined_shards_are_the_whole(config):
    tables.check_splits(ARCH, config)


def test_fused_layout_publishes_the_separate_tensors():
    tables.check_fusing(ARCH, TINY, fuse_attention_ffn=True)


def test_each_rank_has_its_heads_of_queries_keys_and_values():
    w_pack = ARCH.table(TINY)["baichuan.layers.1.self_attn.W_pack.weight"]
    assert [(p.start, p.stop, p.offset) for p in pieces(w_pack, 4, 1)] == [(12, 24, 0), (60, 72, 12), (108, 120, 24)]
    assert "8 units" in objection(w_pack, 3)


def test_padded_vocabulary_is_remarked():
    assert "padded to 104" in remarks(ARCH.table(TINY)["lm_head.weight"], 4)


@pytest.mark.parametrize("name", MODELS)
def test_names_and_shapes_are_the_published_ones(name):
    stated = PUBLISHED[name]
    wanted = {}
    for tensor, shape in stated["tensors"].items():
        for layer in range(stated["layers"] if "*" in tensor else 1):
            wanted[tensor.replace("*", str(layer))] = tuple(shape)
    found = {}
    for rule in ARCH.table(MODELS[name]).values():
        for place in hf_places(rule):
            found[place.key] = stored_shape(place)
    assert found == wanted
