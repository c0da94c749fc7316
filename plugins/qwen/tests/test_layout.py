"""T0 and T1: the parameter table against the model, splitting, and the fused layouts."""

from __future__ import annotations

from pathlib import Path

import pytest

import zoo_qwen
from zoo_core.layout import objection, pieces, remarks
from zoo_core.testing import contract, shards, tables
from zoo_qwen import QwenConfig

ARCH = contract.architecture(zoo_qwen)
MODELS = [entry.name for entry in ARCH.capabilities.models]
TINY = QwenConfig(
    model_type="qwen2",
    vocab_size=101,
    hidden_size=48,
    intermediate_size=24,
    num_hidden_layers=2,
    num_attention_heads=8,
    num_key_value_heads=2,
)
V1 = TINY.replace(model_type="qwen")
QWEN3 = TINY.replace(model_type="qwen3", head_dim=10)
FUSED = {"fuse_attention_qkv": True, "fuse_attention_ffn": True}
CONFIGS = {
    "v1": V1,
    "v1 tied": V1.replace(tie_word_embeddings=True),
    "v1 biases": V1.replace(no_bias=False),
    "v1 fused": V1.replace(no_bias=False, **FUSED),
    "qwen2": TINY,
    "qwen2 tied": TINY.replace(tie_word_embeddings=True),
    "qwen2 fused": TINY.replace(**FUSED),
    "qwen3": QWEN3,
    "qwen3 biases": QWEN3.replace(attention_bias=True),
    "qwen3 fused": QWEN3.replace(attention_bias=True, **FUSED),
}


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_layout_is_sound(config):
    tables.check_layout(ARCH, config)


@pytest.mark.parametrize("name", MODELS)
def test_names_and_shapes_are_the_published_ones(name):
    tables.check_published(ARCH, name, Path(__file__).parent / "published")


@pytest.mark.parametrize(
    ("name", "fuse"),
    [(name, "fuse_attention_qkv") for name in ("qwen2", "qwen3", "qwen3 biases")]
    + [(name, "fuse_attention_ffn") for name in ("v1", "v1 biases", "qwen2", "qwen3")],
)
def test_fused_layout_publishes_the_separate_tensors(name, fuse):
    tables.check_fusing(ARCH, CONFIGS[name], **{fuse: True})


def test_every_degree_up_to_the_query_heads_is_legal_or_says_why():
    table = ARCH.table(TINY)
    for degree in (2, 4, 8):
        assert not any(objection(rule, degree) for rule in table.values())
    assert "8 units" in objection(table["qwen2.layers.0.self_attn.q_proj.weight"], 3)


def test_one_projection_of_v1_splits_by_query_key_and_value():
    c_attn = ARCH.table(V1)["qwen.h.1.attn.c_attn.weight"]
    assert [(piece.start, piece.stop) for piece in pieces(c_attn, 4, 1)] == [(12, 24), (60, 72), (108, 120)]
    assert "8 units" in objection(c_attn, 3)


def test_head_norms_see_some_of_the_heads():
    """Their gradients are partial on every rank, sequence parallelism or not."""
    table = ARCH.table(QWEN3)
    assert table["qwen3.layers.0.self_attn.q_norm.weight"].partial_grad
    assert not table["qwen3.layers.0.input_layernorm.weight"].partial_grad


def test_replicated_heads_and_padded_vocabulary_are_remarked():
    table = ARCH.table(TINY)
    assert "2 times" in remarks(table["qwen2.layers.1.self_attn.k_proj.weight"], 4)
    assert "padded to 104" in remarks(table["qwen2.embed_tokens.weight"], 4)
    assert "padded to 104" in remarks(table["lm_head.weight"], 4)


@pytest.mark.parametrize(("kv_heads", "degree"), [(2, 2), (2, 4), (2, 8), (8, 4), (1, 8), (4, 2)])
def test_the_ranks_heads_of_a_fused_projection_add_up(kv_heads, degree):
    """Queries are told from keys by the width of a shard, also where several ranks hold the same key head."""
    config = TINY.replace(num_key_value_heads=kv_heads, fuse_attention_qkv=True)
    shards.check_parts(ARCH, config, "qwen2.layers.0.self_attn", degree)


@pytest.mark.parametrize("degree", [2, 4, 8])
@pytest.mark.parametrize("name", ["v1 biases", "qwen2", "qwen3 biases"])
def test_the_ranks_heads_add_up_to_the_whole_attention(name, degree):
    """From degree 4 on several ranks of the later generations hold the same key and value."""
    at = "qwen.h.1.attn" if CONFIGS[name].is_v1 else f"{CONFIGS[name].model_type}.layers.1.self_attn"
    shards.check_parts(ARCH, CONFIGS[name], at, degree)
