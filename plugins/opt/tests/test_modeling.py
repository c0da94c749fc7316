"""T1: where dropout acts, and what is refused at run time."""

from __future__ import annotations

import numpy as np
import paddle
import pytest

import zoo_opt
from zoo_core.errors import ConfigError
from zoo_core.testing import contract, models
from zoo_ops import Batch, Dropout
from zoo_opt.modeling import OptBlock

ARCH = contract.architecture(zoo_opt)
MODELS = {entry.name: entry.config for entry in ARCH.capabilities.models}
TINY = MODELS["facebook/opt-125m"].replace(**ARCH.capabilities.scales["tiny"])


@pytest.mark.parametrize("norm_first", [True, False], ids=["norms first", "norms last"])
def test_dropout_acts_on_what_attention_and_mlp_add(norm_first):
    from zoo_ops.dropout import keep_mask

    block = OptBlock(TINY.replace(hidden_dropout_prob=0.25, do_layer_norm_before=norm_first))
    block.dropout1.name_, block.dropout2.name_ = "one", "two"
    x, batch = paddle.randn([2, 5, TINY.hidden_size]), Batch(paddle.zeros([2, 5], dtype="int64"))
    kept = [keep_mask(name, x.shape, 0.25).astype("float32") / 0.75 for name in ("one", "two")]

    def mlp(y):
        return block.linear2(paddle.nn.functional.relu(block.linear1(y)))

    if norm_first:
        wanted = x + kept[0] * block.self_attn(block.norm1(x), batch)
        wanted = wanted + kept[1] * mlp(block.norm2(wanted))
    else:
        wanted = block.norm1(x + kept[0] * block.self_attn(x, batch))
        wanted = block.norm2(wanted + kept[1] * mlp(wanted))
    np.testing.assert_allclose(block(x, batch).numpy(), wanted.numpy(), rtol=1e-5, atol=1e-6)


def test_every_dropout_is_one_of_the_engine_and_follows_the_configuration():
    model = ARCH.build_model(TINY.replace(attention_probs_dropout_prob=0.05))
    assert not [layer for layer in model.sublayers() if type(layer) is paddle.nn.Dropout]
    found = sorted((layer.p, layer.inside) for layer in model.sublayers() if isinstance(layer, Dropout))
    assert found == [(0.05, True)] * 4 + [(0.1, False)] * 8


@pytest.mark.parametrize("name", ["hidden_dropout_prob", "attention_probs_dropout_prob"])
def test_each_dropout_acts_in_training_and_not_in_evaluation(name):
    ids, weights = models.random_ids(TINY, 2, 8), models.random_weights(ARCH.table(TINY))
    none = TINY.replace(hidden_dropout_prob=0.0)
    model, plain = (models.build(ARCH, config, weights) for config in (none.replace(**{name: 0.2}), none))
    wanted, trained = plain(Batch(ids)).logits.numpy(), model(Batch(ids)).logits.numpy()
    assert np.abs(trained - wanted).max() > 1e-2
    model.eval()
    assert np.array_equal(model(Batch(ids)).logits.numpy(), wanted)


def test_a_sequence_longer_than_the_positions_is_refused():
    model = ARCH.build_model(TINY.replace(max_position_embeddings=6))
    assert model(Batch(paddle.zeros([1, 6], dtype="int64"))).logits.shape == [1, 6, 512]
    with pytest.raises(ConfigError, match="position 6 is beyond the model's 6"):
        model(Batch(paddle.zeros([1, 7], dtype="int64")))


def test_a_given_position_beyond_the_table_is_refused():
    model = ARCH.build_model(TINY.replace(max_position_embeddings=6))
    model.eval()
    ids = paddle.zeros([1, 1], dtype="int64")
    assert model(Batch(ids, position_ids=ids + 5)).logits.shape == [1, 1, 512]
    with pytest.raises(ConfigError, match="position 6 is beyond the model's 6"):
        model(Batch(ids, position_ids=ids + 6))


def test_packed_samples_count_from_0_each():
    embeddings = ARCH.build_model(TINY).opt.embeddings
    segments = paddle.to_tensor([[3, 3, 3, 7, 7, 0, 0]])
    mask = paddle.to_tensor([[0, 1, 1, 1, 1, 0, 0]])
    ids = paddle.zeros_like(segments)
    assert embeddings._positions(Batch(ids, segment_ids=segments), 0).tolist() == [[0, 1, 2, 0, 1, 0, 1]]
    padded = Batch(ids, segment_ids=segments, attention_mask=mask)
    assert embeddings._positions(padded, 0).tolist() == [[-1, 0, 1, 0, 1, -1, -1]]


def test_under_sequence_parallelism_positions_are_those_of_the_part(monkeypatch):
    """The words of a rank are its part of the sequence; so must the positions be, whatever says where they are."""
    from zoo_opt import modeling

    embeddings = ARCH.build_model(TINY).opt.embeddings
    ids = models.random_ids(TINY, 2, 8)
    mask = paddle.ones([2, 8], dtype="int64")
    mask[1, :3] = 0
    for batch in (Batch(ids), Batch(ids, attention_mask=mask), Batch(ids, position_ids=ids % 7)):
        whole = embeddings(None, batch).numpy()
        words = embeddings.word_embeddings
        monkeypatch.setattr(modeling, "sequence_shard", lambda length: (4, 8))
        embeddings.word_embeddings = _Part(words)
        assert np.array_equal(embeddings(None, batch).numpy(), whole[:, 4:])
        embeddings.word_embeddings = words
        monkeypatch.undo()


class _Part(paddle.nn.Layer):
    """An embedding whose output is the second half of the sequence."""

    def __init__(self, words):
        super().__init__()
        self.words = words

    def forward(self, ids):
        return self.words(ids)[:, 4:]
