"""T0 and T1: the parameter tables against the models, and splitting."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import zoo_chatglm
from zoo_chatglm import ChatGLMConfig
from zoo_core.checkpoint import Reader
from zoo_core.layout import copied, objection, pieces, remarks
from zoo_core.testing import contract, shards, tables
from zoo_ops import Batch

ARCH = contract.architecture(zoo_chatglm)
MODELS = [entry.name for entry in ARCH.capabilities.models]
GOLDEN = Path(__file__).parent / "golden"
V1 = ChatGLMConfig(vocab_size=101, hidden_size=64, intermediate_size=24, num_hidden_layers=2, num_attention_heads=8)
V2 = V1.replace(version=2, num_key_value_heads=2)
CONFIGS = {
    "v1": V1,
    "v1 tied": V1.replace(tie_word_embeddings=True),
    "v2": V2,
    "v2 tied": V2.replace(tie_word_embeddings=True),
    "v2 biases": V2.replace(add_bias_linear=True, add_qkv_bias=False),
    "v2 no biases": V2.replace(add_qkv_bias=False),
    "v2 one group": V2.replace(num_key_value_heads=1, head_dim=12),
}


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_layout_is_sound(config):
    tables.check_layout(ARCH, config)


def test_every_degree_up_to_the_query_heads_is_legal_or_says_why():
    for config in (V1, V2):
        table = ARCH.table(config)
        for degree in (2, 4, 8):
            assert not any(objection(rule, degree) for rule in table.values())
        assert any("8 units" in objection(rule, 3) for rule in table.values())


def test_one_projection_of_v1_splits_by_heads():
    """A head's query, key and value lie side by side, 8 features each."""
    qkv = ARCH.table(V1)["chatglm.transformer.layers.1.attention.query_key_value.weight"]
    assert [(piece.start, piece.stop) for piece in pieces(qkv, 4, 1)] == [(48, 96)]


def test_more_ranks_than_groups_share_a_group():
    """Two groups on four ranks: ranks 0 and 1 hold the first key and value, and sum their gradients."""
    qkv = ARCH.table(V2)["chatglm_v2.encoder.layers.1.self_attention.query_key_value.weight"]
    assert [(piece.start, piece.stop) for piece in pieces(qkv, 4, 1)] == [(16, 32), (64, 72), (80, 88)]
    assert [(piece.start, piece.stop) for piece in pieces(qkv, 4, 2)] == [(32, 48), (72, 80), (88, 96)]
    assert copied(qkv, 4, 2) == ((16, 24, 2), (24, 32, 2))
    assert "2 units on 4 ranks: each held 2 times" in remarks(qkv, 4)


def test_gate_and_up_split_each_by_itself():
    fused = ARCH.table(V2)["chatglm_v2.encoder.layers.0.mlp.dense_h_to_4h.weight"]
    assert [(piece.start, piece.stop) for piece in pieces(fused, 2, 1)] == [(12, 24), (36, 48)]


def test_padded_vocabulary_is_remarked():
    assert "padded to 104" in remarks(ARCH.table(V1)["chatglm.transformer.word_embeddings.weight"], 4)
    assert "padded to 104" in remarks(ARCH.table(V2)["chatglm_v2.output_layer.weight"], 4)


@pytest.mark.parametrize("name", MODELS)
def test_names_and_shapes_are_the_published_ones(name):
    tables.check_published(ARCH, name, Path(__file__).parent / "published")


@pytest.mark.parametrize("case", ["chatglm1_gmask", "chatglm2_groups"])
def test_published_rotary_tables_are_no_strangers(case, tmp_path):
    config = ChatGLMConfig.from_hf(json.loads((GOLDEN / case / "config.json").read_text()))
    tensors = load_file(GOLDEN / case / "model.safetensors")
    tensors["transformer.rotary_pos_emb.inv_freq"] = np.ones(2, np.float32)
    tensors["transformer.layers.0.attention.rotary_emb.inv_freq"] = np.ones(2, np.float32)
    save_file(tensors, tmp_path / "model.safetensors")
    with Reader(tmp_path, ARCH.table(config)) as reader:
        assert reader.check() == ()


def test_files_without_the_second_copy_of_the_embedding_load(tmp_path):
    """The published files of v1 hold it as `lm_head.weight` too; what transformers saves of a tied model does not."""
    case = GOLDEN / "chatglm1_gmask"
    table = ARCH.table(ChatGLMConfig.from_hf(json.loads((case / "config.json").read_text())))
    tensors = load_file(case / "model.safetensors")
    assert np.array_equal(tensors.pop("lm_head.weight"), tensors["transformer.word_embeddings.weight"])
    save_file(tensors, tmp_path / "model.safetensors")
    with Reader(tmp_path, table) as reader:
        assert reader.check() == ()
        head = reader.read_local("lm_head.weight")
    assert np.array_equal(head, tensors["transformer.word_embeddings.weight"])


@pytest.mark.parametrize(
    ("config", "degree"),
    [(V1.replace(bos_token_id=5, gmask_token_id=4), degree) for degree in (2, 4, 8)]
    + [(V2.replace(num_key_value_heads=g), n) for g, n in ((2, 2), (2, 4), (2, 8), (8, 4), (1, 8), (4, 2))],
)
def test_shards_of_attention_add_up(config, degree):
    """Each rank's heads by themselves; a group of ChatGLM2's may be held by several ranks."""
    import paddle

    ids = paddle.to_tensor([[7, 8, 4, 5, 9, 10, 11, 12, 13], [7, 8, 9, 10, 11, 12, 4, 5, 13]])
    at = "chatglm.transformer.layers.0.attention" if config.is_v1 else "chatglm_v2.encoder.layers.0.self_attention"
    shards.check_parts(ARCH, config, at, degree, lambda layer, x: layer(x, Batch(ids)))
