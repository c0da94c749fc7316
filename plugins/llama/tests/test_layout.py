"""T0 and T1: the parameter table against the model, splitting, and the fused layouts."""

from __future__ import annotations

from pathlib import Path

import pytest

import zoo_llama
from zoo_core.layout import objection, remarks
from zoo_core.testing import contract, shards, tables
from zoo_llama import LlamaConfig

ARCH = contract.architecture(zoo_llama)
MODELS = [entry.name for entry in ARCH.capabilities.models]
TINY = LlamaConfig(
    vocab_size=101,
    hidden_size=48,
    intermediate_size=24,
    num_hidden_layers=2,
    num_attention_heads=8,
    num_key_value_heads=2,
)
CONFIGS = {
    "grouped": TINY,
    "tied": TINY.replace(tie_word_embeddings=True),
    "biases": TINY.replace(attention_bias=True, mlp_bias=True, head_dim=10),
    "fused": TINY.replace(fuse_attention_qkv=True, fuse_attention_ffn=True),
    "fused biases": TINY.replace(
        fuse_attention_qkv=True, fuse_attention_ffn=True, attention_bias=True, mlp_bias=True, head_dim=10
    ),
}


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_layout_is_sound(config):
    tables.check_layout(ARCH, config)


@pytest.mark.parametrize("name", MODELS)
def test_names_and_shapes_are_the_published_ones(name):
    tables.check_published(ARCH, name, Path(__file__).parent / "published")


@pytest.mark.parametrize("fuse", ["fuse_attention_qkv", "fuse_attention_ffn"])
@pytest.mark.parametrize("config", [CONFIGS["grouped"], CONFIGS["biases"]], ids=["grouped", "biases"])
def test_fused_layout_publishes_the_separate_tensors(config, fuse):
    tables.check_fusing(ARCH, config, **{fuse: True})


def test_every_degree_up_to_the_query_heads_is_legal_or_says_why():
    table = ARCH.table(TINY)
    for degree in (2, 4, 8):
        assert not any(objection(rule, degree) for rule in table.values())
    assert "8 units" in objection(table["llama.layers.0.self_attn.q_proj.weight"], 3)


def test_replicated_heads_and_padded_vocabulary_are_remarked():
    table = ARCH.table(TINY)
    assert "2 times" in remarks(table["llama.layers.1.self_attn.k_proj.weight"], 4)
    assert "padded to 104" in remarks(table["llama.embed_tokens.weight"], 4)
    assert "padded to 104" in remarks(table["lm_head.weight"], 4)


@pytest.mark.parametrize(("kv_heads", "degree"), [(2, 2), (2, 4), (2, 8), (8, 4), (1, 8), (4, 2)])
def test_the_ranks_heads_of_a_fused_projection_add_up(kv_heads, degree):
    """Queries are told from keys by the width of a shard, also where several ranks hold the same key head."""
    config = TINY.replace(num_key_value_heads=kv_heads, fuse_attention_qkv=True)
    shards.check_parts(ARCH, config, "llama.layers.0.self_attn", degree)


@pytest.mark.parametrize("degree", [2, 4, 8])
@pytest.mark.parametrize("name", ["grouped", "biases"])
def test_the_ranks_heads_add_up_to_the_whole_attention(name, degree):
    """From degree 4 on several ranks hold the same key and value."""
    shards.check_parts(ARCH, CONFIGS[name], "llama.layers.1.self_attn", degree)
