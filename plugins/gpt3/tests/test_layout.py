"""T0 and T1: the parameter table against the model, splitting, and the fused layout."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import zoo_gpt3
from zoo_core.layout import local_shape, objection, pieces, remarks
from zoo_core.testing import contract, shards, tables
from zoo_gpt3 import GPTConfig

ARCH = contract.architecture(zoo_gpt3)
MODELS = [entry.name for entry in ARCH.capabilities.models]
TINY = GPTConfig(
    vocab_size=101,
    hidden_size=48,
    intermediate_size=24,
    num_hidden_layers=2,
    num_attention_heads=8,
    max_position_embeddings=20,
)
CONFIGS = {
    "separate": TINY,
    "untied": TINY.replace(tie_word_embeddings=False),
    "fused": TINY.replace(fuse_attention_qkv=True),
    "odd heads": TINY.replace(hidden_size=30, num_attention_heads=5, fuse_attention_qkv=True),
}


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_layout_is_sound(config):
    tables.check_layout(ARCH, config)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("fused", [False, True], ids=["separate", "fused"])
def test_names_and_shapes_are_the_published_ones(name, fused):
    tables.check_published(ARCH, name, Path(__file__).parent / "published", fuse_attention_qkv=fused)


def test_fused_layout_publishes_the_same_tensors():
    tables.check_fusing(ARCH, TINY, fuse_attention_qkv=True)


def test_every_degree_up_to_the_heads_is_legal_or_says_why():
    for config in (TINY, CONFIGS["fused"]):
        for degree in (2, 4, 8):
            assert not any(objection(rule, degree) for rule in ARCH.table(config).values())
    assert "8 units" in objection(ARCH.table(TINY)["gpt.decoder.layers.0.self_attn.q_proj.weight"], 3)


def test_fused_projection_splits_by_query_key_and_value():
    qkv = ARCH.table(CONFIGS["fused"])["gpt.decoder.layers.1.self_attn.qkv_proj.weight"]
    assert [(piece.start, piece.stop) for piece in pieces(qkv, 4, 1)] == [(12, 24), (60, 72), (108, 120)]
    assert local_shape(qkv, 4) == (48, 36)


def test_positions_are_whole_and_the_vocabulary_is_padded():
    table = ARCH.table(TINY)
    positions = table["gpt.embeddings.position_embeddings.weight"]
    assert local_shape(positions, 4) == (20, 48) and positions.sequence_parallel_grad
    assert "padded to 104" in remarks(table["gpt.embeddings.word_embeddings.weight"], 4)
    assert "padded to 104" in remarks(table["lm_head.weight"], 4)


@pytest.mark.parametrize("given", [False, True])
def test_each_rank_adds_the_positions_of_its_part_of_the_sequence(given):
    import paddle

    from zoo_gpt3.modeling import GPTEmbeddings
    from zoo_ops import Batch, parallel

    layer = GPTEmbeddings(TINY)
    layer.eval()
    words, look_up = layer.word_embeddings, layer.word_embeddings.forward
    positions = paddle.to_tensor(np.random.default_rng(0).permutation(20)[None, :8]) if given else None
    batch = Batch(paddle.arange(8).unsqueeze(0), position_ids=positions)
    whole = layer(None, batch).numpy()
    try:
        for rank in range(4):
            parallel.configure(parallel.Axis(4, rank), sequence_parallel=True)
            part = slice(2 * rank, 2 * rank + 2)
            words.forward = lambda ids, part=part: look_up(ids)[:, part]
            np.testing.assert_array_equal(layer(None, batch).numpy(), whole[:, part])
    finally:
        parallel.configure()


def test_what_is_added_to_the_residual_starts_smaller():
    from zoo_core.engine.build import initial_values

    table = ARCH.table(TINY)
    stds = {name: initial_values(rule, TINY).std for name, rule in table.items() if name.endswith("weight")}
    layer = "gpt.decoder.layers.1."
    assert stds[layer + "self_attn.out_proj.weight"] == stds[layer + "linear2.weight"] == pytest.approx(0.01)
    assert stds[layer + "linear1.weight"] == stds[layer + "self_attn.q_proj.weight"] == 0.02
    assert initial_values(table[layer + "norm1.weight"], TINY).kind == "ones"


@pytest.mark.parametrize("degree", [2, 8])
@pytest.mark.parametrize("config", [TINY, CONFIGS["fused"]], ids=["separate", "fused"])
def test_the_ranks_heads_add_up_to_the_whole_attention(config, degree):
    shards.check_parts(ARCH, config, "gpt.decoder.layers.1.self_attn", degree)
