"""T1: decoding with a cache gives what one pass over the whole sequence gives; positions end with the table."""

from __future__ import annotations

import pytest

import zoo_gpt3
from zoo_core.errors import ConfigError
from zoo_core.testing import caches, contract

ARCH = contract.architecture(zoo_gpt3)
MODELS = {entry.name: entry.config for entry in ARCH.capabilities.models}
TINY = MODELS["gpt2-medium-en"].replace(**ARCH.capabilities.scales["tiny"])


@pytest.mark.parametrize("fused", [False, True], ids=["separate", "fused"])
@pytest.mark.parametrize("padding", [0, 3], ids=["full", "left-padded"])
def test_cached_decoding_is_the_uncached_pass(padding, fused, zoo_evidence):
    zoo_evidence("gpt3", "generation", tier="T1")
    caches.check_cache(ARCH, TINY.replace(fuse_attention_qkv=fused), padding)


def test_scaled_scores_decode_alike():
    caches.check_cache(ARCH, TINY.replace(scale_qk_by_layer_num=True), 3)


def test_the_last_position_of_the_table_is_reached():
    caches.check_cache(ARCH, TINY.replace(max_position_embeddings=12), length=12)


@pytest.mark.parametrize("padding", [0, 3])
def test_a_position_beyond_the_table_is_refused(padding):
    with pytest.raises(ConfigError, match="position 11 is beyond the model's 11"):
        caches.check_cache(ARCH, TINY.replace(max_position_embeddings=11), padding, length=12)


@pytest.mark.parametrize("positions", [None, list(range(12))], ids=["counted", "given"])
@pytest.mark.parametrize("training", [True, False])
def test_a_sequence_longer_than_the_table_is_refused(training, positions):
    import paddle

    from zoo_ops import Batch

    model = ARCH.build_model(TINY.replace(max_position_embeddings=11))
    model.train() if training else model.eval()
    given = None if positions is None else paddle.to_tensor([positions])
    with pytest.raises(ConfigError, match="max_seq_length"):
        model(Batch(paddle.zeros([1, 12], "int64"), position_ids=given))


def test_packed_samples_may_be_longer_than_the_table_together():
    import paddle

    from zoo_ops import Batch

    model = ARCH.build_model(TINY.replace(max_position_embeddings=6))
    positions = paddle.to_tensor([[*range(6), *range(6)]])
    segments = paddle.to_tensor([[0] * 6 + [1] * 6])
    assert model(Batch(paddle.zeros([1, 12], "int64"), positions, segments)).logits.shape == [1, 12, 512]


def test_packed_samples_count_from_0_each():
    import numpy as np
    import paddle

    from zoo_core.testing import models
    from zoo_ops import Batch

    model = models.build(ARCH, TINY, models.random_weights(ARCH.table(TINY)))
    model.eval()
    first, second = models.random_ids(TINY, 1, 4), models.random_ids(TINY, 1, 5, seed=1)
    segments = paddle.to_tensor([[1] * 4 + [2] * 5])
    packed = model(Batch(paddle.concat([first, second], axis=1), segment_ids=segments)).logits.numpy()
    alone = np.concatenate([model(Batch(ids)).logits.numpy() for ids in (first, second)], axis=1)
    np.testing.assert_allclose(packed, alone, rtol=1e-5, atol=1e-5)
