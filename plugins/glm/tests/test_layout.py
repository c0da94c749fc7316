"""T0 and T1: the parameter table against the model, splitting, and what the reference implementations declare."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

import zoo_glm
from zoo_core.layout import Init, local_shape, objection, remarks, split
from zoo_core.testing import contract, tables
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
@pytest.mark.parametrize("degree", [2, 4, 8])
def test_a_rank_has_the_queries_keys_and_values_of_its_heads(config, degree):
    """What the ranks' projections give, put side by side, is what the whole one gives, head for head."""
    import paddle

    from zoo_glm.modeling import GLMAttention

    prefix = "glm.transformer.layers.0.attention.query_key_value."
    table, rng = ARCH.table(config), np.random.default_rng(0)
    weight, bias = (rng.standard_normal(table[prefix + kind].shape, np.float32) for kind in ("weight", "bias"))
    x = rng.standard_normal([2, 3, config.hidden_size], np.float32)
    attention = GLMAttention(config)

    def heads(w: np.ndarray, b: np.ndarray) -> list[np.ndarray]:
        return [part.numpy() for part in attention._heads(paddle.to_tensor(x @ w + b))]

    parts = []
    for rank in range(degree):
        local = [split(a, table[prefix + kind], degree, rank) for kind, a in (("weight", weight), ("bias", bias))]
        assert local[0].shape == local_shape(table[prefix + "weight"], degree)
        parts.append(heads(*local))
    for whole, shards in zip(heads(weight, bias), zip(*parts, strict=True), strict=True):
        assert whole.shape == (2, 3, 8, 6)
        np.testing.assert_allclose(np.concatenate(shards, axis=2), whole, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("config", [TINY, LARGE], ids=["glm", "130b"])
@pytest.mark.parametrize("degree", [2, 4])
def test_what_the_ranks_mlps_give_adds_up(config, degree):
    """A rank has the gates of what it lets through: the sum over the ranks is the whole MLP."""
    import paddle

    from zoo_glm.modeling import GLMMLP

    prefix, rng = "glm.transformer.layers.1.mlp.", np.random.default_rng(0)
    table = {name.removeprefix(prefix): rule for name, rule in ARCH.table(config).items() if name.startswith(prefix)}
    weights = {name: rng.standard_normal(rule.shape, np.float32) * 0.3 for name, rule in table.items()}
    weights["dense_4h_to_h.bias"][:] = 0
    x = paddle.to_tensor(rng.standard_normal([2, 3, config.hidden_size], np.float32))

    def run(rank: int, of: int) -> np.ndarray:
        mlp = GLMMLP(config.replace(intermediate_size=config.intermediate_size // of))
        mlp.eval()
        for name, parameter in mlp.named_parameters():
            parameter.set_value(split(weights[name], table[name], of, rank))
        return mlp(x).numpy()

    np.testing.assert_allclose(sum(run(rank, degree) for rank in range(degree)), run(0, 1), rtol=1e-5, atol=1e-5)


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
