"""T0 and T1: the parameter table against the model, splitting, and what the reference implementations declare."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

import zoo_glm
from zoo_core.layout import Init, objection, remarks
from zoo_core.testing import contract, shards, tables
from zoo_glm import GLMConfig

ARCH = contract.architecture(zoo_glm)
MODELS = [entry.name for entry in ARCH.capabilities.models]
TINY = GLMConfig(vocab_size=101, hidden_size=48, intermediate_size=192, num_hidden_layers=2, num_attention_heads=8)
LARGE = TINY.replace(model_type="glm-130b", intermediate_size=24)
CONFIGS = {
    "glm": TINY,
    "glm five heads": TINY.replace(hidden_size=40, intermediate_size=160, num_attention_heads=5),
    "130b": LARGE,
    "130b three heads": LARGE.replace(num_attention_heads=3),
}


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_layout_is_sound(config):
    tables.check_layout(ARCH, config)


@pytest.mark.parametrize("name", MODELS)
def test_names_and_shapes_are_the_published_ones(name):
    tables.check_published(ARCH, name, Path(__file__).parent / "published")


def test_degrees_that_divide_the_heads_are_legal_and_others_say_why():
    for config in (TINY, LARGE):
        table = ARCH.table(config)
        for degree in (2, 4, 8):
            assert not any(objection(rule, degree) for rule in table.values())
        assert "8 units" in objection(table["glm.transformer.layers.0.attention.query_key_value.weight"], 3)
    assert "padded to 104" in remarks(ARCH.table(TINY)["glm.word_embeddings.weight"], 4)


def test_what_writes_to_the_residual_starts_smaller():
    table = ARCH.table(TINY)
    for name in ("attention.dense", "mlp.dense_4h_to_h"):
        wanted = Init("normal", TINY.initializer_range / math.sqrt(4))
        assert table[f"glm.transformer.layers.1.{name}.weight"].init == wanted
        assert table[f"glm.transformer.layers.1.{name}.bias"].init is None
    plain = ARCH.table(TINY.replace(use_scaled_init_for_output_weights=False))
    assert all(rule.init is None for rule in plain.values())


@pytest.mark.parametrize("config", [TINY, LARGE], ids=["glm", "130b"])
@pytest.mark.parametrize("degree", [2, 4])
def test_what_the_ranks_give_adds_up(config, degree):
    """A rank has its heads, and the gates of what it lets through."""
    block = "glm.transformer.layers.1."
    shards.check_parts(ARCH, config, block + "attention", degree)
    shards.check_parts(ARCH, config, block + "mlp", degree, lambda layer, x: layer(x))


@pytest.mark.parametrize("degree", [2, 3])
def test_positions_are_added_to_the_ranks_part_of_the_sequence(degree):
    """Under sequence parallelism a rank holds [B, S / degree, H] between blocks."""
    import paddle

    from zoo_glm.modeling import GLMFirstBlock
    from zoo_ops import Batch, parallel

    config = TINY.replace(vocab_size=20, start_token_id=6, mask_token_ids=(3, 4, 5), embedding_dropout_prob=0.0)
    layer, rng = GLMFirstBlock(config), np.random.default_rng(0)
    batch = Batch(paddle.to_tensor(rng.integers(0, 20, [2, 12])))
    x = paddle.to_tensor(rng.standard_normal([2, 12, 48], np.float32))
    whole, part = layer.add_positions(x, batch, None).numpy(), 12 // degree
    try:
        for rank in range(degree):
            parallel.configure(parallel.Axis(degree, rank), sequence_parallel=True)
            shard = layer.add_positions(x[:, rank * part : (rank + 1) * part], batch, None).numpy()
            assert np.array_equal(shard, whole[:, rank * part : (rank + 1) * part])
    finally:
        parallel.configure()
