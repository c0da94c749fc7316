"""T1: where GPT drops out, and that it does so while training only."""

from __future__ import annotations

import numpy as np
import paddle
import pytest

import zoo_gpt3
from zoo_core.testing import contract, models
from zoo_ops import Batch, Dropout, set_dropout_state
from zoo_ops.dropout import keep_mask

ARCH = contract.architecture(zoo_gpt3)
MODELS = {entry.name: entry.config for entry in ARCH.capabilities.models}
TINY = MODELS["gpt3-345M"].replace(
    **{**ARCH.capabilities.scales["tiny"], "num_hidden_layers": 2},
    hidden_dropout_prob=0.2,
    attention_probs_dropout_prob=0.3,
)
IDS = models.random_ids(TINY, 2, 12)


@pytest.fixture(autouse=True)
def clean():
    set_dropout_state(7, 3)
    yield
    set_dropout_state(0, 0)


def make(**changes):
    """A model whose dropouts are named as the engine names them."""
    config = TINY.replace(**changes)
    model = models.build(ARCH, config, models.random_weights(ARCH.table(config)))
    for name, layer in model.named_sublayers():
        if isinstance(layer, Dropout):
            layer.name_ = name
    return model


def test_every_place_has_its_probability_and_its_side_of_the_projections():
    found = {name: (x.p, x.inside) for name, x in make().named_sublayers() if isinstance(x, Dropout)}
    block = {"self_attn.dropout": (0.3, True), "dropout1": (0.2, False), "dropout2": (0.2, False)}
    wanted = {f"gpt.decoder.layers.{i}.{name}": facts for i in range(2) for name, facts in block.items()}
    assert found == {"gpt.embeddings.dropout": (0.2, False), **wanted}


def test_nothing_is_dropped_in_evaluation():
    model, plain = make(), make(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    model.eval()
    np.testing.assert_array_equal(model(Batch(IDS)).logits.numpy(), plain(Batch(IDS)).logits.numpy())


def test_each_place_drops_by_the_mask_of_its_name():
    model = make(attention_probs_dropout_prob=0.0)
    embeddings, block, batch = model.gpt.embeddings, model.gpt.decoder.layers[1], Batch(IDS)

    def dropped(x, name):
        return x * keep_mask(name, x.shape, 0.2).astype("float32") / 0.8

    words = embeddings.word_embeddings(IDS) + embeddings.position_embeddings(paddle.arange(12).unsqueeze(0))
    x = embeddings(None, batch)
    np.testing.assert_allclose(x.numpy(), dropped(words, "gpt.embeddings.dropout").numpy(), atol=1e-6)
    name = "gpt.decoder.layers.1."
    middle = x + dropped(block.self_attn(block.norm1(x), batch), name + "dropout1")
    wide = paddle.nn.functional.gelu(block.linear1(block.norm2(middle)), approximate=True)
    wanted = middle + dropped(block.linear2(wide), name + "dropout2")
    np.testing.assert_allclose(block(x, batch).numpy(), wanted.numpy(), atol=1e-5)


@pytest.mark.parametrize("changes", [{"hidden_dropout_prob": 0.0}, {"attention_probs_dropout_prob": 0.0}], ids=str)
def test_each_kind_acts_and_follows_the_step(changes):
    model, seen = make(**changes), []
    for step in (3, 4, 3):
        set_dropout_state(7, step)
        seen.append(model(Batch(IDS)).logits.numpy())
    plain = make(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)(Batch(IDS)).logits.numpy()
    assert np.abs(seen[0] - plain).max() > 1e-2 and np.abs(seen[1] - seen[0]).max() > 1e-2
    np.testing.assert_array_equal(seen[2], seen[0])
