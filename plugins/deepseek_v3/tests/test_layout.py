"""T0 and T1: the parameter table against the model, splitting, and the published names."""

from __future__ import annotations

from pathlib import Path

import pytest

import zoo_deepseek_v3
from zoo_core.layout import Init, local_shape, objection, remarks
from zoo_core.testing import contract, shards, tables
from zoo_deepseek_v3 import DeepseekV3Config

ARCH = contract.architecture(zoo_deepseek_v3)
TINY = DeepseekV3Config(
    vocab_size=101,
    hidden_size=24,
    intermediate_size=40,
    num_hidden_layers=3,
    num_attention_heads=6,
    kv_lora_rank=10,
    q_lora_rank=14,
    qk_nope_head_dim=6,
    qk_rope_head_dim=4,
    v_head_dim=8,
    moe_intermediate_size=12,
    n_routed_experts=8,
    num_experts_per_tok=3,
    n_group=4,
    topk_group=2,
    first_k_dense_replace=1,
    num_nextn_predict_layers=1,
)
CONFIGS = {
    "prediction": TINY,
    "no_prediction": TINY.replace(num_nextn_predict_layers=0),
    "no_q_lora": TINY.replace(q_lora_rank=None),
    "tied": TINY.replace(tie_word_embeddings=True),
    "every_other": TINY.replace(moe_layer_freq=2, num_hidden_layers=5, n_shared_experts=2),
    "no_shared": TINY.replace(n_shared_experts=None, first_k_dense_replace=0),
    "dense": TINY.replace(n_routed_experts=None),
}


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_layout_is_sound(config):
    tables.check_layout(ARCH, config)


@pytest.mark.parametrize("name", ["deepseek-ai/DeepSeek-V3", "deepseek-ai/DeepSeek-V3-Base"])
def test_names_and_shapes_are_the_published_ones(name):
    tables.check_published(ARCH, name, Path(__file__).parent / "published")


def test_every_degree_up_to_the_heads_is_legal_or_says_why():
    table = ARCH.table(TINY)
    for degree in (2, 3):
        by_heads = [name for name, rule in table.items() if "self_attn" in name and rule.dim is not None]
        assert len(by_heads) == 3 * 4
        assert not any(objection(table[name], degree) for name in by_heads)
    assert "6 units" in objection(table["deepseek_v3.layers.0.self_attn.kv_b_proj.weight"], 4)
    assert "12 units" in objection(table["deepseek_v3.layers.1.mlp.experts.7.gate_proj.weight"], 5)


def test_latents_are_whole_on_every_rank_and_the_vocabulary_is_padded():
    table = ARCH.table(TINY)
    for name in ("q_a_proj", "kv_a_proj_with_mqa"):
        rule = table[f"deepseek_v3.layers.3.self_attn.{name}.weight"]
        assert local_shape(rule, 2) == rule.shape
    assert "padded to 102" in remarks(table["deepseek_v3.layers.3.embed_tokens.weight"], 2)


def test_an_expert_knows_its_number_and_a_router_starts_even():
    table = ARCH.table(TINY)
    assert table["deepseek_v3.layers.3.mlp.experts.5.up_proj.weight"].expert == 5
    assert table["deepseek_v3.layers.3.mlp.shared_experts.up_proj.weight"].expert is None
    assert table["deepseek_v3.layers.3.mlp.gate.e_score_correction_bias"].init == Init("zeros")


def test_copies_of_the_prediction_are_tied():
    table, tied = ARCH.table(TINY), ARCH.table(CONFIGS["tied"])
    assert table["deepseek_v3.layers.3.embed_tokens.weight"].single == "deepseek_v3.embed_tokens.weight"
    assert table["deepseek_v3.layers.3.shared_head.head.weight"].single == "lm_head.weight"
    assert tied["deepseek_v3.layers.3.shared_head.head.weight"].single == "deepseek_v3.embed_tokens.weight"


@pytest.mark.parametrize("steps", [(9,), (5, 1, 3)], ids=["one pass", "cached"])
@pytest.mark.parametrize("degree", [2, 3])
def test_the_ranks_heads_add_up_to_the_whole_attention(degree, steps):
    """In the pass that makes keys and in those that never do."""
    import paddle

    from zoo_ops import Batch, LayerCache

    def attend(layer, x):
        cache, outs = LayerCache(2, 9) if len(steps) > 1 else None, []
        for part in paddle.split(x, steps, axis=1):
            outs.append(layer(part, Batch(paddle.zeros(part.shape[:2], "int64")), cache))
        return paddle.concat(outs, axis=1)

    shards.check_parts(ARCH, TINY, "deepseek_v3.layers.2.self_attn", degree, attend)
