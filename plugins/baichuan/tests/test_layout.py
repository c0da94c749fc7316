"""T0 and T1: the parameter table against the model, splitting, and the published names."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import zoo_baichuan
from zoo_baichuan import BaichuanConfig
from zoo_core.engine.build import Stage, build_layer, from_seed
from zoo_core.layout import objection, pieces, remarks
from zoo_core.testing import contract, shards, tables
from zoo_ops.linear import VocabHead

ARCH = contract.architecture(zoo_baichuan)
MODELS = [entry.name for entry in ARCH.capabilities.models]
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
def test_layout_is_sound(config):
    tables.check_layout(ARCH, config)


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
    tables.check_published(ARCH, name, Path(__file__).parent / "published")


@pytest.mark.parametrize("normalize", [False, True])
def test_the_parts_of_a_split_head_make_the_head(normalize):
    """A rank's rows are whole, so each normalises its own; the last of the four has padding."""
    import paddle

    config = TINY.replace(vocab_size=37, normalize_head=normalize)

    def head(degree, rank):
        stage = Stage(ARCH.table(config), from_seed(3, config, degree, rank), degree, rank)
        return build_layer(ARCH.pipe_layers(config)[-1], stage).lm_head

    x = paddle.randn([2, 3, config.hidden_size])
    parts = [head(4, rank) for rank in range(4)]
    assert all(type(part) is VocabHead and part.normalize is normalize for part in parts)
    logits = paddle.concat([part(x) for part in parts], axis=-1).numpy()
    np.testing.assert_allclose(logits[..., :37], head(1, 0)(x).numpy(), rtol=1e-6, atol=1e-6)
    assert not logits[..., 37:].any()


@pytest.mark.parametrize("heads", [4, 6])
@pytest.mark.parametrize("positions", ["rope", "alibi"])
def test_the_heads_of_two_ranks_attend_as_all_of_them(positions, heads):
    config = TINY.replace(num_attention_heads=heads, position_embedding=positions)
    shards.check_parts(ARCH, config, "baichuan.layers.0.self_attn", 2)
